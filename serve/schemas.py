"""What goes over HTTP in JSON, as pydantic models; they make the OpenAPI and check what comes in."""

from __future__ import annotations

import math
import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from orchestrator.events import Status

_DEEPEST = 16
_MOST_INT = 2**63

_OPEN_KEYS = "retry, timeout_s, budget, context, on_failure"
_OPEN_POLICY = re.compile(rf"[a-z][a-z0-9_-]*\.policy\.({_OPEN_KEYS.replace(', ', '|')})(\.[a-z_]+)*")

Word = Annotated[str, Field(min_length=1, max_length=1000)]


def _words(value: Any) -> Any:
    """A command line of pytest arguments as a list of words; a list stays what it is."""
    return shlex.split(value) if isinstance(value, str) else value


class BudgetIn(BaseModel):
    """Hard limits of this run; each at most what the factory is configured with."""

    model_config = ConfigDict(extra="forbid")

    attempts: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    wall_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    search_cpu_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    test_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class RunRequest(BaseModel):
    """A run to be made: a graph with its inputs, a goal in words, or a folder's content."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"goal": "Write `add(a, b)` in calculator.py, with tests."},
                {"graph": "story", "inputs": {"goal": "Write `add(a, b)` in calculator.py, with tests."}},
            ]
        },
    )

    graph: str = Field(
        default="", max_length=100, description="Without it `story`, or `repair` for a folder."
    )
    goal: str | None = Field(default=None, max_length=100_000, description="In words.")
    path: str | None = Field(
        default=None,
        max_length=4096,
        description="A folder on the server, where that is allowed.",
    )
    root: str = Field(default="", max_length=1024, description="The folder inside the archive that is meant.")
    name: str | None = Field(default=None, max_length=100, description="The task's name.")
    tests: Annotated[list[Word], BeforeValidator(_words)] = Field(
        default=[], max_length=1000, description="Pytest arguments that select tests."
    )
    protect: list[Word] = Field(
        default=[], max_length=1000, description="Globs of files that no patch may change."
    )
    model: str | None = Field(default=None, max_length=500, description="One that the factory allows.")
    budget: BudgetIn = BudgetIn()
    inputs: dict[str, Any] = Field(
        default={}, description="Values that go with the run; `goal` may be one of them."
    )

    @field_validator("inputs")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "candidate" in value:
            raise ValueError("`candidate` is Raysmith's own")
        _check_plain(value, 0)
        return value


def _check_plain(value: Any, depth: int) -> None:
    """Refuse what the event log cannot keep, or what only makes it slow."""
    if depth > _DEEPEST:
        raise ValueError(f"nested deeper than {_DEEPEST} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is not finite")
    if isinstance(value, int) and abs(value) >= _MOST_INT:
        raise ValueError("a whole number has more than 64 bits")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("a text holds a NUL character")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_plain(key, depth)
            _check_plain(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, depth + 1)


class Upload(RunRequest):
    """The same as fields of a form, with the folder's content as an archive."""

    archive: bytes = Field(json_schema_extra={"format": "binary"}, description="tar.gz, tar or zip.")
    candidate: bytes = Field(
        default=b"", json_schema_extra={"format": "binary"}, description="For `verify`: the folder to judge."
    )


class Accepted(BaseModel):
    """A run was accepted; it goes on whether the caller stays or not."""

    ok: Literal[True] = True
    run_id: str
    status: Status = Status.PENDING


class RunRow(BaseModel):
    """A run in a list. Times are UTC, ISO 8601."""

    run_id: str
    status: Status
    reason: str | None
    tenant: str
    task: str
    graph: str
    attempt: int
    submitted_at: str
    started_at: str | None
    finished_at: str | None


class RunPage(BaseModel):
    """A page of runs, the newest first; `next` is the way to the page after it."""

    runs: list[RunRow]
    total: int
    limit: int
    offset: int
    next: str | None


