"""A run brought to its end, or to its pause: loaded, its graph executed, its end recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from cluster.approvals import is_decided
from cluster.artifacts import ArtifactStore
from cluster.event_log import EventLog
from cluster.graphs import shipped, stored
from cluster.handles import FleetClient
from cluster.live_run import LiveRun
from orchestrator.codec import from_json
from orchestrator.declaration import Declaration
from orchestrator.endings import cut_off, failed, out_of_time
from orchestrator.errors import RaysmithError, StoreError
from orchestrator.events import Kind, RunState, Status, canonical, fold
from orchestrator.graph_work import execute
from orchestrator.loop import Outcome
from orchestrator.pausing import PAUSED, is_called_back
from orchestrator.ports import Memory
from orchestrator.report import changes_json, diff_text, finished
from orchestrator.task import Task

log = structlog.get_logger()

# Settings that prompts and patches depend on. None of them can hold a secret: they go into exports.
REPLAYED_SETTINGS = ("repair", "reply", "shell")


class RunWork:
    """Executes runs, each in a task of its caller's."""

    def __init__(
        self,
        *,
        event_log: EventLog,
        artifacts: ArtifactStore,
        fleet: FleetClient,
        life: str,
        memory: Memory | None,
        agents: Mapping[str, Any],
        announce: Callable[[str], None],
    ) -> None:
        self._log = event_log
        self._artifacts = artifacts
        self._fleet = fleet
        self._memory = memory
        self._life = life
        self._agents = {name: agents.get(name) for name in REPLAYED_SETTINGS}
        self._announce = announce
        # Runs in hand, for those who have news for them.
        self.live: dict[str, LiveRun] = {}

    async def execute(self, run_id: str) -> None:
        """Bring a run to its end, or to where only people can go on.

        Raises:
            StoreError: The log or the artifacts cannot be used just now.
        """
        while True:
            live = await self.load(run_id)
            if live.state.status.is_finished:
                return
            self.live[run_id] = live
            # What a person said since it was read; from here on their word comes through it.
            await live.catch_up()
            outcome, error = await self._outcome(live)
            await self._finish(live, outcome, error)
            # A gate may be decided, and a pause called off, between the graph's last look and the run's end.
            if not is_decided(live.state) and not is_called_back(live.state):
                return
            await live.append(live.event(Kind.RUN_RESUMED, await self.taken_on()))

    async def stop(self, run_id: str, cancelled_for: str | None) -> None:
        """Record how a run stands whose work was stopped: cancelled with that reason; paused, for None."""
        live = self.live.get(run_id) or await self.load(run_id)
        await self._log.do(lambda _driver: None)  # behind what was being committed when it was stopped
        await live.catch_up()
        state = live.state
        if state.status.is_finished and (cancelled_for is None or state.status is not Status.PARKED):
            return
        if cancelled_for is None:
            await self._finish(live, _paused(live), None)
            return
        await live.append(live.event(Kind.CANCEL_REQUESTED, {"reason": cancelled_for}))
        outcome = cut_off(live, live.state.attempt, Status.CANCELLED, "cancelled_by_user")
        await self._finish(live, outcome, None)

    async def load(self, run_id: str) -> LiveRun:
        """The run as its events tell it, ready to be worked on."""
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
            graph=await self.graph_of(state),
            memory=self._memory if task.agents.memory else None,
            on_event=self._announce,
        )
        await live.load_kept()
        return live

    async def graph_of(self, state: RunState) -> Declaration:
        """The graph that a run keeps; that of runs from before graphs were kept is the one that ships."""
        if state.graph_version is None:
            return shipped(str(state.task.get("graph", "")))
        return stored(await asyncio.to_thread(self._artifacts.get, state.graph_version))

    async def taken_on(self) -> dict[str, Any]:
        """Who takes a run on, and how its agents are set."""
        return {"life": self._life, "agents": await asyncio.to_thread(self._artifacts.put_json, self._agents)}

    async def _outcome(self, live: LiveRun) -> tuple[Outcome, RaysmithError | None]:
        """How the graph ended, and the error that ended it, if one did."""
        if live.state.pause is not None:
            # An orchestrator before this one was killed between the word and the run's pause.
            return _paused(live), None
        try:
            taken_on = await self.taken_on()
            if live.state.status is Status.PENDING:
                await live.append(live.event(Kind.RUN_STARTED, taken_on))
            elif live.last_kind is not Kind.RUN_RESUMED:
                await live.append(live.event(Kind.RUN_RESUMED, taken_on))
            async with asyncio.timeout(max(0.1, live.remaining_s())):
                return await _executed(live), None
        except TimeoutError:
            return out_of_time(live, live.state.attempt), None
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

    async def _finish(self, live: LiveRun, outcome: Outcome, error: RaysmithError | None) -> None:
        diff = patch = None
        if outcome.changes:
            diff = await asyncio.to_thread(self._artifacts.put, diff_text(live.tree, outcome.changes))
            patch = await asyncio.to_thread(self._artifacts.put, changes_json(outcome.changes))
        # What agents tell misses the calls of steps that failed or were cancelled.
        usage = live.state.usage if live.state.usage.requests else outcome.usage
        data = finished(outcome, usage=usage, diff=diff, patch=patch, wall_s=live.used_s, error=error)
        await live.append(live.event(Kind.RUN_FINISHED, data))
        self.live.pop(live.state.run_id, None)
        if self._memory is not None and live.task.agents.memory and outcome.lesson is not None:
            lesson = replace(outcome.lesson, run_id=live.state.run_id)
            try:
                is_again = live.state.resumed > 0
                await self._memory.learn(lesson, tenant=live.task.tenant, is_again=is_again)
            except Exception:
                # A hint less for later runs; this one has ended.
                log.exception("memory_not_written", run=lesson.run_id)


def _paused(live: LiveRun) -> Outcome:
    return cut_off(live, live.state.attempt, Status.PARKED, PAUSED)


async def _executed(live: LiveRun) -> Outcome:
    """How the graph ends; or, once somebody paused the run and its steps have ended, its pause."""
    try:
        while True:
            if (outcome := await _until_paused(live)) is not None:
                return outcome
            await live.steps.ended()
            if live.state.pause is not None:
                return _paused(live)
    finally:
        await live.steps.stop()


async def _until_paused(live: LiveRun) -> Outcome | None:
    graph = asyncio.create_task(execute(live.graph, live), name=f"{live.state.run_id} graph")
    word = asyncio.create_task(live.steps.pausing())
    try:
        await asyncio.wait([graph, word], return_when=asyncio.FIRST_COMPLETED)
        return graph.result() if graph.done() else None
    finally:
        graph.cancel()
        word.cancel()
        await asyncio.wait([graph])
        if not graph.cancelled():
            graph.exception()  # of a graph that was stopped; its steps are in the log
