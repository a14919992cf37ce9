"""A past run as it can be replayed: what its events tell of each step, and what its graph decided. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.codec import from_json
from orchestrator.errors import RaysmithError, StoreDamaged
from orchestrator.events import Event, Kind, RunState, canonical, fold, usage_of
from orchestrator.lessons import Lesson
from orchestrator.pausing import PAUSED
from orchestrator.steps import Answer, Usage
from orchestrator.task import Task

Load = Callable[[str], bytes]
StepKey = tuple[str, int]

# What a graph records itself; its decisions are compared by these.
FACTS = (
    *(Kind.ATTEMPT_STARTED, Kind.PATCH_KEPT, Kind.VERDICT_REACHED),
    *(Kind.NODE_STARTED, Kind.NODE_ENDED, Kind.APPROVAL_ASKED),
)
_TAKEN_ON = (Kind.RUN_STARTED, Kind.RUN_RESUMED)


class Differs(RaysmithError):
    """The replay does something else than the recorded run did, here for the first time."""

    code = "differs"


def prompt_hash(messages: Sequence[Sequence[str]]) -> str:
    """SHA-256 of a conversation, given as pairs of a turn's role and its text's SHA-256."""
    return hashlib.sha256(json.dumps([list(each) for each in messages]).encode()).hexdigest()


def text_digest(text: str) -> str:
    """The SHA-256 under which a turn's text is stored."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """One engine call as its event tells it.

    Attributes:
        number: Of the calls of its step's delivery, from 1; `is_numbered` where the event itself tells it.
        messages: Pairs of a turn's role and its text's digest; so `replies`, digests alone.
        code, error: Why there is no reply; both empty where there is.
        measures: Digest of what the engine said of conversations before it.
        wall_s: It took.
    """

    number: int
    seq: int
    role: str
    engine: str
    kind: str
    provider: str
    messages: tuple[tuple[str, str], ...]
    sampling: Mapping[str, Any]
    replies: tuple[str, ...]
    finish_reason: str
    code: str
    error: str
    next_move: str
    usage: Usage
    measures: str | None
    wall_s: float
    is_numbered: bool = True

    @property
    def identity(self) -> str:
        """What tells it from calls that ask for something else: role, prompt and parameters."""
        return identity(self.role, self.messages, self.sampling)

    @property
    def prompt(self) -> str:
        """The hash of what was asked."""
        return prompt_hash(self.messages)


def identity(role: str, messages: Sequence[tuple[str, str]], sampling: Mapping[str, Any]) -> str:
    """A call's role, prompt and parameters in one text; `messages` as `prompt_hash` takes them."""
    return f"{role} {prompt_hash(messages)} {canonical(sampling)}"


@dataclass(slots=True, kw_only=True)
class RecordedStep:
    """One pass of one step: its last delivery, the one that counted.

    Attributes:
        result: Digest of what it returned; None where it failed or was cut off.
        error: How it failed, as `error_to_json` tells it.
        settings: Digest of how agents were set; None in logs of releases that did not keep it.
        lessons: Digest of what it was given from memory.
        progress: Data of its `step_progress` events.
        kept: Data of the `patch_kept` events that came with them.
        lost: `patch_kept` events of deliveries before this one, which were lost.
        was_kept: The last `patch_kept` before the step was asked for, where that came from a lost delivery
            in an earlier life of the factory.
        spent: By engine calls before it.
    """

    step: str
    attempt: int
    role: str = ""
    method: str = ""
    epoch: int = 0
    result: str | None = None
    error: Mapping[str, Any] | None = None
    settings: str | None = None
    lessons: str | None = None
    calls: tuple[RecordedCall, ...] = ()
    progress: tuple[Mapping[str, Any], ...] = ()
    kept: tuple[Event, ...] = ()
    lost: tuple[Event, ...] = ()
    was_kept: Event | None = None
    spent: Usage = field(default_factory=Usage)

    @property
    def name(self) -> str:
        """For people."""
        return f"step {self.step} (attempt {self.attempt})" if self.attempt else f"step {self.step}"

    @property
    def has_ended(self) -> bool:
        """It returned or failed; else the run was cut off while it worked."""
        return self.result is not None or self.error is not None


class Recording:
    """The events of one run, read for replay; `load` gives the artifacts that they name."""

    def __init__(self, events: Sequence[Event], load: Load) -> None:
        """Take the events of a run apart.

        Raises:
            StoreDamaged: They do not hang together.
            StoreError: A newer Raysmith wrote them.
        """
        self.events = tuple(events)
        self.load = load
        self.state: RunState = fold(self.events)
        self.task: Task = from_json(Task, canonical(self.state.task).encode())
        try:
            self.steps = _steps(self.events)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreDamaged(
                f"run {self.state.run_id} has an event that no Raysmith writes: {error!r}", "export it again"
            ) from error
        lost = {event.seq for step in self.steps.values() for event in step.lost}
        self.facts = [event for event in self.events if event.type in FACTS and event.seq not in lost]

    @property
    def usage(self) -> Usage:
        """What engine calls had cost when the run ended."""
        ends = [event.seq for event in self.events if event.type is Kind.RUN_FINISHED]
        last = ends[-1] if ends else self.state.last_seq + 1
        return _spent(self.events, last)

    @property
    def was_cut_off(self) -> bool:
        """It was stopped, ran out of time, or has not ended: not by its graph's decision."""
        stopped = ("cancelled_by_user", "budget_exhausted", PAUSED)
        return not self.state.report or self.state.reason in stopped

    def json(self, digest: str) -> Any:
        """The JSON value of an artifact.

        Raises:
            StoreDamaged: It is not there or is none.
        """
        try:
            return json.loads(self.load(digest))
        except ValueError as error:
            raise StoreDamaged(f"artifact {digest} is not JSON", "export the run again") from error

    def answers(self, data: Mapping[str, Any]) -> tuple[Answer, ...]:
        """What the sandbox answered during the turn that `data` of a progress event tells of."""
        digest = data.get("answers")
        return from_json(tuple[Answer, ...], self.load(digest)) if digest else ()

    def lessons(self, step: RecordedStep) -> tuple[Lesson, ...]:
        """What the step was given from memory."""
        return from_json(tuple[Lesson, ...], self.load(step.lessons)) if step.lessons else ()

    def text(self, digest: str) -> str:
        """A turn's text."""
        return self.load(digest).decode("utf-8", "surrogatepass")