class Run(BaseModel):
    """A run as it stands or ended: the object of `raysmith show --json`, and what it was about."""

    model_config = ConfigDict(extra="allow")

    run_id: str
    status: Status
    reason: str | None
    tenant: str
    verdict: dict[str, Any] | None
    task: str
    graph: str
    submitted_at: str
    started_at: str | None
    finished_at: str | None
    last_seq: int
    error: dict[str, Any] | None


class EventOut(BaseModel):
    """One fact of a run's log."""

    run_id: str
    seq: int
    type: str
    version: int
    at: str
    step: str | None
    attempt: int
    epoch: int
    dispatch_id: str | None
    tenant: str
    prev_hash: str
    hash: str
    data: dict[str, Any]


class EventPage(BaseModel):
    """A run's events after a number, in order."""

    run_id: str
    events: list[EventOut]


class Tokens(BaseModel):
    """Cached ones are among those of the prompt."""

    prompt: int
    completion: int
    cached: int


class Cost(BaseModel):
    """What a group of engine calls cost; beside it stand the names of the group."""

    model_config = ConfigDict(extra="allow")

    requests: int
    retries: int
    tokens: Tokens
    gpu_s: float
    cost_usd: float


class Usage(BaseModel):
    """What engines cost, added up."""

    by: str
    since: str | None
    usage: list[Cost]
    total: Cost


class Decision(BaseModel):
    """A person's yes or no at a gate of a graph."""

    model_config = ConfigDict(extra="forbid")

    node: str | None = Field(
        default=None, max_length=1000, description="The gate; may be left out where one is open."
    )
    why: str = Field(default="", max_length=2000, description="Kept in the event log.")


class Decided(BaseModel):
    """How a run stands after a decision."""

    run_id: str
    status: Status
    reason: str | None


class Rest(BaseModel):
    """A person's word that a run is to rest."""

    model_config = ConfigDict(extra="forbid")

    now: bool = Field(default=False, description="Stop steps that are at work too; they are done anew later.")
    why: str = Field(default="", max_length=2000, description="Kept in the event log.")


class Retry(BaseModel):
    """Which failed node is to be done anew."""

    model_config = ConfigDict(extra="forbid")

    node: str = Field(min_length=1, max_length=1000, description="A node that failed; or a step.")


class Replay(BaseModel):
    """From where a new run goes on, and what is different in it."""

    model_config = ConfigDict(populate_by_name=True, extra="forbid")

    start: str = Field(
        alias="from", min_length=1, max_length=1000, description="A node or a step that came to its end."
    )
    graph: str | None = Field(default=None, max_length=100, description="Another graph that ships.")
    set: dict[str, Any] = Field(
        default={}, max_length=100, description="Policies by key, `NODE.policy.KEY`: a value."
    )

    @field_validator("set")
    @classmethod
    def _of_a_policy(cls, value: dict[str, Any]) -> dict[str, Any]:
        _check_plain(value, 0)
        # Which models and how weak a sandbox is the factory's to say, not a client's.
        for key in value:
            if not _OPEN_POLICY.fullmatch(key):
                raise ValueError(f"{key!r:.100} is not NODE.policy.KEY with a KEY of {_OPEN_KEYS}")
        return value


class Comparison(BaseModel):
    """Two runs side by side; pairs are first, second."""

    model_config = ConfigDict(extra="allow")

    runs: list[str]
    equal: bool
    same_task: bool
    same_graph: bool
    shared: int
    parted_at: list[dict[str, Any] | None] | None


class Paused(BaseModel):
    """How a run stands after it was asked to rest, or to go on."""

    run_id: str
    status: Status
    reason: str | None


class Cancelled(BaseModel):
    """How a run stands after it was asked to stop."""

    run_id: str
    status: Status
    reason: str | None


class Health(BaseModel):
    """`live`: this process answers. `ready`: runs can be submitted, else `detail` says why not."""

    live: bool
    ready: bool
    detail: str
    version: str


class Fleet(BaseModel):
    """The fleet, its queue, and the runs in hand."""

    model_config = ConfigDict(extra="allow")

    fleet: dict[str, Any]
    active_runs: list[str]
    working_on: list[str]


class Fault(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class ProblemOut(BaseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    next: str | None = None
    errors: list[Fault] | None = None
