"""The facts of a run and the state they fold to. Only the orchestrator writes them; nothing here does I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from orchestrator.errors import StoreDamaged, StoreError
from orchestrator.steps import Usage


class Kind(StrEnum):
    """Event types. A type is never renamed or removed; its meaning changes only with its version."""

    RUN_SUBMITTED = "run_submitted"
    RUN_STARTED = "run_started"
    STEP_DISPATCHED = "step_dispatched"
    STEP_PROGRESS = "step_progress"
    STEP_COMPLETED = "step_completed"
    STEP_FAILED = "step_failed"
    STEP_REQUEUED = "step_requeued"
    ATTEMPT_STARTED = "attempt_started"
    VERDICT_REACHED = "verdict_reached"
    PATCH_KEPT = "patch_kept"
    CANCEL_REQUESTED = "cancel_requested"
    RUN_RESUMED = "run_resumed"
    RUN_FINISHED = "run_finished"
    EFFECT_INTENDED = "effect_intended"
    EFFECT_DONE = "effect_done"
    ENGINE_CALLED = "engine_called"
    NODE_STARTED = "node_started"
    NODE_ENDED = "node_ended"
    APPROVAL_ASKED = "approval_asked"
    APPROVAL_DECIDED = "approval_decided"
    PAUSE_REQUESTED = "pause_requested"


# Facts about what was told to the outside. They may follow a run's end and take none of its time.
EFFECTS = frozenset({Kind.EFFECT_INTENDED, Kind.EFFECT_DONE})

# Facts that change nothing about how a run stands; one may come when the run has ended.
ASIDE = EFFECTS | {Kind.ENGINE_CALLED}

# Facts that name a node of the run's graph as their step.
OF_A_NODE = frozenset({Kind.NODE_STARTED, Kind.NODE_ENDED, Kind.APPROVAL_ASKED, Kind.APPROVAL_DECIDED})

# The version that this code writes; every version up to it can be read.
VERSIONS: Mapping[str, int] = dict.fromkeys(Kind, 1)


class Status(StrEnum):
    """Where a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PARKED = "parked"

    @property
    def is_finished(self) -> bool:
        """Nothing more happens without a person."""
        return self not in (Status.PENDING, Status.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """A fact not yet in the log; `data` is JSON, large values are artifact digests."""

    run_id: str
    type: Kind
    data: Mapping[str, Any] = field(default_factory=dict)
    step: str | None = None
    attempt: int = 0
    epoch: int = 0
    dispatch_id: str | None = None
    tenant: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fact in the log.

    Attributes:
        seq: 1, 2, 3, … within its run, without gaps.
        type: Read from a log, it may be the text of a type that only a newer Raysmith knows; lists
            show it, `fold` refuses it.
        at: UTC, ISO 8601 with microseconds; for people, order comes from `seq`.
        prev_hash: `hash` of the run's event before this one, empty for the first.
        hash: Of all the other fields, by `chain_hash`.
    """

    run_id: str
    seq: int
    type: Kind
    version: int
    at: str
    step: str | None
    attempt: int
    epoch: int
    dispatch_id: str | None
    tenant: str
    prev_hash: str
    hash: str
    data: Mapping[str, Any]


def canonical(data: Mapping[str, Any]) -> str:
    """`data` as the JSON text that is stored and hashed: sorted keys, ASCII, no spaces."""
    return json.dumps(data, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def chain_hash(
    *,
    run_id: str,
    seq: int,
    type: str,
    version: int,
    at: str,
    step: str | None,
    attempt: int,
    epoch: int,
    dispatch_id: str | None,
    tenant: str,
    prev_hash: str,
    data: str,
) -> str:
    """SHA-256 over the envelope and the canonical data text, hexadecimal."""
    fields = [run_id, seq, type, version, at, step, attempt, epoch, dispatch_id, tenant, prev_hash, data]
    return hashlib.sha256(json.dumps(fields, ensure_ascii=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """One pass of one step. `status` is dispatched, completed, requeued or failed."""

    step: str
    attempt: int
    status: str
    epoch: int
    dispatch_id: str | None
    replica: str | None = None
    result: str | None = None
    error: Mapping[str, Any] | None = None
    progress: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectState:
    """One effect outside, such as a message posted.

    Attributes:
        key: Its idempotency key, unique in the store.
        effect: Who has it: `slack`.
        intended_at: `at` of its last intent.
        outcome: None while it may or may not have happened.
        data: What its last event told.
    """

    key: str
    effect: str
    intended_at: str
    outcome: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """A node of a graph. `status` is running, or how it ended: done, failed, skipped.

    Attributes:
        artifact: Digest of what it gave.
        data: What its end told beside that.
    """

    node: str
    status: str
    started_at: str | None = None
    ended_at: str | None = None
    artifact: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A person's decision that a run waits for, or had: `approved` is None before it.

    `heard` says that the run was taken up again since, so that the decision was before it.
    """

    node: str
    message: str
    asked_at: str
    approved: bool | None = None
    by: str = ""
    why: str = ""
    decided_at: str | None = None
    heard: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A person's word that a run is to rest; `now`: without waiting for steps that are at work."""

    by: str
    at: str
    why: str = ""
    now: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run as its events tell it.

    Attributes:
        best_patch: Digest of the best changes so far (an artifact).
        report: The data of `run_finished`, empty again after `run_resumed`.
        key: What its caller or its batch knows it by.
        life: The factory that took it on last.
        updated_at: `at` of its last event.
        effects: What was told to the outside about it, by idempotency key, in order.
        usage: What its engine calls cost, those of failed and cancelled steps too.
        graph_version: Digest of its graph's declaration, an artifact; None in runs from before graphs
            were declared.
        parent: The run and the number of its event that this one forked from.
        nodes: The nodes of its graph that have started, by path.
        approvals: What was asked of people, by the node that asks.
        pause: Who paused it; None again after `run_resumed`.
    """

    run_id: str
    task: Mapping[str, Any] = field(default_factory=dict)
    status: Status = Status.PENDING
    reason: str | None = None
    attempt: int = 0
    tenant: str = "default"
    steps: Mapping[tuple[str, int], StepState] = field(default_factory=dict)
    best_patch: str | None = None
    best_failing: int | None = None
    verdict: Mapping[str, Any] | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    cancel_requested: bool = False
    resumed: int = 0
    submitted_at: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    updated_at: str = ""
    key: str | None = None
    life: str | None = None
    last_seq: int = 0
    effects: Mapping[str, EffectState] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    graph_version: str | None = None
    parent: Mapping[str, Any] | None = None
    nodes: Mapping[str, NodeState] = field(default_factory=dict)
    approvals: Mapping[str, Approval] = field(default_factory=dict)
    pause: Pause | None = None


def fold(events: Iterable[Event]) -> RunState:
    """The state that `events`, one run's in order, add up to, in time linear in their number.

    Raises:
        StoreDamaged: No event, a gap in seq, a broken hash chain, or data that its type cannot have.
        StoreError: An event of a type or version that only a newer Raysmith knows.
    """
    folding: _Folding | None = None
    run_id, last_seq, prev_hash = "", 0, ""
    for event in events:
        if folding is None:
            run_id = event.run_id
            folding = _Folding(RunState(run_id=run_id, tenant=event.tenant))
        if event.seq != last_seq + 1 or event.prev_hash != prev_hash or event.run_id != run_id:
            raise StoreDamaged(
                f"run {run_id} breaks at event {event.seq} (after {last_seq})",
                "restore the store from a backup; the events before it still load",
            )
        last_seq, prev_hash = event.seq, event.hash
        folding.add(event)
    if folding is None:
        raise StoreDamaged("a run without events", "restore the store from a backup")
    return folding.state()


def apply(state: RunState, event: Event) -> RunState:
    """`state` after one more event, which the caller knows to be the next.

    Raises:
        StoreDamaged: Data that the event's type cannot have.
        StoreError: A type or version that only a newer Raysmith knows.
    """
    folding = _Folding(state)
    folding.add(event)
    return folding.state()


class _Folding:
    """A state while events are added up: copied once on the way in and once on the way out."""

    def __init__(self, state: RunState) -> None:
        self.run: dict[str, Any] = {name: getattr(state, name) for name in _RUN_FIELDS}
        self._touched: dict[tuple[str, int], dict[str, Any]] = {}

    def add(self, event: Event) -> None:
        handler = _HANDLERS.get(event.type)
        if handler is None or event.version > VERSIONS[event.type]:
            raise StoreError(
                f"event {event.seq} of run {event.run_id} has type {str(event.type)!r} "
                f"version {event.version}, which this Raysmith does not know",
                "upgrade Raysmith to the release that wrote it, or newer",
            )
        try:
            handler(self, event)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreDamaged(
                f"event {event.seq} of run {event.run_id} has data that no {event.type} has: {error!r}",
                "restore the store from a backup; the events before it still load",
            ) from error
        if "life" in event.data:
            self.run["life"] = event.data["life"]
        self.run["last_seq"] = event.seq
        self.run["updated_at"] = event.at

    def step(self, event: Event) -> dict[str, Any]:
        """The step that `event` is about, to be changed in place."""
        if event.step is None:
            raise ValueError("no step named")
        key = (event.step, event.attempt)
        step = self._touched.get(key)
        if step is None:
            old = self.run["steps"].get(key) or StepState(
                step=event.step,
                attempt=event.attempt,
                status="dispatched",
                epoch=event.epoch,
                dispatch_id=None,
            )
            step = self._touched[key] = {name: getattr(old, name) for name in _STEP_FIELDS}
            step["progress"] = list(old.progress)
        return step

    def put(self, field_name: str, key: str, value: object) -> None:
        """Set one entry of a mapping of the state."""
        self.run[field_name] = {**self.run[field_name], key: value}

    def state(self) -> RunState:
        steps = dict(self.run["steps"])
        for key, step in self._touched.items():
            steps[key] = StepState(**{**step, "progress": tuple(step["progress"])})
        return RunState(**{**self.run, "steps": steps})


_RUN_FIELDS = tuple(item.name for item in fields(RunState))
_STEP_FIELDS = tuple(item.name for item in fields(StepState))


def _submitted(folding: _Folding, event: Event) -> None:
    folding.run.update(
        task=event.data["task"],
        submitted_at=event.at,
        key=event.data.get("key"),
        graph_version=event.data.get("graph_version"),
        parent=event.data.get("parent"),
    )


def _started(folding: _Folding, event: Event) -> None:
    folding.run.update(status=Status.RUNNING, started_at=folding.run["started_at"] or event.at)


def _attempt(folding: _Folding, event: Event) -> None:
    folding.run["attempt"] = event.attempt


def _dispatched(folding: _Folding, event: Event) -> None:
    folding.step(event).update(
        status="dispatched",
        epoch=event.epoch,
        dispatch_id=event.dispatch_id,
        replica=event.data.get("replica"),
    )


def _progress(folding: _Folding, event: Event) -> None:
    folding.step(event)["progress"].append(event.data)


def _completed(folding: _Folding, event: Event) -> None:
    folding.step(event).update(status="completed", result=event.data.get("result"))


def _failed(folding: _Folding, event: Event) -> None:
    folding.step(event).update(status="failed", error=event.data.get("error"))


def _requeued(folding: _Folding, event: Event) -> None:
    folding.step(event).update(status="requeued")


def _kept(folding: _Folding, event: Event) -> None:
    folding.run.update(best_patch=event.data["patch"], best_failing=event.data.get("failing"))


def _verdict(folding: _Folding, event: Event) -> None:
    folding.run["verdict"] = event.data["verdict"]


def _cancel(folding: _Folding, _event: Event) -> None:
    folding.run["cancel_requested"] = True


def _resumed(folding: _Folding, _event: Event) -> None:
    folding.run.update(
        status=Status.RUNNING,
        reason=None,
        finished_at=None,
        cancel_requested=False,
        resumed=folding.run["resumed"] + 1,
        report={},
        pause=None,
        approvals={
            node: replace(asked, heard=asked.approved is not None)
            for node, asked in folding.run["approvals"].items()
        },
    )


def _finished(folding: _Folding, event: Event) -> None:
    folding.run.update(
        status=Status(event.data["status"]),
        reason=event.data["reason"],
        report=event.data,
        finished_at=event.at,
    )


def _effect(folding: _Folding, event: Event) -> None:
    data, key = event.data, event.data["key"]
    known: EffectState | None = folding.run["effects"].get(key)
    is_intent = event.type is Kind.EFFECT_INTENDED
    state = EffectState(
        key=key,
        effect=data["effect"],
        intended_at=event.at if is_intent or known is None else known.intended_at,
        outcome=None if is_intent else data["outcome"],
        data=data,
    )
    folding.run["effects"] = {**folding.run["effects"], key: state}


def _called(folding: _Folding, event: Event) -> None:
    folding.run["usage"] = folding.run["usage"] + usage_of(event.data)


def _node_started(folding: _Folding, event: Event) -> None:
    node = _node_of(event)
    folding.put("nodes", node, NodeState(node=node, status="running", started_at=event.at))


def _node_ended(folding: _Folding, event: Event) -> None:
    node = _node_of(event)
    known: NodeState | None = folding.run["nodes"].get(node)
    state = NodeState(
        node=node,
        status=str(event.data["status"]),
        started_at=known.started_at if known else None,
        ended_at=event.at,
        artifact=event.data["artifact"],
        data=event.data,
    )
    folding.put("nodes", node, state)


def _asked(folding: _Folding, event: Event) -> None:
    node = _node_of(event)
    message = str(event.data["message"])
    folding.put("approvals", node, Approval(node=node, message=message, asked_at=event.at))


def _decided(folding: _Folding, event: Event) -> None:
    node = _node_of(event)
    known = folding.run["approvals"].get(node) or Approval(node=node, message="", asked_at=event.at)
    decision = {name: str(event.data.get(name) or "") for name in ("by", "why")}
    approved = bool(event.data["approved"])
    folding.put("approvals", node, replace(known, approved=approved, decided_at=event.at, **decision))


def _pause(folding: _Folding, event: Event) -> None:
    data = event.data
    folding.run["pause"] = Pause(
        by=str(data["by"]), at=event.at, why=str(data.get("why") or ""), now=bool(data.get("now"))
    )


def _node_of(event: Event) -> str:
    if event.step is None:
        raise ValueError("no node named")
    return event.step


def usage_of(data: Mapping[str, Any]) -> Usage:
    """What the call that `engine_called` tells of cost."""
    tokens = data["tokens"]
    return Usage(
        prompt=int(tokens["prompt"]),
        completion=int(tokens["completion"]),
        cached=int(tokens["cached"]),
        gpu_s=float(data["gpu_s"]),
        cost_usd=float(data["cost_usd"]),
        requests=int(data["requests"]),
        retries=int(data["retries"]),
    )


_HANDLERS: Mapping[str, Callable[[_Folding, Event], None]] = {
    Kind.RUN_SUBMITTED: _submitted,
    Kind.RUN_STARTED: _started,
    Kind.RUN_RESUMED: _resumed,
    Kind.ATTEMPT_STARTED: _attempt,
    Kind.STEP_DISPATCHED: _dispatched,
    Kind.STEP_PROGRESS: _progress,
    Kind.STEP_COMPLETED: _completed,
    Kind.STEP_FAILED: _failed,
    Kind.STEP_REQUEUED: _requeued,
    Kind.PATCH_KEPT: _kept,
    Kind.VERDICT_REACHED: _verdict,
    Kind.CANCEL_REQUESTED: _cancel,
    Kind.RUN_FINISHED: _finished,
    Kind.EFFECT_INTENDED: _effect,
    Kind.EFFECT_DONE: _effect,
    Kind.ENGINE_CALLED: _called,
    Kind.NODE_STARTED: _node_started,
    Kind.NODE_ENDED: _node_ended,
    Kind.APPROVAL_ASKED: _asked,
    Kind.APPROVAL_DECIDED: _decided,
    Kind.PAUSE_REQUESTED: _pause,
}
