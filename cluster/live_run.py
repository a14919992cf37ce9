"""One run being executed: a graph's calls become steps in the log, and a replayed call costs nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog

from cluster.artifacts import ArtifactStore
from cluster.calls import called
from cluster.handles import Dispatch, FleetClient
from cluster.run_log import RunLog
from cluster.step_tasks import HeldBack, StepTasks
from orchestrator import failpoints
from orchestrator.codec import from_json, to_json
from orchestrator.context import ContextManifest
from orchestrator.declaration import Declaration
from orchestrator.errors import RaysmithError, StaleEpoch
from orchestrator.events import (
    EFFECTS,
    Event,
    Kind,
    NewEvent,
    RunState,
    StepState,
    canonical,
    usage_of,
)
from orchestrator.lessons import Lesson, signature_of, terms_of
from orchestrator.patch import Changes
from orchestrator.pausing import PAUSED
from orchestrator.ports import Call, EventLog, Memory
from orchestrator.report import changes_from, changes_json, error_to_json
from orchestrator.steps import Allowance, Answer, EngineCall, Improvement, RepairRequest, Turn, Usage
from orchestrator.task import Task, allowance_of
from orchestrator.tree import Tree

T = TypeVar("T")
log = structlog.get_logger()

# Facts that a graph records itself and therefore records again when it is replayed.
_RECORDED_BY_GRAPHS = (Kind.ATTEMPT_STARTED, Kind.VERDICT_REACHED, Kind.PATCH_KEPT)


class LiveRun:
    """Implements `orchestrator.ports.Run` on a fleet, an event log and an artifact store.

    Every event of the run goes through `append`, so that `state` is always the fold of the log.
    """

    def __init__(
        self,
        *,
        state: RunState,
        events: Sequence[Event],
        task: Task,
        tree: Tree,
        candidate: Tree | None,
        event_log: EventLog,
        artifacts: ArtifactStore,
        fleet: FleetClient,
        graph: Declaration,
        memory: Memory | None = None,
        on_event: Callable[[str], None],
    ) -> None:
        self.task = task
        self.tree = tree
        self.candidate = candidate
        self.graph = graph
        self.last_kind = events[-1].type
        self._run_log = RunLog(state, event_log, seen=self._saw, on_news=lambda: on_event(state.run_id))
        self._artifacts = artifacts
        self._fleet = fleet
        self._memory = memory
        # The best so far of the run, under "", and of each of its nodes.
        self._kept: dict[str, Event] = {}
        self._kept_changes: dict[str, Changes] = {}
        self._spent: dict[str, Usage] = {}
        self._decided = asyncio.Event()
        self.steps = StepTasks()
        for event in events:
            self._remember(event)
        self._recorded = {_fact(e.type, e.attempt, e.data) for e in events if e.type in _RECORDED_BY_GRAPHS}
        self._calls: dict[str, Call[Any]] = {}
        self._used_before_s = used_wall_s(events)
        self._began = time.monotonic()
        # Told, and perhaps not folded yet.
        self._begun: set[str] = set()
        self._worked_on: set[tuple[str, int]] = set()

    @property
    def used_s(self) -> float:
        """Wall seconds that the run has been worked on, in this life and earlier ones."""
        return self._used_before_s + time.monotonic() - self._began

    def remaining_s(self) -> float:
        """Wall seconds left of the budget."""
        return self.task.budget.wall_s - self.used_s

    async def load_kept(self) -> None:
        """Read the best changes of an earlier life, so that `kept` can answer at once."""
        for node, event in self._kept.items():
            content = await asyncio.to_thread(self._artifacts.get, event.data["patch"])
            self._kept_changes[node] = changes_from(content)

    def kept(self, node: str = "") -> tuple[Changes, tuple[str, ...]] | None:
        """The best changes so far, relative to `tree`, and what fails with them."""
        if node not in self._kept or node not in self._kept_changes:
            return None
        return self._kept_changes[node], tuple(self._kept[node].data["failing_tests"])

    @property
    def state(self) -> RunState:
        """The fold of what is committed."""
        return self._run_log.state

    async def append(self, *events: NewEvent) -> None:
        """See `RunLog.append`."""
        await self._run_log.append(*events)

    async def catch_up(self) -> None:
        """See `RunLog.catch_up`."""
        await self._run_log.catch_up()

    def _saw(self, event: Event) -> None:
        log.info(str(event.type), run=event.run_id, seq=event.seq, step=event.step, attempt=event.attempt)
        self._remember(event)

    def _remember(self, event: Event) -> None:
        if event.type is Kind.PATCH_KEPT:
            self._kept[""] = self._kept[event.data.get("node", "")] = event
        if event.type is Kind.ENGINE_CALLED:
            step = str(event.step)
            self._spent[step] = self._spent.get(step, Usage()) + usage_of(event.data)
        if event.type is Kind.APPROVAL_DECIDED:
            self._decided.set()
        if event.type is Kind.PAUSE_REQUESTED:
            self.steps.pause(at_once=bool(event.data.get("now")))
        if event.type is Kind.RUN_RESUMED:
            self.steps.call_off()

    def event(self, kind: Kind, data: Mapping[str, Any], **envelope: Any) -> NewEvent:
        """A new event of this run."""
        return NewEvent(run_id=self.state.run_id, type=kind, data=data, tenant=self.task.tenant, **envelope)

    async def record(self, kind: Kind, data: Mapping[str, Any], *, attempt: int = 0) -> None:
        """Commit a fact of the graph, once."""
        fact = _fact(kind, attempt, data)
        if fact not in self._recorded:
            self._recorded.add(fact)
            await self.append(self.event(kind, data, attempt=attempt))

    async def keep(self, changes: Changes, failing: Sequence[str], explanation: str, node: str = "") -> None:
        """Commit the best changes so far."""
        digest = await asyncio.to_thread(self._artifacts.put, changes_json(changes))
        if node in self._kept and self._kept[node].data["patch"] == digest:
            return
        self._kept_changes[""] = self._kept_changes[node] = dict(changes)
        data = {
            "patch": digest,
            "failing": len(failing),
            "failing_tests": list(failing),
            "files": sorted(changes),
            "explanation": explanation,
            **({"node": node} if node else {}),
        }
        await self.record(Kind.PATCH_KEPT, data, attempt=self.state.attempt)

    def left(self) -> Allowance:
        """What engines may still cost this run."""
        return allowance_of(self.task.budget, self.state.usage)

    def spent(self, under: str) -> Usage:
        """What engine calls of the steps whose names begin with `under` have cost, in all lives."""
        return sum((used for step, used in self._spent.items() if step.startswith(under)), Usage())

    async def recall(self, node: str) -> bytes | None:
        """What `node` gave when it ended, None for one that has not."""
        known = self.state.nodes.get(node)
        if known is None or known.artifact is None:
            return None
        return await asyncio.to_thread(self._artifacts.get, known.artifact)

    async def begin(self, node: str) -> None:
        """Tell that `node` starts, once; it is committed before anything that it does."""
        if node not in self.state.nodes and node not in self._begun:
            self._begun.add(node)
            self._run_log.append_soon(self.event(Kind.NODE_STARTED, {}, step=node))

    async def end(self, node: str, data: Mapping[str, Any], output: bytes) -> None:
        """Tell that `node` has ended, and what it gave; it is committed before anything that follows."""
        digest = await asyncio.to_thread(self._artifacts.put, output)
        known = self.state.nodes.get(node)
        wall_s = _seconds_since(known.started_at) if known and known.started_at else 0.0
        told = {**data, "artifact": digest, "wall_s": round(wall_s, 3)}
        self._run_log.append_soon(self.event(Kind.NODE_ENDED, told, step=node))

    async def ask(self, node: str, data: Mapping[str, Any]) -> None:
        """Commit, once, that a person's decision is waited for at `node`."""
        if node not in self.state.approvals:
            await self.append(self.event(Kind.APPROVAL_ASKED, data, step=node))

    def decision(self, node: str) -> Mapping[str, Any] | None:
        """What a person decided at `node`, None before that."""
        known = self.state.approvals.get(node)
        if known is None or known.approved is None:
            return None
        return {"approved": known.approved, "by": known.by, "why": known.why}

    def decided(self) -> asyncio.Event:
        """Set when a person decides something in this run."""
        return self._decided

    async def call(self, call: Call[T]) -> T:
        """Have the step done on a replica, or answer from the log."""
        key = (str(call.step), call.attempt)
        if key in self._worked_on:
            await self._run_log.settled()
        self._worked_on.add(key)
        done = self.state.steps.get(key)
        if done is not None and done.status == "completed" and done.result is not None:
            content = await asyncio.to_thread(self._artifacts.get, done.result)
            return from_json(call.returns, content)  # type: ignore[no-any-return]
        dispatch_id = f"{self.state.run_id}/{call.step}.{call.attempt}"
        # A graph that goes on after a pause asks anew, and its own answer to progress counts.
        self._calls[dispatch_id] = call
        result: T = await self.steps.done(dispatch_id, lambda: self._worked(dispatch_id, call, done))
        return result

    async def _worked(self, dispatch_id: str, call: Call[T], done: StepState | None) -> T:
        """The step done by an agent, its end in the log."""
        try:
            reminded = await self._reminded(call)
            result: T = await self._execute(dispatch_id, reminded, done)
        except HeldBack:
            raise
        except Exception as error:
            await self.append(self._of(call, Kind.STEP_FAILED, {"error": _told(error)}, dispatch_id))
            raise
        finally:
            del self._calls[dispatch_id]
        digest = await asyncio.to_thread(lambda: self._artifacts.put(to_json(result, call.returns)))
        data = {"result": digest, **_prompts_of(result)}
        self._run_log.append_soon(self._of(call, Kind.STEP_COMPLETED, data, dispatch_id))
        return result

    async def progress(self, dispatch_id: str, epoch: int, news: Improvement | Turn) -> None:
        """An agent of this run tells of partial progress, or of one of its turns.

        Raises:
            StaleEpoch: The step is no longer wanted, or was given to another replica.
        """
        call = self._calls.get(dispatch_id)
        known = self.state.steps.get((call.step, call.attempt)) if call else None
        if call is None or known is None or known.epoch != epoch:
            raise StaleEpoch(
                f"step {dispatch_id} under epoch {epoch} is no longer wanted", "stop working on it"
            )
        if isinstance(news, Turn):
            told = turn_to_json(news)
            if news.answers:
                content = to_json(news.answers, tuple[Answer, ...])
                told["answers"] = await asyncio.to_thread(self._artifacts.put, content)
            await self.append(self._of(call, Kind.STEP_PROGRESS, told, dispatch_id))
            return
        data = {
            "failing": len(news.failing),
            "explanation": news.explanation,
            "candidates": news.candidates,
            "cpu_s": round(news.cpu_s, 3),
            "files": sorted(news.changes),
        }
        await self.append(self._of(call, Kind.STEP_PROGRESS, data, dispatch_id))
        if call.progress is not None:
            await call.progress(news)

    async def called(self, dispatch_id: str, epoch: int, call: EngineCall) -> None:
        """An agent of this run asked an engine. It was paid for, so it counts whatever became of the step."""
        event = await asyncio.to_thread(
            called, call, self._artifacts, self.state, dispatch_id=dispatch_id, epoch=epoch
        )
        await self.append(event)

    async def _reminded(self, call: Call[T]) -> Call[T]:
        """`call` with what earlier runs taught, where it is a repair by a model."""
        request = call.request
        if self._memory is None or not isinstance(request, RepairRequest) or not request.model:
            return call
        terms = terms_of(signature_of(request.details))
        lessons = await self._memory.recall(terms, tenant=self.task.tenant)
        # A run that goes on after its end learns nothing from itself.
        others = tuple(each for each in lessons if each.run_id != self.state.run_id)
        return replace(call, request=replace(request, lessons=others))

    async def _execute(self, dispatch_id: str, call: Call[T], done: StepState | None) -> T:
        lessons = await asyncio.to_thread(self._lessons_of, call.request)

        async def on_dispatched(replica: str, epoch: int) -> None:
            self.steps.begin(dispatch_id)
            failpoints.hit("step.granted")
            data = {"replica": replica, "role": str(call.role), "method": call.method, **lessons}
            await self.append(self._of(call, Kind.STEP_DISPATCHED, data, dispatch_id, epoch))
            failpoints.hit("step.dispatched")

        async def on_requeued(epoch: int, reason: str) -> None:
            self.steps.requeued(dispatch_id)
            await self.append(self._of(call, Kind.STEP_REQUEUED, {"reason": reason}, dispatch_id, epoch))

        dispatch = Dispatch(
            dispatch_id=dispatch_id,
            run_id=self.state.run_id,
            step=call.step,
            role=call.role,
            method=call.method,
            payload=call.request,
            priority=self.task.priority,
            tenant=self.task.tenant,
            affinity=self.state.run_id,
            epoch=done.epoch + 1 if done else 1,
            was_on=(done.replica or "") if done and done.status == "dispatched" else "",
            allowance=self.left().within(call.allowance),
        )
        result: T = await self._fleet.execute(dispatch, on_dispatched=on_dispatched, on_requeued=on_requeued)
        failpoints.hit("step.answered")
        return result

    def _lessons_of(self, request: object) -> dict[str, str]:
        """The lessons that the step is given, for a replay: they come from other runs."""
        if not isinstance(request, RepairRequest) or not request.lessons:
            return {}
        return {"lessons": self._artifacts.put(to_json(request.lessons, tuple[Lesson, ...]))}

    def _of(
        self, call: Call[Any], kind: Kind, data: Mapping[str, Any], dispatch_id: str, epoch: int | None = None
    ) -> NewEvent:
        known = self.state.steps.get((call.step, call.attempt))
        return self.event(
            kind,
            data,
            step=str(call.step),
            attempt=call.attempt,
            dispatch_id=dispatch_id,
            epoch=epoch if epoch is not None else known.epoch if known else 0,
        )


