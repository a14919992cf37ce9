"""The runs in hand: a task for each, how many may work at once, and how one is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from itertools import chain, repeat
from typing import Any

import structlog

from cluster.artifacts import ArtifactStore
from cluster.event_log import EventLog
from cluster.handles import FleetClient
from cluster.orchestrator_settings import OrchestratorSettings
from cluster.run_reads import RunReads
from cluster.run_work import RunWork
from orchestrator.errors import QueueFull, StoreDamaged, StoreError, StoreOwned
from orchestrator.events import Kind, NewEvent, RunState, Status
from orchestrator.ports import Memory

log = structlog.get_logger()

STORE_RETRY_S = (0.5, 1, 2, 5, 10)


class RunTasks(RunReads):
    """Every run in hand has one task; it ends when the run has ended, is parked, or has another owner."""

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
        super().__init__(event_log, artifacts)
        self._fleet = fleet
        self._life = life
        self._work = RunWork(
            event_log=event_log,
            artifacts=artifacts,
            fleet=fleet,
            life=life,
            memory=memory,
            agents=agents or {},
            announce=self._announce,
        )
        self._slots = asyncio.Semaphore(settings.max_active_runs)
        self._most_in_hand = settings.max_active_runs + settings.max_pending_runs
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Runs whose tasks are told to end: cancelled with a reason, or, for None, paused.
        self._stopping: dict[str, str | None] = {}

    @property
    def room(self) -> int:
        """How many more runs would be accepted now."""
        return self._most_in_hand - sum(not task.done() for task in self._tasks.values())

    async def wait(self, run_ids: Collection[str], timeout_s: float) -> dict[str, RunState]:
        """The finished ones of `run_ids`, as soon as there is one or `timeout_s` is over."""
        tasks = [self._tasks[run_id] for run_id in run_ids if run_id in self._tasks]
        if tasks and not any(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        states = [await self._state(run_id) for run_id in run_ids if self._is_over(run_id)]
        return {state.run_id: state for state in states if state.status.is_finished}

    async def cancel(self, run_id: str, reason: str = "") -> RunState:
        """Stop a run, also a parked one; its best patch so far stays. One that has ended stays as it is."""
        run_id = await asyncio.to_thread(self._log.find_run, run_id)
        # Twice at most: a pause may be stopping it just now.
        for _ in range(2):
            if _has_ended(await self._state(run_id)):
                break
            await self._stop(run_id, reason)
        return await self._state(run_id)

    async def _stop(self, run_id: str, cancelled_for: str | None) -> None:
        """Have the run's task end it, see `RunWork.stop`; returns when that is done."""
        # A task that has not begun would be cancelled before it can record why.
        await asyncio.sleep(0)
        # Once only: a second time would hit the task while it records the first.
        if run_id not in self._stopping:
            self._stopping[run_id] = cancelled_for
            if self._is_over(run_id):
                self._carry_on(run_id)
            else:
                self._tasks[run_id].cancel()
        await asyncio.wait([self._tasks[run_id]])

    def _check_room(self) -> None:
        if self.room <= 0:
            raise QueueFull(
                f"{self._most_in_hand} runs are in hand and no more are accepted",
                "submit again later, or raise `orchestrator.max_pending_runs`",
            )

    def _is_over(self, run_id: str) -> bool:
        task = self._tasks.get(run_id)
        return task is None or task.done()

    def _carry_on(self, run_id: str) -> None:
        if self._is_over(run_id):
            self._tasks[run_id] = asyncio.create_task(self._work_on(run_id), name=run_id)

    async def _take_up_again(self, state: RunState) -> None:
        """Go on with a run that had ended or was parked."""
        await self._append_outside(state, Kind.RUN_RESUMED, await self._work.taken_on())
        self._carry_on(state.run_id)

    async def _append_outside(
        self, state: RunState, kind: Kind, data: dict[str, Any], step: str | None = None
    ) -> None:
        """Commit a fact of a run, whether it is in hand or not."""
        if (live := self._work.live.get(state.run_id)) is not None:
            await live.append(live.event(kind, data, step=step))
            return
        event = NewEvent(run_id=state.run_id, type=kind, data=data, step=step, tenant=state.tenant)
        await self._log.append([event])
        if (live := self._work.live.get(state.run_id)) is not None:
            await live.catch_up()
        self._announce(state.run_id)

    async def _work_on(self, run_id: str) -> None:
        """Bring a run to its end; while the store cannot be written it waits and tries again."""
        try:
            for wait_s in chain(STORE_RETRY_S, repeat(STORE_RETRY_S[-1])):
                try:
                    await self._execute_or_stop(run_id)
                    return
                except (StoreOwned, StoreDamaged) as error:
                    # Whoever took the store over carries it on, or whoever mends the store.
                    log.warning("run_left", run=run_id, error=str(error))
                    return
                except StoreError as error:
                    log.warning("run_waits_for_store", run=run_id, error=str(error), wait_s=wait_s)
                    await self._wait_for_store(run_id, wait_s)
                finally:
                    self._work.live.pop(run_id, None)
        finally:
            self._stopping.pop(run_id, None)

    async def _execute_or_stop(self, run_id: str) -> None:
        if run_id not in self._stopping:
            try:
                async with self._slots:
                    await self._work.execute(run_id)
                return
            except asyncio.CancelledError:
                if run_id not in self._stopping:
                    raise
        await self._work.stop(run_id, self._stopping[run_id])

    async def _wait_for_store(self, run_id: str, wait_s: float) -> None:
        """Wait, unless somebody stops the run; when this orchestrator ends, end."""
        task = asyncio.current_task()
        if task and task.cancelling() and run_id not in self._stopping:
            # A task group that fails while it is cancelled tells of the failure only.
            raise asyncio.CancelledError
        try:
            await asyncio.sleep(wait_s)
        except asyncio.CancelledError:
            if run_id not in self._stopping:
                raise


def _has_ended(state: RunState) -> bool:
    return state.status.is_finished and state.status is not Status.PARKED
