"""A graph as its file declares it: values only. `graph_check.py` says what is wrong with one."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import TaskError
from orchestrator.verdict import Level

NAME = r"[a-z][a-z0-9_-]{0,39}"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]

# A file larger than this is no graph that a person wrote.
MOST_BYTES = 256 * 1024
MOST_NODES = 200

# Values that are checked where they are used: a text that begins with `$` refers to another node's
# output, to `$inputs`, `$task` or `$item`; `$$` begins a plain text with a dollar.
Value = Any


# Codes of errors that another try may not meet.
Code = Literal["agent", "engine", "sandbox", "sandbox_timeout", "replica_lost", "timeout"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Retry(_Strict):
    """How often a node is tried again, and after which errors."""

    attempts: int = Field(default=1, ge=1, le=20, description="Tries in all; 1 never tries again.")
    errors: tuple[
        Literal["agent", "engine", "sandbox", "sandbox_timeout", "replica_lost", "timeout"], ...
    ] = Field(
        default=("agent", "engine", "sandbox"),
        min_length=1,
        description="Codes of the errors that are tried again.",
    )
    backoff_s: float = Field(
        default=1.0, ge=0, le=3600, description="Wait before the second try, in seconds."
    )
    factor: float = Field(default=2.0, ge=1, le=10, description="How much longer every further wait is.")
    longest_s: float = Field(default=60.0, ge=0, le=3600, description="Longest wait, in seconds.")
    jitter: float = Field(default=0.2, ge=0, le=1, description="Share of a wait that chance takes off.")


class NodeBudget(_Strict):
    """What one node may cost; what is not given is bounded by the run's budget only."""

    attempts: int | None = Field(default=None, ge=1, le=1000, description="Passes of a repair loop.")
    wall_s: float | None = Field(default=None, gt=0, description="Wall seconds.")
    search_cpu_s: float | None = Field(default=None, gt=0, description="CPU seconds of the search repairer.")
    tokens: int | None = Field(
        default=None, gt=0, le=10**15, description="Tokens that models may read and write."
    )
    gpu_s: float | None = Field(default=None, gt=0, description="GPU seconds of local models.")
    cost_usd: float | None = Field(default=None, gt=0, description="Dollars that models may cost.")


class Policy(_Strict):
    """How a node is worked on."""

    retry: Retry = Field(default=Retry(), description="When it is tried again.")
    timeout_s: float | None = Field(default=None, gt=0, description="Wall seconds of one try.")
    budget: NodeBudget = Field(default=NodeBudget(), description="What it may cost.")
    model: str | None = Field(
        default=None,
        max_length=300,
        description="Who writes and repairs, as `--model` names it; `none` for nobody; or a reference to it.",
    )
    context: Literal["full", "brief"] = Field(
        default="full", description="How much of what failing tests said a model is shown."
    )
    sandbox_minimum: Level | None = Field(
        default=None, description="Weakest sandbox that may test for it: kernel, namespace, weak or none."
    )
    allowed_paths: tuple[str, ...] = Field(
        default=(), description="Globs that its patch stays within; none allows every path."
    )
    test_strength: float | None = Field(
        default=None, ge=0, le=1, description="How much tests written for a goal have to notice."
    )
    on_failure: Literal["stop", "continue"] = Field(
        default="stop", description="Whether the run ends with it when it fails."
    )


class _Node(_Strict):
    needs: tuple[Name, ...] = Field(default=(), description="Nodes that have to end first.")
    when: Value = Field(default=True, description="Condition; the node is skipped where it does not hold.")
    policy: Policy = Field(default=Policy(), description="How it is worked on.")
    plain_steps: bool = Field(
        default=False,
        description="Its steps are named without the node's name before them; one node at most.",
    )


class _Each(_Node):
    for_each: Value = Field(default=None, description="A list; the node is done once for each `$item` of it.")
    max_parallel: int = Field(default=8, ge=1, le=100, description="Items worked on at a time.")


