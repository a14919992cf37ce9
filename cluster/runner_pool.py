"""A repairer's runners: leased under its own lease, each with a warm sandbox open on it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Mapping
from typing import Any

from cluster.answered import Unreachable, answered, in_every_case, packed, report_lost
from cluster.handles import Grant
from cluster.replica import Context
from orchestrator.errors import QueueFull, SandboxError, StaleEpoch
from orchestrator.ports import SessionSpec
from orchestrator.scheduling import LeaseRequest
from orchestrator.steps import Role, TestRequest
from orchestrator.verdict import TestRun


class RayRunnerPool:
    """Implements `orchestrator.ports.RunnerPool`: child leases on runners, under a repairer's own lease."""

    def __init__(self, scheduler: Any, parent: LeaseRequest) -> None:
        self._scheduler = scheduler
        self._parent = parent
        self._numbers = itertools.count(1)

    @contextlib.asynccontextmanager
    async def session(self, spec: SessionSpec) -> AsyncIterator[RaySearchSession]:
        """Lease a runner, open a warm sandbox on it, and give both back on leaving.

        Raises:
            SandboxError: No second runner is free for this repairer, or the sandbox does not start.
            StaleEpoch: The repairer's own lease was taken back.
            ReplicaLost: Its step took too many runners down.
        """
        request = self._request()
        try:
            grant = await self._lease(request)
        except BaseException:
            await in_every_case(answered(self._scheduler.abandon.remote(request.dispatch_id, "")))
            raise
        session = RaySearchSession(self._scheduler, grant, Context(request=request))
        try:
            await session.open(spec)
            yield session
        finally:
            await in_every_case(session.close())
            await in_every_case(answered(self._scheduler.release.remote(request.dispatch_id, request.epoch)))

    def _request(self) -> LeaseRequest:
        parent = self._parent
        return LeaseRequest(
            dispatch_id=f"{parent.dispatch_id}/e{parent.epoch}/s{next(self._numbers)}",
            run_id=parent.run_id,
            step=parent.step,
            role=Role.RUN,
            priority=parent.priority,
            tenant=parent.tenant,
            parent=parent.dispatch_id,
            parent_epoch=parent.epoch,
        )

    async def _lease(self, request: LeaseRequest) -> Grant:
        try:
            grant: Grant = await answered(self._scheduler.acquire.remote(request, ""))
        except QueueFull as error:
            raise SandboxError(error.message, error.next_move) from error
        return grant


class RaySearchSession:
    """Implements `orchestrator.ports.SearchSession` on a leased runner."""

    def __init__(self, scheduler: Any, grant: Grant, context: Context) -> None:
        self._scheduler = scheduler
        self._grant = grant
        self._context = context
        self._name: str | None = None
        self._cpu_s = 0.0

    @property
    def cpu_s(self) -> float:
        """CPU seconds that the sandbox has used, as told with its last answer."""
        return self._cpu_s

    async def open(self, spec: SessionSpec) -> None:
        """Start the sandbox."""
        self._name = await self._ask("open_session", packed(spec))

    async def call(self, method: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """Call the search worker inside the sandbox; see `SearchSession.call`."""
        result, self._cpu_s = await self._ask("call_session", self._name, method, dict(arguments), timeout_s)
        return result

    async def test(self, request: TestRequest) -> TestRun:
        """Test a candidate on the same runner; see `SearchSession.test`."""
        run: TestRun = await self._ask("test", packed(request))
        return run

    async def close(self) -> None:
        """End the sandbox; one that is gone already is no error."""
        if self._name is None:
            return
        with contextlib.suppress(SandboxError, StaleEpoch):
            await self._ask("close_session", self._name)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        lease = self._grant.lease
        try:
            return await answered(
                self._grant.handle.session.remote(
                    lease.dispatch_id, lease.epoch, method, self._context, *arguments
                )
            )
        except Unreachable as error:
            await report_lost(self._scheduler, lease.replica, error)
            raise SandboxError(f"runner {lease.replica} was lost: {error.message}", "open another") from error
