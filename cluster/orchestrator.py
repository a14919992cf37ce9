"""The orchestrator: owns the store, executes runs, and carries on every unfinished one after a restart.

An ordinary class with async methods; `cluster/factory.py` makes it a named Ray actor.
No state that matters lives only here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cluster.approvals import is_decided, is_parked_at_gate, open_gate
from cluster.calls import called
from cluster.importing import insert
from cluster.intake import branch, graph_for, submission
from cluster.run_tasks import RunTasks
from orchestrator.declaration import Declaration, declared
from orchestrator.errors import KeyReused, ReplicaLost
from orchestrator.events import Event, Kind, NewEvent, RunState, Status, fold
from orchestrator.forking import check_same_past, inherited, start_of
from orchestrator.graph_check import checked
from orchestrator.node_output import AWAITING
from orchestrator.pausing import check_pausable, is_paused
from orchestrator.report import is_done
from orchestrator.retrying import kept_by_retry
from orchestrator.steps import EngineCall, Improvement, Turn
from orchestrator.task import Task
from orchestrator.tree import Tree


class Orchestrator(RunTasks):
    """Runs graphs on a fleet; every run's state is the fold of its events.

    Invariant: a run that was acknowledged by `submit` is in the log, and ends there with
    `run_finished` or stays unfinished for the next life.
    """

    def __init__(self, **parts: Any) -> None:
        """See `RunTasks`."""
        super().__init__(**parts)
        self._submitting = asyncio.Lock()
        self._deciding = asyncio.Lock()

    # ---- new runs

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
        graph = graph_for(task, tree, candidate)
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
        graph = graph_for(task, tree, candidate)
        async with self._submitting:
            run_id = await asyncio.to_thread(self._log.find_by_key, key)
            if run_id is None:
                told = {"key": key, "fingerprint": fingerprint}
                return await self._accept(task, graph, tree, candidate, **told), False
            (first,) = await asyncio.to_thread(self._log.events, run_id, 0, 1)
            if first.data.get("fingerprint") != fingerprint:
                raise KeyReused(
                    "this idempotency key came with another request before",
                    "take a new key for a new request",
                )
            if not (await self._state(run_id)).status.is_finished:
                self._carry_on(run_id)
            return run_id, True

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
        self, task: Task, graph: Declaration, tree: Tree | None, candidate: Tree | None, **known_by: Any
    ) -> str:
        self._check_room()
        first = await submission(task, graph, tree, candidate, self._artifacts, life=self._life, **known_by)
        return await self._begin([first])

    async def _begin(self, events: list[NewEvent]) -> str:
        await self._log.append(events)
        self._carry_on(events[0].run_id)
        return events[0].run_id

    async def fork(
        self,
        run_id: str,
        start: str,
        declaration: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> str:
        """A new run that inherits what the run worked out before its node or step `start`; its id.

        Args:
            start: See `orchestrator.forking.start_of`.
            declaration: Another graph than the run's own; what ended before has to be the same in it.
            key: Asked again with it, it is the same new run.

        Raises:
            TaskError: There is no such step, it did not end, or the graph does not fit.
            QueueFull: As many runs are pending as may be.
        """
        parent, events = await self._past(run_id)
        seq = start_of(events, start)
        graph = old = await self._work.graph_of(parent)
        if declaration is not None:
            graph = checked(declared(declaration, "the new graph"), "the new graph")
            check_same_past(old, graph, events, seq)
        place = {"seq": seq - 1, "from": start}
        return await self._branch(parent, graph, inherited(events[: seq - 1]), key, place)

    async def retry(self, run_id: str, node: str, key: str | None = None) -> str:
        """A new run that does one failed node of an ended run anew, and what comes after it; its id.

        What other nodes worked out is inherited. `key` is as in `fork`.

        Raises:
            TaskError: The run has not ended, or there is no such node or it did not fail.
            QueueFull: As many runs are pending as may be.
        """
        parent, events = await self._past(run_id)
        graph = await self._work.graph_of(parent)
        kept = inherited(kept_by_retry(events, parent, graph, node))
        place = {"seq": parent.last_seq, "from": node, "retry": True}
        return await self._branch(parent, graph, kept, key, place)

    async def take_in(self, events: Sequence[Event]) -> bool:
        """Take in a run of another store, see `cluster.importing.insert`; its contents are stored."""
        is_new: bool = await self._log.do(lambda driver: insert(driver, events))
        return is_new

    async def _past(self, run_id: str) -> tuple[RunState, list[Event]]:
        run_id = await asyncio.to_thread(self._log.find_run, run_id)
        events = await asyncio.to_thread(self._log.events, run_id)
        return fold(events), events

    async def _branch(
        self,
        parent: RunState,
        graph: Declaration,
        kept: list[NewEvent],
        key: str | None,
        place: dict[str, Any],
    ) -> str:
        async with self._submitting:
            if key and (known := await asyncio.to_thread(self._log.find_by_key, key)):
                return known
            self._check_room()
            return await self._begin(
                await branch(parent, graph, kept, self._artifacts, life=self._life, key=key, **place)
            )

    # ---- a person's word

    async def resume(self, run_ids: Collection[str] | None = None) -> list[str]:
        """Carry on unfinished runs, all of them or the named ones; one that waited at a gate is unfinished
        once that is decided.

        A named run that was cancelled, parked or failed is taken up again with a fresh wall budget, a paused
        one with what is left of its own.
        """
        if run_ids is None:
            chosen = [*await asyncio.to_thread(self._log.unfinished), *await self._decided_runs()]
        else:
            chosen = [await asyncio.to_thread(self._log.find_run, run_id) for run_id in run_ids]
        return [run_id for run_id in chosen if await self._resumed(run_id, is_asked=run_ids is not None)]

    async def _resumed(self, run_id: str, *, is_asked: bool) -> bool:
        working = self._tasks.get(run_id)
        state = await self._state(run_id)
        if state.status.is_finished and working is not None and not working.done():
            # The end is committed a moment before its task is over; that task will not take it up.
            await asyncio.wait([working])
            state = await self._state(run_id)
        if state.status is Status.SUCCEEDED:
            return False
        if state.status.is_finished:
            # A step that was quarantined gets another chance with the person's word.
            await self._fleet.forget(run_id)
            await self._take_up_again(state)
        elif state.pause is not None and is_asked:
            await self._call_off(run_id)
        self._carry_on(run_id)
        return True

    async def _call_off(self, run_id: str) -> None:
        """A pause that was asked for is not to come."""
        async with self._deciding:
            state = await self._state(run_id)
            if is_paused(state):
                await self._take_up_again(state)
            elif state.pause is not None:
                await self._append_outside(state, Kind.RUN_RESUMED, await self._work.taken_on())

    async def resume_life(self, lives: Collection[str]) -> list[str]:
        """Carry on the unfinished runs that one of `lives` had taken on; after a restart of this actor."""
        unfinished = [Status.PENDING, Status.RUNNING]
        mine = {
            run.run_id
            for life in lives
            for run in await asyncio.to_thread(self._log.runs, status=unfinished, life=life, limit=None)
        }
        for life in lives:
            mine.update(await self._decided_runs(life))
        for run_id in mine:
            await self._resumed(run_id, is_asked=False)
        return list(mine)

    async def _decided_runs(self, life: str | None = None) -> list[str]:
        """Runs that are parked although their gate is decided: the orchestrator died between the two."""
        parked = await asyncio.to_thread(self._log.runs, status=[Status.PARKED], life=life, limit=None)
        waiting = [run.run_id for run in parked if run.reason == AWAITING]
        return [run_id for run_id in waiting if is_decided(await self._state(run_id))]

    async def pause(self, run_id: str, *, by: str, why: str = "", now: bool = False) -> RunState:
        """Have a run rest until `resume`: no further step begins, those at work come to their end.

        The word is in the log when this returns; the run is parked once its last step has ended.
        Pausing it again changes nothing.

        Args:
            by, why: Kept in the log.
            now: Stop what is at work too, to be done anew.

        Raises:
            TaskError: The run has ended, or waits for a person.
        """
        run_id = await asyncio.to_thread(self._log.find_run, run_id)
        async with self._deciding:
            state = await self._state(run_id)
            if is_paused(state):
                return state
            check_pausable(state)
            if state.pause is None or (now and not state.pause.now):
                told = {"by": by, "why": why, "now": now}
                await self._append_outside(state, Kind.PAUSE_REQUESTED, told)
            if run_id not in self._work.live:
                # It waits for its turn, or nobody has it in hand.
                await self._stop(run_id, None)
            elif now:
                await asyncio.wait([self._tasks[run_id]])
        return await self._state(run_id)

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
            await self._append_outside(state, Kind.APPROVAL_DECIDED, data, step=gate)
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
            await self._take_up_again(state)

    # ---- the fleet's side

    async def status(self) -> dict[str, Any]:
        """The fleet, its queue, and the runs in hand."""
        fleet = await self._fleet.status()
        active = [run_id for run_id, task in self._tasks.items() if not task.done()]
        return {"fleet": fleet, "active_runs": active, "working_on": sorted(self._work.live)}

    async def report_progress(self, dispatch_id: str, epoch: int, news: Improvement | Turn) -> None:
        """An agent tells of partial progress; it is in the log before this returns."""
        run_id = dispatch_id.split("/", 1)[0]
        live = self._work.live.get(run_id)
        if live is None:
            raise ReplicaLost(f"run {run_id} is not in hand", "stop working on it")
        await live.progress(dispatch_id, epoch, news)

    async def report_call(self, dispatch_id: str, epoch: int, call: EngineCall) -> None:
        """An agent asked an engine; it is in the log before this returns, also when the run has ended."""
        run_id = dispatch_id.split("/", 1)[0]
        live = self._work.live.get(run_id)
        if live is not None:
            await live.called(dispatch_id, epoch, call)
            return
        state = await self._state(run_id)
        event = await asyncio.to_thread(
            called, call, self._artifacts, state, dispatch_id=dispatch_id, epoch=epoch
        )
        await self._log.append([event])
        self._announce(run_id)