def calls_of(events: Sequence[Event]) -> Iterator[tuple[Event, RecordedCall]]:
    """Every engine call of `events`, in the order in which they were told."""
    return ((event, _call(event)) for event in events if event.type is Kind.ENGINE_CALLED)


def _call(event: Event) -> RecordedCall:
    data = event.data
    told = str(data.get("error", ""))
    code, _, error = told.partition(": ")
    return RecordedCall(
        number=int(data.get("number", 0)),
        is_numbered="number" in data,
        seq=event.seq,
        role=str(data["role"]),
        engine=str(data["engine"]),
        kind=str(data["kind"]),
        provider=str(data.get("provider", "")),
        messages=tuple((str(role), str(digest)) for role, digest in data["messages"]),
        sampling=data["sampling"],
        replies=tuple(str(digest) for digest in data["replies"]),
        finish_reason=str(data.get("finish_reason", "")),
        code=code,
        error=error,
        next_move=str(data.get("next", "")),
        usage=usage_of(data),
        measures=data.get("measures"),
        wall_s=float(data.get("wall_s", 0.0)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dispatched:
    seq: int
    epoch: int
    life: int
    settings: str | None
    data: Mapping[str, Any]


def _steps(events: Sequence[Event]) -> dict[StepKey, RecordedStep]:
    dispatches: dict[StepKey, list[_Dispatched]] = {}
    ends: dict[StepKey, Event] = {}
    life, settings = 0, None
    for event in events:
        if event.type in _TAKEN_ON:
            life, settings = life + 1, event.data.get("agents")
        key = (str(event.step), event.attempt)
        if event.type is Kind.STEP_DISPATCHED:
            dispatches.setdefault(key, []).append(
                _Dispatched(seq=event.seq, epoch=event.epoch, life=life, settings=settings, data=event.data)
            )
            ends.pop(key, None)
        elif event.type in (Kind.STEP_COMPLETED, Kind.STEP_FAILED):
            ends[key] = event
            # A step that failed before it was lent a replica was never dispatched.
            dispatches.setdefault(key, [])
    return {key: _step(key, dispatches[key], ends.get(key), events) for key in dispatches}


def _step(
    key: StepKey, dispatches: Sequence[_Dispatched], end: Event | None, events: Sequence[Event]
) -> RecordedStep:
    step = RecordedStep(step=key[0], attempt=key[1])
    if end is not None:
        step.result, step.error = end.data.get("result"), end.data.get("error")
    if not dispatches:
        return step
    epoch = dispatches[-1].epoch if end is None else end.epoch
    # Taken over by a later life, a delivery is dispatched again under its old epoch.
    first = next((each for each in dispatches if each.epoch == epoch), dispatches[-1])
    asked = next(each for each in dispatches if each.life == first.life)
    last_seq = end.seq if end is not None else events[-1].seq + 1
    step.epoch, step.settings = first.epoch, first.settings
    step.role, step.method = str(first.data["role"]), str(first.data["method"])
    step.lessons = first.data.get("lessons")
    mine = [event for event in events if (event.step, event.attempt, event.epoch) == (*key, first.epoch)]
    step.calls = _in_order([call for _, call in calls_of(mine)])
    told = [event.data for event in mine if event.type is Kind.STEP_PROGRESS]
    # An answer that was lost with an orchestrator is told twice.
    step.progress = tuple(data for number, data in enumerate(told) if data not in told[:number])
    kept = [event for event in events if event.type is Kind.PATCH_KEPT]
    step.kept = tuple(
        event for event in kept if first.seq < event.seq < last_seq and _is_of(event, step.progress)
    )
    before = [event for event in events if (event.step, event.attempt) == key and event.seq < first.seq]
    lost = [event.data for event in before if event.type is Kind.STEP_PROGRESS]
    step.lost = tuple(event for event in kept if event.seq < first.seq and _is_of(event, lost))
    if dispatches[0].life != first.life:
        step.was_kept = next((event for event in reversed(kept) if event.seq < asked.seq), None)
    step.spent = _spent(events, asked.seq)
    return step


def _is_of(kept: Event, progress: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of a step's improvements was what was kept; a node beside it keeps its own."""
    told = (kept.data["failing"], kept.data["explanation"])
    return any("turn" not in data and (data["failing"], data["explanation"]) == told for data in progress)


def _in_order(calls: Sequence[RecordedCall]) -> tuple[RecordedCall, ...]:
    """As they were made, each once: they are told side by side, and again when an answer was lost.

    Of older logs, which do not number them, those that failed come first: they were asked again.
    """
    if all(call.is_numbered for call in calls):
        return tuple({call.number: call for call in sorted(calls, key=lambda call: call.number)}.values())
    return tuple(
        replace(call, number=number)
        for number, call in enumerate(sorted(calls, key=lambda call: not call.code), 1)
    )


def _spent(events: Sequence[Event], before: int) -> Usage:
    calls = (event for event in events if event.type is Kind.ENGINE_CALLED and event.seq < before)
    return sum((usage_of(event.data) for event in calls), Usage())