class Agent(_Each):
    """A step of a role: what it does is the role's `work`."""

    kind: Literal["agent"]
    role: str = Field(description="Who does it.")
    work: str | None = Field(default=None, description="What is done; the role's usual work where not given.")
    inputs: Mapping[str, Value] = Field(default={}, description="Values that it is given, by name.")
    patch_of: Name | None = Field(
        default=None, description="The node whose patch it works on; else the run's folder."
    )


class RepairLoop(_Each):
    """Attempt after attempt until the tests pass."""

    kind: Literal["repair_loop"]
    language: Literal["python", "javascript"] | None = Field(
        default=None,
        description="Whose tests are to pass; else Python's, or JavaScript's where no others are.",
    )
    until: Literal["certified", "improved"] = Field(default="certified", description="What ends it.")
    max_attempts: int | None = Field(
        default=None, ge=1, le=1000, description="Passes; else those of the budget."
    )
    inputs: Mapping[str, Value] = Field(
        default={}, description="Values that it is given: `profile`, `failing`."
    )
    patch_of: Name | None = Field(default=None, description="The node whose patch it starts from.")


class Select(_Node):
    """Takes one result, or all, of several nodes."""

    kind: Literal["select"]
    of: tuple[Name, ...] = Field(min_length=1, description="The nodes to choose from.")
    rule: Literal["first_green", "best_patch", "all"] = Field(
        description="first_green in the order given; best_patch by running the tests, then by the size of "
        "the diff; all together."
    )
    merge: bool = Field(
        default=False,
        description="For best_patch: patches that touch different files are also tried together.",
    )
    inputs: Mapping[str, Value] = Field(
        default={}, description="For best_patch: `profile`, how it is tested."
    )


class Approval(_Node):
    """Waits for a person's yes; a no ends the run."""

    kind: Literal["approval"]
    message: str = Field(max_length=2000, description="What the person is asked.")
    patch_of: Name | None = Field(default=None, description="The node whose result is to be approved.")


class SubGraph(_Each):
    """A graph within the graph."""

    kind: Literal["graph"]
    graph: Name = Field(description="Its name under `graphs`.")
    inputs: Mapping[str, Value] = Field(default={}, description="Its `$inputs`.")
    patch_of: Name | None = Field(default=None, description="The node whose patch it works on.")


Node = Annotated[Agent | RepairLoop | Select | Approval | SubGraph, Field(discriminator="kind")]
Requirement = Literal["folder", "goal", "candidate"]


class Input(_Strict):
    """A value that goes with a task of this graph."""

    type: Literal["text", "number", "flag"] = Field(default="text", description="What it has to be.")
    required: bool = Field(default=False, description="Whether a task without it is refused.")
    default: str | int | float | bool | None = Field(
        default=None, description="What it is where it is not given."
    )
    choices: tuple[str, ...] = Field(
        default=(), description="The texts that it may be; none allows every one."
    )
    description: str = Field(default="", max_length=500, description="For people.")


class Declaration(_Strict):
    """A whole graph."""

    name: Name = Field(description="What `--graph` calls it.")
    description: str = Field(default="", max_length=2000, description="For people.")
    requires: tuple[Requirement, ...] = Field(default=(), description="What a task has to bring.")
    inputs: Mapping[str, Input] = Field(default={}, description="Values that go with a task, by name.")
    budget: NodeBudget = Field(
        default=NodeBudget(), description="At most this of the task's budget; its nodes' budgets have to fit."
    )
    nodes: Mapping[Name, Node] = Field(
        min_length=1, max_length=MOST_NODES, description="What is done, by name."
    )
    graphs: Mapping[Name, Declaration] = Field(
        default={}, description="Graphs that its nodes of kind `graph` name."
    )
    result: tuple[Name, ...] = Field(
        min_length=1, description="The node whose outcome is the run's: the first of these that was done."
    )
    checkpoints: bool = Field(
        default=True, description="Whether the end of every node is an event that holds what it gave."
    )

    @property
    def version(self) -> str:
        """SHA-256 of `canonical_json`: the same for two graphs exactly when they declare the same."""
        return hashlib.sha256(self.canonical_json()).hexdigest()

    def canonical_json(self) -> bytes:
        """What is kept of it with a run, defaults included, so that a later default changes nothing."""
        data = self.model_dump(mode="json", by_alias=True)
        return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    def needs(self, requirement: Requirement) -> bool:
        """Whether a task has to bring it."""
        return requirement in self.requires


