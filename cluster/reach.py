"""The factory as an asynchronous caller inside its Ray cluster meets it; the HTTP door is one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cluster.answered import answered
from cluster.event_log_projection import RunSummary
from cluster.event_log_usage import By, Spent
from cluster.factory import ORCHESTRATOR, FactorySettings
from orchestrator.errors import RaysmithError, ReplicaLost
from orchestrator.events import Event, RunState, Status
from orchestrator.task import Task
from orchestrator.tree import Tree

# A living orchestrator answers within milliseconds; one that folds its log after a restart does not.
ANSWERS_WITHIN_S = 5.0
# A submission that was under way when the orchestrator died is asked again under the same key.
SUBMITS_WITHIN_S = 20.0
_POLL_S = 0.25
_START_AGAIN_S = 5.0


class Reach:
    """Calls the named orchestrator actor, and finds it again after a restart.

    Errors of ours arrive as they were raised. A factory that is not there, restarts or does not
    answer in time is a `ReplicaLost`; nothing that it had accepted is lost by that.
    """

    def __init__(self, namespace: str, *, starts: FactorySettings | None = None) -> None:
        """Reach the factory of `namespace`.

        Args:
            starts: What to start where there is no factory; None leaves that to others.
        """
        self._namespace = namespace
        self._starts = (
            replace(starts, detached=True, adopt_all=True, driver_pid=0) if starts is not None else None
        )
        self._handle: Any = None
        self._finding: asyncio.Task[Any] | None = None
        self._refused: tuple[float, RaysmithError] | None = None

    async def stand(self) -> dict[str, Any]:
        """See `FactoryActor.stand`."""
        stand: dict[str, Any] = await self._ask("stand")
        return stand

    async def submit(
        self,
        task: Task,
        tree: Tree | None,
        candidate: Tree | None,
        *,
        key: str,
        fingerprint: str,
    ) -> tuple[str, bool]:
        """See `Orchestrator.submit_once`; asked again while the orchestrator restarts."""
        deadline = time.monotonic() + SUBMITS_WITHIN_S
        while True:
            try:
                told: tuple[str, bool] = await self._ask(
                    "submit_once", task, tree, candidate, key, fingerprint, within_s=SUBMITS_WITHIN_S
                )
                return told
            except ReplicaLost:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_POLL_S)

    async def cancel(self, run_id: str, reason: str) -> RunState:
        """See `Orchestrator.cancel`."""
        state: RunState = await self._ask("cancel", run_id, reason, within_s=SUBMITS_WITHIN_S)
        return state

    async def decide(self, run_id: str, node: str | None, *, approved: bool, by: str, why: str) -> RunState:
        """See `Orchestrator.decide`."""
        state: RunState = await self._ask(
            "decide", run_id, node, approved, by, why, within_s=SUBMITS_WITHIN_S
        )
        return state

    async def pause(self, run_id: str, *, by: str, why: str, now: bool) -> RunState:
        """See `Orchestrator.pause`."""
        state: RunState = await self._ask("pause", run_id, by, why, now, within_s=SUBMITS_WITHIN_S)
        return state

    async def resume(self, run_id: str) -> bool:
        """See `Orchestrator.resume`, of one run; whether it goes on."""
        return bool(await self._ask("resume", [run_id], within_s=SUBMITS_WITHIN_S))

    async def fork(self, run_id: str, start: str, declaration: Mapping[str, Any] | None, key: str) -> str:
        """See `Orchestrator.fork`."""
        new_id: str = await self._ask("fork", run_id, start, declaration, key, within_s=SUBMITS_WITHIN_S)
        return new_id

    async def retry(self, run_id: str, node: str, key: str) -> str:
        """See `Orchestrator.retry`."""
        new_id: str = await self._ask("retry", run_id, node, key, within_s=SUBMITS_WITHIN_S)
        return new_id

    async def export(self, run_id: str, secrets: Mapping[str, str]) -> bytes:
        """See `Orchestrator.export`."""
        content: bytes = await self._ask("export", run_id, secrets, within_s=SUBMITS_WITHIN_S)
        return content

    async def artifact(self, digest: str) -> bytes:
        """See `Orchestrator.artifact`."""
        content: bytes = await self._ask("artifact", digest)
        return content

    async def state(self, run_id: str) -> RunState:
        """See `Orchestrator.state`."""
        state: RunState = await self._ask("state", run_id)
        return state

    async def result(self, run_id: str) -> dict[str, Any]:
        """See `Orchestrator.result`."""
        result: dict[str, Any] = await self._ask("result", run_id)
        return result

    async def events(self, run_id: str, after_seq: int = 0, wait_s: float = 0.0) -> Sequence[Event]:
        """See `Orchestrator.events`."""
        events: Sequence[Event] = await self._ask(
            "events", run_id, after_seq, wait_s, within_s=ANSWERS_WITHIN_S + wait_s
        )
        return events

    async def runs(
        self, status: Collection[Status] | None, limit: int, offset: int, tenant: str | None = None
    ) -> tuple[list[RunSummary], int]:
        """See `Orchestrator.runs`."""
        page: tuple[list[RunSummary], int] = await self._ask("runs", status, limit, offset, tenant)
        return page

    async def usage(self, by: By, tenant: str | None, since: str) -> list[Spent]:
        """See `Orchestrator.usage`."""
        spent: list[Spent] = await self._ask("usage", by, tenant, since)
        return spent

    async def diff(self, run_id: str) -> bytes:
        """See `Orchestrator.diff`."""
        diff: bytes = await self._ask("diff", run_id)
        return diff

    async def status(self) -> dict[str, Any]:
        """See `Orchestrator.status`."""
        status: dict[str, Any] = await self._ask("status")
        return status

    async def _ask(self, method: str, *arguments: Any, within_s: float = ANSWERS_WITHIN_S) -> Any:
        try:
            async with asyncio.timeout(within_s):
                actor = await self._actor()
                return await answered(_sent(actor, method, arguments))
        except TimeoutError:
            raise ReplicaLost(
                f"the orchestrator did not answer within {within_s:g} s", "ask again shortly"
            ) from None
        except ReplicaLost:
            self._handle = None
            raise

    async def _actor(self) -> Any:
        if self._handle is not None:
            return self._handle
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(asyncio.to_thread(self._find))
        # Whoever waits may be cancelled; the others wait for the same answer.
        self._handle = await asyncio.shield(self._finding)
        return self._handle

    def _find(self) -> Any:
        import ray

        try:
            return ray.get_actor(ORCHESTRATOR, namespace=self._namespace)
        except ValueError as error:
            if self._starts is None:
                raise ReplicaLost("no factory is running here", "start one: `raysmith up`") from error
            return self._start(self._starts)

    def _start(self, settings: FactorySettings) -> Any:
        from cluster.connect import refuse_node_local_store, start_actor

        if self._refused is not None and time.monotonic() < self._refused[0]:
            raise self._refused[1]
        try:
            refuse_node_local_store(settings)
            return start_actor(settings)
        except RaysmithError as error:
            self._refused = (time.monotonic() + _START_AGAIN_S, error)
            raise


def _sent(actor: Any, method: str, arguments: Sequence[Any]) -> Awaitable[Any]:
    reference: Awaitable[Any] = getattr(actor, method).remote(*arguments)
    return reference
