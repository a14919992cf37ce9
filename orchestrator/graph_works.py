"""What nodes can do: the works of every role, with what each takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# What every node's output has, whatever it does.
COMMON = ("status", "reason", "green", "certified", "files", "explanation", "attempts")

# What `$task` has.
TASK_FIELDS = ("id", "goal", "model", "review", "tests", "protect")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one work takes and gives.

    Attributes:
        takes: Inputs that a node may give it.
        required: Those of them that it cannot do without.
        gives: Fields of its output beside the common ones.
        needs_patch: It works on another node's patch and cannot do without one.
    """

    takes: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    needs_patch: bool = False


# By role, its works; the first is the role's usual one.
WORKS: Mapping[str, Mapping[str, Work]] = {
    "run": {
        "test": Work(),
        "profile": Work(gives=("profile", "failing")),
        "confirm": Work(takes=("profile",), required=("profile",)),
        "verify": Work(),
        "certify": Work(takes=("profile", "profiles"), needs_patch=True),
        "analyse": Work(
            gives=("python", "javascript", "failing", "profile", "javascript_profile", "profiles")
        ),
        "admit": Work(takes=("profile", "tests", "calls"), gives=("added", "strength"), needs_patch=True),
        "scan": Work(takes=("fail_on",), gives=("findings", "dependencies"), needs_patch=True),
        "check": Work(gives=("profile", "failing", "packages")),
        "accept": Work(takes=("profile",)),
        "quality": Work(
            takes=("minimum", "fail_on"),
            gives=("score", "quality", "security", "maintainability", "findings"),
        ),
        "form": Work(takes=("line_length",), gives=("changed",)),
        "layers": Work(takes=("order",), required=("order",), gives=("findings",)),
        "serve": Work(
            takes=("profile", "app", "command", "health", "openapi", "timeout_s", "required"),
            gives=("service",),
        ),
    },
    "release": {"release": Work(takes=("part", "pr_number"), gives=("version",), needs_patch=True)},
    "plan": {
        "structure": Work(takes=("requirements",), gives=("plan", "project", "paths", "dependencies")),
        "requirements": Work(gives=("requirements", "service")),
    },
    "code": {
        "story": Work(),
        "write": Work(takes=("plan", "part", "ask", "requirements"), gives=("missing",)),
    },
    "test": {
        "write": Work(takes=("profile",), gives=("tests", "calls")),
        "goal": Work(takes=("plan", "ask", "requirements"), gives=("missing",)),
    },
    "review": {"review": Work(needs_patch=True)},
}

REPAIR_LOOP = Work(takes=("profile", "checked"), gives=("failing", "profile"))
SELECT = Work(takes=("profile", "profiles"), gives=("chosen", "failing"))