def declared(values: Any, source: str) -> Declaration:
    """The graph that plain `values` of a file or a store declare; what it says is not checked yet.

    Raises:
        TaskError: An unknown key or a wrong value, with its path.
    """
    if not isinstance(values, Mapping):
        raise TaskError(f"{source} holds no graph", "write `name:`, `nodes:` and `result:`")
    if place := _no_json(values, "", 0):
        raise TaskError(f"{source}: {place}", _NEXT)
    try:
        return Declaration.model_validate_json(json.dumps(values, allow_nan=False))
    except ValidationError as error:
        faults = list(_told(error))
        raise TaskError(f"{source}: {'; '.join(faults[:10])}", _NEXT) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise TaskError(f"{source} holds values that JSON has not: {error}", _NEXT) from error


# Deeper than this no condition or value of a graph lies.
_DEEPEST = 64


def _no_json(value: Any, path: str, depth: int) -> str:
    """The first place in `value` that JSON has no word for, and why; empty where there is none."""
    if depth > _DEEPEST:
        return f"`{path[:200]}…` lies deeper than {_DEEPEST} levels"
    if isinstance(value, str):
        return "" if _is_text(value) else f"`{path}` is {value!r:.80}, which is no Unicode text"
    if isinstance(value, float) and not math.isfinite(value):
        return f"`{path}` is {value}: it has to be a finite number"
    if value is None or isinstance(value, bool | int | float):
        return ""
    if isinstance(value, Mapping):
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        return f"`{path}` is {value!r:.80}, a {type(value).__name__}: put it into quotes if a text is meant"
    below = (_no_json(each, f"{path}.{key}".lstrip("."), depth + 1) for key, each in parts)
    return next(filter(None, below), "")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


_NEXT = "mend the path that is named; docs/reference/graphs.md tells what may stand there"
_KINDS = {
    model.model_fields["kind"].annotation.__args__[0]: model  # type: ignore[union-attr]
    for model in (Agent, RepairLoop, Select, Approval, SubGraph)
}


def _told(error: ValidationError) -> Iterator[str]:
    for each in error.errors(include_url=False, include_context=False):
        path = ".".join(_steps(each["loc"]))
        if each["type"] == "extra_forbidden":
            yield f"`{path}` is not known{_meant(each['loc'])}"
        elif each["type"] == "missing":
            yield f"`{path}` is missing"
        elif each["type"].startswith("union_tag"):
            yield f"`{path}.kind` has to be one of {', '.join(_KINDS)}"
        elif each["loc"][-1:] == ("[key]",):
            yield f"`{path}` is no name: lower-case letters, digits, `_` and `-`, 40 at most"
        else:
            reason = each["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            yield f"`{path}` is {each['input']!r:.80}: it has to be {reason}"


def _steps(loc: tuple[int | str, ...]) -> list[str]:
    """A place as it is written in the file: pydantic puts a node's kind after its name."""
    found: list[str] = []
    for at, part in enumerate(loc):
        is_kind = at >= 2 and loc[at - 2] == "nodes" and part in _KINDS
        if not is_kind and part != "[key]":
            found.append(str(part))
    return found


def _meant(loc: tuple[int | str, ...]) -> str:
    known = _fields_at(loc[:-1])
    close = difflib.get_close_matches(str(loc[-1]), known, n=1)
    return f"; did you mean `{close[0]}`" if close else ""


def _fields_at(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that may stand at a place, as far as its last steps tell."""
    by_key: dict[str, type[BaseModel]] = {"policy": Policy, "retry": Retry, "budget": NodeBudget}
    last = str(loc[-1]) if loc else ""
    if len(loc) >= 3 and loc[-3] == "nodes":
        model: type[BaseModel] = _KINDS.get(last, Agent)
    elif len(loc) >= 2 and loc[-2] == "inputs":
        model = Input
    else:
        model = by_key.get(last, Declaration)
    return list(model.model_fields)


def schema() -> dict[str, Any]:
    """The JSON Schema of a graph file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Raysmith graph",
        **Declaration.model_json_schema(),
    }