def turn_to_json(turn: Turn) -> dict[str, Any]:
    """An agent's turn as the data of `step_progress` keeps it; `turn` tells it from an improvement."""
    told = asdict(turn)
    usage = told.pop("usage")
    del told["answers"]
    return {"turn": told.pop("number"), **told, "usage": {name: used for name, used in usage.items() if used}}


def _seconds_since(at: str) -> float:
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds())


def _fact(kind: Kind, attempt: int, data: Mapping[str, Any]) -> tuple[Kind, int, str]:
    return kind, attempt, canonical(data)


def _told(error: Exception) -> dict[str, Any]:
    if isinstance(error, RaysmithError):
        return error_to_json(error)
    return {"code": "error", "message": f"{type(error).__name__}: {error}", "next": "", "exit_code": 1}


def used_wall_s(events: Sequence[Event]) -> float:
    """Seconds between the first and last event of each life of a run since it last ended, added up.

    A pause is no end.
    """
    used, start, last = 0.0, None, None
    for event in events:
        if event.type is Kind.RUN_FINISHED:
            was = used + (last - start).total_seconds() if start and last else used
            used = was if event.data.get("reason") == PAUSED else 0.0
            start, last = None, None
            continue
        if event.type in EFFECTS or (event.type is Kind.ENGINE_CALLED and start is None):
            continue
        at = datetime.fromisoformat(event.at)
        if event.type in (Kind.RUN_STARTED, Kind.RUN_RESUMED):
            if start is not None and last is not None:
                used += (last - start).total_seconds()
            start = at
        last = at
    return used + (last - start).total_seconds() if start and last else used


def task_to_json(task: Task) -> dict[str, Any]:
    """The task as the data of `run_submitted` keeps it."""
    return asdict(task)


def _prompts_of(result: object) -> dict[str, Any]:
    """Which prompts a step's model was given, as TEMPLATE@VERSION; nothing where none was."""
    contexts: Sequence[ContextManifest] = getattr(result, "contexts", ())
    named = dict.fromkeys(f"{each.template}@{each.version}" for each in contexts if each.template)
    return {"prompts": list(named)} if named else {}
