"""The orchestrator: owns the store, executes runs, and carries on every unfinished one after a restart.

An ordinary class with async methods; `cluster/factory.py` makes it a named Ray actor.
No state that matters lives only here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import structlog

from cluster.approvals import is_decided, is_parked_at_gate, open_gate
from cluster.artifacts import ArtifactStore
from cluster.calls import called
from cluster.event_log import EventLog, RunSummary
from cluster.event_log_usage import By, Spent
from cluster.graphs import shipped, stored
from cluster.handles import FleetClient
from cluster.live_run import LiveRun, task_to_json
from cluster.orchestrator_settings import OrchestratorSettings
from orchestrator.codec import from_json
from orchestrator.declaration import Declaration, declared
from orchestrator.endings import cut_off, failed
from orchestrator.errors import (
    KeyReused,
    QueueFull,
    RaysmithError,
    ReplicaLost,
    StoreDamaged,
    StoreError,
    StoreOwned,
    TaskError,
)
from orchestrator.events import Event, Kind, NewEvent, RunState, Status, canonical, fold
from orchestrator.forking import check_same_past, inherited, start_of
from orchestrator.graph_check import checked, inputs_of
from orchestrator.graph_work import execute
from orchestrator.loop import Outcome
from orchestrator.node_output import AWAITING
from orchestrator.ports import Memory
from orchestrator.report import changes_from, changes_json, diff_text, finished, is_done, result
from orchestrator.steps import EngineCall, Improvement, Turn
from orchestrator.task import Task, new_run_id
from orchestrator.tree import Tree

log = structlog.get_logger()

# Settings that prompts and patches depend on. None of them can hold a secret: they go into exports.
REPLAYED_SETTINGS = ("repair", "reply", "shell")
STORE_RETRY_S = (0.5, 1, 2, 5, 10)


class Orchestrator:
    """Runs graphs on a fleet; every run's state is the fold of its events.

    Invariant: a run that was acknowledged by `submit` is in the log, and ends there with
    `run_finished` or stays unfinished for the next life.
    """

    def __init__(
        self,
        *,
        event_log: EventLog,
        artifacts: ArtifactStore,
        fleet: FleetClient,
        settings: OrchestratorSettings,
        life: str,
        memory: Memory | None = None,
        agents: Mapping[str, Any] | None = None,
    ) -> None:
        self._log = event_log
        self._artifacts = artifacts
        self._fleet = fleet
        self._memory = memory
        self._life = life
        self._agents = {name: (agents or {}).get(name) for name in REPLAYED_SETTINGS}
        self._slots = asyncio.Semaphore(settings.max_active_runs)
        self._most_in_hand = settings.max_active_runs + settings.max_pending_runs
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._live: dict[str, LiveRun] = {}
        self._cancelling: dict[str, str] = {}
        self._news: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._submitting = asyncio.Lock()
        self._deciding = asyncio.Lock()

    async def submit(
        self, task: Task, tree: Tree | None = None, candidate: Tree | None = None, key: str | None = None
    ) -> str:
        """Accept a task and return its run's id; it is in the log before this returns.

        With a `key` that names an earlier run of the same task: an unfinished one is carried on, one that
        waits for a person's decision or is done (succeeded, or attempts or budget spent) is returned, any
        other is run again.

        Raises:
            TaskError: The task does not fit its graph.
            QueueFull: As many runs are pending as may be.
        """
        graph = _graph_for(task, tree, candidate)
        async with self._submitting:
            if key and (earlier := await self._earlier(key)):
                return earlier
            return await self._accept(task, graph, tree, candidate, key=key)

    async def submit_once(
        self, task: Task, tree: Tree | None, candidate: Tree | None, *, key: str, fingerprint: str
    ) -> tuple[str, bool]:
        """Accept a task under `key` for good: asked again, it is the same run, however that ended.

        Args:
            fingerprint: Tells this request from any other; kept with the run.

        Returns:
            The run's id, and whether it was there before.

        Raises:
            KeyReused: An earlier request under this key was another one.
            TaskError, QueueFull: As `submit`.
        """
        graph = _graph_for(task, tree, candidate)
        async with self._submitting:
            run_id = await asyncio.to_thread(self._log.find_by_key, key)
            if run_id is None:
                return await self._accept(
                    task, graph, tree, candidate, key=key, fingerprint=fingerprint
                ), False
            (first,) = await asyncio.to_thread(self._log.events, run_id, 0, 1)
            if first.data.get("fingerprint") != fingerprint:
                raise KeyReused(
                    "this idempotency key came with another request before",
                    "take a new key for a new request",
                )
            if not (await self._state(run_id)).status.is_finished:
                self._carry_on(run_id)
            return run_id, True

    @property
    def room(self) -> int:
        """How many more runs would be accepted now."""
        return self._most_in_hand - sum(not task.done() for task in self._tasks.values())

    def _check_room(self) -> None:
        if self.room <= 0:
            raise QueueFull(
                f"{self._most_in_hand} runs are in hand and no more are accepted",
                "submit again later, or raise `orchestrator.max_pending_runs`",
            )

    async def _earlier(self, key: str) -> str | None:
        run_id = await asyncio.to_thread(self._log.find_by_key, key)
        if run_id is None:
            return None
        state = await self._state(run_id)
        if not state.status.is_finished:
            self._carry_on(run_id)
            return run_id
        if is_parked_at_gate(state):
            # It waits for a person; what it has worked out stands.
            await self._go_on_decided(run_id)
            return run_id
        return run_id if is_done(state) else None

    async def _accept(
        self,
        task: Task,
        graph: Declaration,
        tree: Tree | None,
        candidate: Tree | None,
        *,
        key: str | None,
        fingerprint: str | None = None,
    ) -> str:
        self._check_room()
        digest = await asyncio.to_thread(self._artifacts.save_tree, tree or Tree())
        inputs = dict(task.inputs)
        if candidate is not None:
            inputs["candidate"] = await asyncio.to_thread(self._artifacts.save_tree, candidate)
        # A running run keeps its graph, whatever ships later under its name.
        version = await asyncio.to_thread(self._artifacts.put, graph.canonical_json())
        run_id = new_run_id()
        task = replace(task, graph=graph.name, tree=digest, inputs=inputs, declaration=None)
        data = {
            "task": task_to_json(task),
            "graph_version": version,
            "key": key,
            "life": self._life,
        }
        if fingerprint is not None:
            data["fingerprint"] = fingerprint
        await self._log.append(
            [NewEvent(run_id=run_id, type=Kind.RUN_SUBMITTED, data=data, tenant=task.tenant)]
        )
        self._carry_on(run_id)
        return run_id

    def _carry_on(self, run_id: str) -> None:
        running = self._tasks.get(run_id)
        if running is None or running.done():
            self._tasks[run_id] = asyncio.create_task(self._work_on(run_id), name=run_id)

    async def resume(self, run_ids: Collection[str] | None = None) -> list[str]:
        """Carry on unfinished runs, all of them or the named ones; one that waited at a gate is unfinished
        once that is decided.

        A named run that was cancelled, parked or failed is taken up again with a fresh wall budget.
        """
        if run_ids is None:
            chosen = [*await asyncio.to_thread(self._log.unfinished), *await self._decided_runs()]
        else:
            chosen = [await asyncio.to_thread(self._log.find_run, run_id) for run_id in run_ids]
        resumed = []
        for run_id in chosen:
            working = self._tasks.get(run_id)
            state = await self._state(run_id)
            if state.status.is_finished and working is not None and not working.done():
                # The end is committed a moment before its task is over; that task will not take it up.
                await asyncio.wait([working])
                state = await self._state(run_id)
            if state.status is Status.SUCCEEDED:
                continue
            if state.status.is_finished:
                # A step that was quarantined gets another chance with the person's word.
                await self._fleet.forget(run_id)
                await self._append_outside(state, Kind.RUN_RESUMED, await self._taken_on())
            self._carry_on(run_id)
            resumed.append(run_id)
        return resumed

    async def resume_life(self, lives: Collection[str]) -> list[str]:
        """Carry on the unfinished runs that one of `lives` had taken on; after a restart of this actor."""
        unfinished = [Status.PENDING, Status.RUNNING]
        mine = [
            run.run_id
            for life in lives
            for run in await asyncio.to_thread(self._log.runs, status=unfinished, life=life, limit=None)
        ]
        decided = [run_id for life in lives for run_id in await self._decided_runs(life)]
        return await self.resume([*mine, *decided])

    async def _decided_runs(self, life: str | None = None) -> list[str]:
        """Runs that are parked although their gate is decided: the orchestrator died between the two."""
        parked = await asyncio.to_thread(self._log.runs, status=[Status.PARKED], life=life, limit=None)
        waiting = [run.run_id for run in parked if run.reason == AWAITING]
        return [run_id for run_id in waiting if is_decided(await self._state(run_id))]

    async def cancel(self, run_id: str, reason: str = "") -> RunState:
        """Stop a run; its best patch so far stays. Cancelling a finished run changes nothing."""
        run_id = await asyncio.to_thread(self._log.find_run, run_id)
        state = await self._state(run_id)
        if state.status.is_finished:
            return state
        # A task that has not begun would be cancelled before it can record why.
        await asyncio.sleep(0)
        # Once only: a second time would hit the task while it records the first.
        if run_id not in self._cancelling:
            self._cancelling[run_id] = reason
            if self._is_over(run_id):
                self._carry_on(run_id)
            else:
                self._tasks[run_id].cancel()
        await asyncio.wait([self._tasks[run_id]])
        return await self._state(run_id)

    async def fork(self, run_id: str, start: str, declaration: Mapping[str, Any] | None = None) -> str:
        """A new run that inherits what the run worked out before its node or step `start`; its id.

        Args:
            start: See `orchestrator.forking.start_of`.
            declaration: Another graph than the run's own; what ended before has to be the same in it.

        Raises:
            TaskError: There is no such step, it did not end, or the graph does not fit.
            QueueFull: As many runs are pending as may be.
        """
        run_id = await asyncio.to_thread(self._log.find_run, run_id)
        events = await asyncio.to_thread(self._log.events, run_id)
        state = fold(events)
        seq = start_of(events, start)
        graph = old = await self._graph_of(state)
        if declaration is not None:
            graph = checked(declared(declaration, "the new graph"), "the new graph")
            check_same_past(old, graph, events, seq)
        self._check_room()
        version = await asyncio.to_thread(self._artifacts.put, graph.canonical_json())
        fork_id = new_run_id()
        data = {
            "task": {**state.task, "graph": graph.name},
            "graph_version": version,
            "key": None,
            "life": self._life,
            "parent": {"run": run_id, "seq": seq - 1, "from": start},
        }
        first = NewEvent(run_id=fork_id, type=Kind.RUN_SUBMITTED, data=data, tenant=state.tenant)
        await self._log.append([first, *inherited(events, seq, fork_id)])
        self._carry_on(fork_id)
        return fork_id

    async def _graph_of(self, state: RunState) -> Declaration:
        """The graph that a run keeps; that of runs from before graphs were kept is the one that ships."""
        if state.graph_version is None:
            return shipped(str(state.task.get("graph", "")))
        return stored(await asyncio.to_thread(self._artifacts.get, state.graph_version))

    async def decide(
        self, run_id: str, node: str | None, *, approved: bool, by: str, why: str = ""
    ) -> RunState:
        """Record a person's yes or no at a gate and go on; `node` may be left out where one is open.

        Raises:
            TaskError: The run has ended, the node asks nothing, or it was decided before.
        """
        run_id = await asyncio.to_thread(self._log.find_run, run_id)
        async with self._deciding:
            state = await self._state(run_id)
            gate = open_gate(state, node)
            data = {"approved": approved, "by": by, "why": why}
            if (live := self._live.get(run_id)) is not None:
                await live.append(live.event(Kind.APPROVAL_DECIDED, data, step=gate))
            else:
                await self._append_outside(state, Kind.APPROVAL_DECIDED, data, step=gate)
                if (live := self._live.get(run_id)) is not None:
                    await live.catch_up()
            if (await self._state(run_id)).status.is_finished:
                await self._go_on_decided(run_id)
        return await self._state(run_id)

    async def _go_on_decided(self, run_id: str) -> None:
        """Take up a run that was parked at a gate which has been decided since."""
        while not self._is_over(run_id):
            if not is_decided(await self._state(run_id)):
                return
            await asyncio.wait([self._tasks[run_id]], timeout=0.1)
        state = await self._state(run_id)
        if is_decided(state):
            await self._append_outside(state, Kind.RUN_RESUMED, await self._taken_on())
            self._carry_on(run_id)

    async def state(self, run_id: str) -> RunState:
        """The run's state; `run_id` may be a unique prefix."""
        return await self._state(await asyncio.to_thread(self._log.find_run, run_id))

    async def events(self, run_id: str, after_seq: int = 0, wait_s: float = 0.0) -> Sequence[Event]:
        """The run's events after `after_seq`; waits up to `wait_s` for the first of them."""
        news = self._news[run_id]
        events = await asyncio.to_thread(self._log.events, run_id, after_seq)
        if not events and wait_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), wait_s)
            events = await asyncio.to_thread(self._log.events, run_id, after_seq)
        return events

    async def wait(self, run_ids: Collection[str], timeout_s: float) -> dict[str, RunState]:
        """The finished ones of `run_ids`, as soon as there is one or `timeout_s` is over."""
        tasks = [self._tasks[run_id] for run_id in run_ids if run_id in self._tasks]
        if tasks and not any(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        states = [await self._state(run_id) for run_id in run_ids if self._is_over(run_id)]
        return {state.run_id: state for state in states if state.status.is_finished}

    async def runs(
        self,
        status: Collection[Status] | None = None,
        limit: int = 100,
        offset: int = 0,
        tenant: str | None = None,
    ) -> tuple[list[RunSummary], int]:
        """A page of runs, the newest first, and how many there are in all."""
        page = await asyncio.to_thread(
            self._log.runs, status=status, tenant=tenant, limit=limit, offset=offset
        )
        return page, await asyncio.to_thread(self._log.count, status=status, tenant=tenant)

    async def usage(self, by: By, tenant: str | None, since: str) -> list[Spent]:
        """What engines cost, see `LogReads.usage`."""
        return await asyncio.to_thread(self._log.usage, by, tenant=tenant, since=since)

    async def diff(self, run_id: str) -> bytes:
        """The run's patch as the bytes of a `.diff` file, or the best so far; empty when there is none."""
        state = await self.state(run_id)
        if digest := state.report.get("diff"):
            return await self.artifact(digest)
        if state.best_patch is None:
            return b""
        changes = changes_from(await self.artifact(state.best_patch))
        return diff_text(await asyncio.to_thread(self._artifacts.load_tree, state.task["tree"]), changes)

    async def result(self, run_id: str) -> dict[str, Any]:
        """The run's result in the words of every output."""
        state = await self.state(run_id)
        return await asyncio.to_thread(result, state, self._artifacts.get)

    async def artifact(self, digest: str) -> bytes:
        """The bytes behind `digest`."""
        return await asyncio.to_thread(self._artifacts.get, digest)

    async def status(self) -> dict[str, Any]:
        """The fleet, its queue, and the runs in hand."""
        fleet = await self._fleet.status()
        active = [run_id for run_id, task in self._tasks.items() if not task.done()]
        return {"fleet": fleet, "active_runs": active, "working_on": sorted(self._live)}

    async def report_progress(self, dispatch_id: str, epoch: int, news: Improvement | Turn) -> None:
        """An agent tells of partial progress; it is in the log before this returns."""
        run_id = dispatch_id.split("/", 1)[0]
        live = self._live.get(run_id)
        if live is None:
            raise ReplicaLost(f"run {run_id} is not in hand", "stop working on it")
        await live.progress(dispatch_id, epoch, news)

    async def report_call(self, dispatch_id: str, epoch: int, call: EngineCall) -> None:
        """An agent asked an engine; it is in the log before this returns, also when the run has ended."""
        run_id = dispatch_id.split("/", 1)[0]
        live = self._live.get(run_id)
        if live is not None:
            await live.called(dispatch_id, epoch, call)
            return
        state = await self._state(run_id)
        event = await asyncio.to_thread(
            called, call, self._artifacts, state, dispatch_id=dispatch_id, epoch=epoch
        )
        await self._log.append([event])
        self._announce(run_id)

    def _is_over(self, run_id: str) -> bool:
        task = self._tasks.get(run_id)
        return task is None or task.done()

    async def _state(self, run_id: str) -> RunState:
        return await asyncio.to_thread(self._log.state, run_id)

    def _announce(self, run_id: str) -> None:
        self._news.pop(run_id, asyncio.Event()).set()

    async def _append_outside(
        self, state: RunState, kind: Kind, data: dict[str, Any], step: str | None = None
    ) -> None:
        event = NewEvent(run_id=state.run_id, type=kind, data=data, step=step, tenant=state.tenant)
        await self._log.append([event])
        self._announce(state.run_id)

    async def _work_on(self, run_id: str) -> None:
        """Bring a run to its end; while the store cannot be written it waits and tries again."""
        try:
            for wait_s in chain(STORE_RETRY_S, repeat(STORE_RETRY_S[-1])):
                try:
                    await self._execute_or_cancel(run_id)
                    return
                except (StoreOwned, StoreDamaged) as error:
                    # Whoever took the store over carries it on, or whoever mends the store.
                    log.warning("run_left", run=run_id, error=str(error))
                    return
                except StoreError as error:
                    log.warning("run_waits_for_store", run=run_id, error=str(error), wait_s=wait_s)
                    await self._pause(run_id, wait_s)
                finally:
                    self._live.pop(run_id, None)
        finally:
            self._cancelling.pop(run_id, None)

    async def _execute_or_cancel(self, run_id: str) -> None:
        if run_id not in self._cancelling:
            try:
                async with self._slots:
                    await self._execute(run_id)
                return
            except asyncio.CancelledError:
                if run_id not in self._cancelling:
                    raise
        await self._finish_cancelled(run_id)

    async def _pause(self, run_id: str, wait_s: float) -> None:
        """Wait, unless somebody cancelled the run; when this orchestrator ends, end."""
        task = asyncio.current_task()
        if task and task.cancelling() and run_id not in self._cancelling:
            # A task group that fails while it is cancelled tells of the failure only.
            raise asyncio.CancelledError
        try:
            await asyncio.sleep(wait_s)
        except asyncio.CancelledError:
            if run_id not in self._cancelling:
                raise

    async def _execute(self, run_id: str) -> None:
        while True:
            live = await self._load(run_id)
            if live.state.status.is_finished:
                return
            self._live[run_id] = live
            # What a person decided since it was read; from here on decisions come through it.
            await live.catch_up()
            outcome, error = await self._outcome(live)
            await self._finish(live, outcome, error)
            # A gate may be decided between the graph's last look and the run's end.
            if not is_decided(live.state):
                return
            await live.append(live.event(Kind.RUN_RESUMED, await self._taken_on()))

    async def _finish_cancelled(self, run_id: str) -> None:
        live = self._live.get(run_id) or await self._load(run_id)
        await self._log.do(lambda _driver: None)  # behind what was being committed when it was cancelled
        await live.catch_up()
        if not live.state.status.is_finished:
            await live.append(live.event(Kind.CANCEL_REQUESTED, {"reason": self._cancelling[run_id]}))
            await self._finish(
                live, cut_off(live, live.state.attempt, Status.CANCELLED, "cancelled_by_user"), None
            )

    async def _load(self, run_id: str) -> LiveRun:
        events = await asyncio.to_thread(self._log.events, run_id)
        state = fold(events)
        task: Task = from_json(Task, canonical(state.task).encode())
        assert task.tree is not None
        tree = await asyncio.to_thread(self._artifacts.load_tree, task.tree)
        candidate = task.inputs.get("candidate")
        live = LiveRun(
            state=state,
            events=events,
            task=task,
            tree=tree,
            candidate=await asyncio.to_thread(self._artifacts.load_tree, candidate) if candidate else None,
            event_log=self._log,
            artifacts=self._artifacts,
            fleet=self._fleet,
            graph=await self._graph_of(state),
            memory=self._memory if task.agents.memory else None,
            on_event=self._announce,
        )
        await live.load_kept()
        return live

    async def _outcome(self, live: LiveRun) -> tuple[Outcome, RaysmithError | None]:
        """How the graph ended, and the error that ended it, if one did."""
        try:
            taken_on = await self._taken_on()
            if live.state.status is Status.PENDING:
                await live.append(live.event(Kind.RUN_STARTED, taken_on))
            elif live.last_kind is not Kind.RUN_RESUMED:
                await live.append(live.event(Kind.RUN_RESUMED, taken_on))
            async with asyncio.timeout(max(0.1, live.remaining_s())):
                return await execute(live.graph, live), None
        except TimeoutError:
            return cut_off(live, live.state.attempt, Status.FAILED, "budget_exhausted"), None
        except StoreError:
            raise
        except RaysmithError as error:
            return failed(live, live.state.attempt, error), error
        except Exception as error:
            log.exception("run_broke", run=live.state.run_id)
            wrapped = RaysmithError(
                f"{type(error).__name__}: {error}", "see the log; `raysmith resume` tries again"
            )
            return cut_off(live, live.state.attempt, Status.FAILED, "error"), wrapped

    async def _taken_on(self) -> dict[str, Any]:
        """Who takes a run on, and how its agents are set."""
        return {"life": self._life, "agents": await asyncio.to_thread(self._artifacts.put_json, self._agents)}

    async def _finish(self, live: LiveRun, outcome: Outcome, error: RaysmithError | None) -> None:
        diff = patch = None
        if outcome.changes:
            diff = await asyncio.to_thread(self._artifacts.put, diff_text(live.tree, outcome.changes))
            patch = await asyncio.to_thread(self._artifacts.put, changes_json(outcome.changes))
        # What agents tell misses the calls of steps that failed or were cancelled.
        usage = live.state.usage if live.state.usage.requests else outcome.usage
        data = finished(outcome, usage=usage, diff=diff, patch=patch, wall_s=live.used_s, error=error)
        await live.append(live.event(Kind.RUN_FINISHED, data))
        self._live.pop(live.state.run_id, None)
        if self._memory is not None and live.task.agents.memory and outcome.lesson is not None:
            lesson = replace(outcome.lesson, run_id=live.state.run_id)
            try:
                is_again = live.state.resumed > 0
                await self._memory.learn(lesson, tenant=live.task.tenant, is_again=is_again)
            except Exception:
                # A hint less for later runs; this one has ended.
                log.exception("memory_not_written", run=lesson.run_id)


def _graph_for(task: Task, tree: Tree | None, candidate: Tree | None) -> Declaration:
    """The task's graph, when the task brings what that needs."""
    if task.declaration is not None:
        source = f"graph {task.graph!r}"
        graph = checked(declared(task.declaration, source), source)
    else:
        graph = shipped(task.graph)
    if graph.needs("folder") and tree is None:
        raise TaskError(f"graph {graph.name!r} needs a folder", "give --path DIR")
    if graph.needs("goal") and not task.goal:
        raise TaskError(f"graph {graph.name!r} needs a goal in words", "say what to build")
    if graph.needs("candidate") and candidate is None:
        raise TaskError(f"graph {graph.name!r} needs a candidate folder", "give BASE and CANDIDATE")
    inputs_of(graph, task.inputs)
    return graph
