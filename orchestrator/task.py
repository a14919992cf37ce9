"""What was asked: a goal in words or a snapshot with failing tests, and what it may cost."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import EngineMissing, TaskError
from orchestrator.plan import PlanWhen
from orchestrator.steps import Allowance, Usage
from orchestrator.verdict import JudgeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Hard limits of one run; 0 tokens, GPU seconds or dollars are no limit."""

    attempts: int = 5
    wall_s: float = 900.0
    search_cpu_s: float = 60.0
    test_timeout_s: float = 300.0
    tokens: int = 0
    gpu_s: float = 0.0
    cost_usd: float = 0.0


def allowance_of(budget: Budget, spent: Usage) -> Allowance:
    """What engines may still cost a run under `budget` that has `spent` so much."""
    whole = Allowance(
        tokens=budget.tokens or None, gpu_s=budget.gpu_s or None, cost_usd=budget.cost_usd or None
    )
    return whole.after(spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Which agents take part beside those that a graph needs."""

    plan: PlanWhen = PlanWhen.AUTO
    """Which goals are planned first: auto, always or never."""
    review: bool = False
    """Whether a certified patch is reviewed by the model; what it finds is told and decides nothing."""
    memory: bool = True
    """Whether runs leave lessons, and models that repair are shown those of similar failures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request, frozen when it is submitted.

    Attributes:
        id: The caller's name for it; unique within a batch.
        graph: Which graph executes it: one of those that ship, or the name of `declaration`.
        declaration: A graph that does not ship, as its file declares it; kept with the run, not here.
        goal: In words; None where a snapshot with failing tests is the goal.
        tree: Digest of the snapshot in the artifact store, None for a goal on an empty tree.
        tests: Pytest arguments that select the tests, checked by `parse_tests`.
        protect: Globs protected beside the default ones.
        python: Interpreter of the task's environment; None for the default layer.
        model: What the writing agents use, None for none: `recorded:NAME` or a model's address.
        agents: Which agents take part beside those that the graph needs.
        judge_minimum: The weakest judge whose word makes a certificate.
        judge_strength: How much tests written for a goal have to notice, 0 to 1; 0 measures nothing.
        inputs: Key and value pairs carried through to events.
        origin: The path or address it came from, for people; never opened again.
    """

    id: str
    graph: str = "repair"
    goal: str | None = None
    tree: str | None = None
    tests: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    python: str | None = None
    model: str | None = None
    budget: Budget = field(default_factory=Budget)
    agents: AgentSettings = field(default_factory=AgentSettings)
    judge_minimum: JudgeKind = JudgeKind.IN_PROCESS
    judge_strength: float = 0.0
    inputs: Mapping[str, Any] = field(default_factory=dict)
    tenant: str = "default"
    priority: int = 0
    origin: str = ""
    declaration: Mapping[str, Any] | None = None


_WITH_VALUE = frozenset({"-k", "-m", "--deselect", "--ignore"})
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def new_run_id() -> str:
    """A run's id: sortable by nothing, short enough to type."""
    return f"r-{secrets.token_hex(5)}"


def model_of(task: Task) -> str:
    """The model that writes for `task`.

    Raises:
        EngineMissing: There is none.
    """
    if not task.model:
        raise EngineMissing(
            "a goal in words needs a model and none is configured", "give --model or RAYSMITH_MODEL"
        )
    return task.model


def check_id(name: str) -> str:
    """`name` when it can name a task and a folder.

    Raises:
        TaskError: It holds other characters or is longer than 100.
    """
    if not isinstance(name, str) or not _ID.fullmatch(name) or ".." in name:
        raise TaskError(
            f"{name!r} cannot name a task", "use letters, digits, dot, dash and underscore, 100 at most"
        )
    return name


def parse_tests(arguments: Sequence[str]) -> tuple[str, ...]:
    """`arguments` when they only select tests: paths, node ids, -k, -m, --deselect, --ignore.

    Raises:
        TaskError: Another option, an absolute path, or one that leaves the folder.
    """
    checked: list[str] = []
    words = iter(arguments)
    for word in words:
        name, _, value = word.partition("=")
        if word in _WITH_VALUE:
            value = next(words, "")
            if not value:
                raise TaskError(f"`{word}` in the test selection has no value", f"write {word} EXPRESSION")
            checked += [word, value]
        elif name in _WITH_VALUE and name.startswith("--"):
            checked.append(word)
        elif word.startswith("-"):
            raise TaskError(
                f"{word!r} is not an option that selects tests",
                f"use {', '.join(sorted(_WITH_VALUE))} or paths",
            )
        else:
            checked.append(_inside(word))
    return tuple(checked)


def _inside(word: str) -> str:
    path = word.split("::", 1)[0]
    if path.startswith(("/", "~")) or ".." in path.split("/") or "\0" in word:
        raise TaskError(f"test path {word!r} leaves the folder", "give it relative to the folder")
    return word
