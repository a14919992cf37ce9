"""The client's side of a fleet: get a lease, call the replica, give the lease back on every path.

Ray's errors become ours in `cluster/answered.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.answered import Unreachable, answered, in_every_case, packed, report_lost
from cluster.fleet import ReplicaGroup
from cluster.replica import Context, Kept
from orchestrator.errors import Cancelled, RaysmithError, ReplicaLost, StaleEpoch
from orchestrator.scheduling import Lease, LeaseRequest, SchedulingSettings
from orchestrator.steps import Allowance, Role

OnDispatched = Callable[[str, int], Awaitable[None]]
OnRequeued = Callable[[int, str], Awaitable[None]]

HEARTBEAT_S = 2.0
RECONNECT_S = 0.2
RECONNECTS = 50
# Deliveries of one `execute`, also when nothing is to blame on the step.
DELIVERIES = 10
# How long a replica may take to tell how a delivery ended; a busy one is asked again by its lease.
REMEMBER_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """One step for an agent: `method` of a replica of `role`, called with `payload`.

    `was_on` names the replica of the delivery before `epoch` where nobody knows how that ended.
    """

    dispatch_id: str
    run_id: str
    step: str
    role: Role
    method: str
    payload: object
    priority: int = 0
    tenant: str = "default"
    affinity: str = ""
    epoch: int = 1
    was_on: str = ""
    allowance: Allowance = field(default_factory=Allowance)

    @property
    def request(self) -> LeaseRequest:
        """What the scheduler is asked for."""
        return LeaseRequest(
            dispatch_id=self.dispatch_id,
            run_id=self.run_id,
            step=self.step,
            role=self.role,
            priority=self.priority,
            tenant=self.tenant,
            affinity=self.affinity,
            epoch=self.epoch,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A lease and the Ray handle of its replica."""

    lease: Lease
    handle: Any


@dataclass(slots=True, kw_only=True)
class _Held:
    request: LeaseRequest
    grant: Grant


class FleetClient:
    """Has steps done on a fleet.

    Invariant: every lease it was granted is given back, whichever way `execute` ends; when this
    process dies, its heartbeat stops and the scheduler takes the leases back.
    """

    def __init__(
        self,
        scheduler: Any,
        *,
        reporter: Any = None,
        holder: str = "",
        kills_to_quarantine: int = SchedulingSettings().kills_to_quarantine,
    ) -> None:
        self._scheduler = scheduler
        self._reporter = reporter
        self._holder = holder or f"client-{uuid.uuid4().hex[:12]}"
        self._kills_to_quarantine = kills_to_quarantine
        self._held: dict[str, _Held] = {}
        self._heart = asyncio.create_task(self._beat(), name="fleet-heartbeat")

    @classmethod
    async def start(
        cls,
        *,
        groups: Sequence[ReplicaGroup],
        build: str,
        config: Mapping[str, Any],
        scheduling: SchedulingSettings | None = None,
        namespace: str = "raysmith",
        detached: bool = False,
        reporter: Any = None,
        **timing: Any,
    ) -> FleetClient:
        """A client of the namespace's fleet, which is started where there is none.

        A scheduler of other code or another configuration is replaced; replicas that still fit live on.

        Args:
            groups: What the fleet is made of.
            build: Dotted path of the function that builds agents, `module:function`.
            config: What `build` is given, plain JSON values.
            scheduling: How leases are granted.
            namespace: Ray namespace of all its named actors.
            detached: The fleet outlives its clients; else it ends once none was heard of for a while.
            reporter: Ray handle with `report_progress`; None for the actor that calls this, if any.
            **timing: Other fields of `cluster.scheduler.SchedulerSpec`.

        Raises:
            TaskError: The groups do not fit together.
        """
        import ray

        from cluster.fleet import check_fleet
        from cluster.scheduler import ensure_scheduler
        from cluster.scheduler_spec import SchedulerSpec

        settings = scheduling or SchedulingSettings()
        spec = SchedulerSpec(
            groups=check_fleet(groups),
            scheduling=settings,
            namespace=namespace,
            build=build,
            config=dict(config),
            detached=detached,
            **timing,
        )
        scheduler = await ensure_scheduler(spec)
        context = ray.get_runtime_context()
        if reporter is None and context.get_actor_id() is not None:
            reporter = context.current_actor
        return cls(scheduler, reporter=reporter, kills_to_quarantine=settings.kills_to_quarantine)

    async def execute(
        self,
        dispatch: Dispatch,
        *,
        on_dispatched: OnDispatched | None = None,
        on_requeued: OnRequeued | None = None,
    ) -> Any:
        """Have `dispatch` done and return what the agent returned.

        A dispatch that is already being worked on, for a client that died, is taken over under its old
        epoch: `on_dispatched` then tells an epoch below `dispatch.epoch`. One that came to its end while
        nobody listened is answered by the replica that remembers it.

        Args:
            dispatch: What to do; its `epoch` is higher than that of every earlier delivery.
            on_dispatched: Awaited with replica and epoch before the replica is called.
            on_requeued: Awaited with the next epoch and the reason after a lease was lost.

        Raises:
            ReplicaLost: The step took as many replicas down as `kills_to_quarantine` allows.
            QueueFull: Too many requests wait.
            Cancelled: `cancel` was called.
            RaysmithError: What the agent raised.
        """
        if dispatch.was_on and (kept := await self._remembered(dispatch)) is not None:
            return kept.unpack()
        payload = packed(dispatch.payload)
        request = dispatch.request
        evidence: list[str] = []
        is_over = False
        try:
            for _ in range(DELIVERIES):
                grant = await self._acquire(request)
                lease = grant.lease
                if on_dispatched:
                    await on_dispatched(lease.replica, lease.epoch)
                try:
                    result = await self._call(grant, dispatch, payload)
                    is_over = await self._release(lease)
                    if is_over:
                        return result
                    raise _LeaseTaken(f"{lease.replica} answered after its lease had been given away")
                except _LeaseTaken as taken:
                    evidence += [str(taken)] if taken.is_kill else []
                    reason = str(taken)
                except RaysmithError:
                    is_over = await self._release(lease)
                    raise
                if len(evidence) >= self._kills_to_quarantine:
                    break
                request = replace(request, epoch=lease.epoch + 1)
                if on_requeued:
                    await on_requeued(request.epoch, reason)
            raise _quarantined(dispatch, evidence or [reason])
        finally:
            self._held.pop(dispatch.dispatch_id, None)
            if not is_over:
                await in_every_case(self._give_up(dispatch.dispatch_id))

    async def cancel(self, *, run_id: str | None = None, dispatch_id: str | None = None) -> None:
        """Stop a run's steps, or one; returns when their agents have stopped and cleaned up."""
        await answered(self._scheduler.cancel.remote(run_id=run_id, dispatch_id=dispatch_id))

    async def forget(self, run_id: str) -> None:
        """A run is over: replicas that it took down no longer count against it."""
        await answered(self._scheduler.forget.remote(run_id))

    async def status(self) -> dict[str, Any]:
        """Replicas, queues and wanted sizes, as JSON values."""
        status: dict[str, Any] = await answered(self._scheduler.status.remote())
        return status

    async def drain(self, replica: str) -> None:
        """Retire a replica once its work is done; the group starts another when it wants one."""
        await answered(self._scheduler.drain.remote(replica))

    async def close(self) -> None:
        """Stop the heartbeat and give everything back; the fleet lives on."""
        self._heart.cancel()
        with contextlib.suppress(ReplicaLost):
            await answered(self._scheduler.goodbye.remote(self._holder))

    async def stop(self) -> None:
        """End the whole fleet: replicas stop their agents, then all actors go."""
        self._heart.cancel()
        with contextlib.suppress(ReplicaLost):
            await answered(self._scheduler.shut_down.remote())

    async def _remembered(self, dispatch: Dispatch) -> Kept | None:
        """How the last delivery ended, where its replica lives and it was not stopped."""
        last = dispatch.epoch - 1
        try:
            async with asyncio.timeout(REMEMBER_S):
                handle = await answered(self._scheduler.handle_of.remote(dispatch.was_on))
                if handle is None:
                    return None
                kept: Kept | None = await answered(handle.last_result.remote(dispatch.dispatch_id))
        except (RaysmithError, TimeoutError):
            return None
        if kept is None or kept.epoch != last or isinstance(kept.error, Cancelled | StaleEpoch):
            return None
        with contextlib.suppress(RaysmithError):
            # The lease of the client that died.
            await answered(self._scheduler.release.remote(dispatch.dispatch_id, last))
        return kept

    async def _acquire(self, request: LeaseRequest) -> Grant:
        grant: Grant = await answered(self._scheduler.acquire.remote(request, self._holder))
        under = replace(request, epoch=grant.lease.epoch)
        self._held[request.dispatch_id] = _Held(request=under, grant=grant)
        return grant

    async def _call(self, grant: Grant, dispatch: Dispatch, payload: Any) -> Any:
        lease = grant.lease
        context = Context(
            request=replace(dispatch.request, epoch=lease.epoch),
            scheduler=self._scheduler,
            reporter=self._reporter,
            allowance=dispatch.allowance,
        )
        arguments = (dispatch.dispatch_id, lease.epoch, dispatch.method, payload, context)
        attempts = 0
        while True:
            attempts += 1
            try:
                return await answered(grant.handle.execute.remote(*arguments))
            except Unreachable as error:
                loss = await report_lost(self._scheduler, lease.replica, error)
                if loss is not None:
                    raise _LeaseTaken(f"{lease.replica} was lost: {error.message}", is_kill=loss) from error
                if attempts >= RECONNECTS:
                    raise
                await asyncio.sleep(RECONNECT_S)
            except StaleEpoch as error:
                raise _LeaseTaken(f"the lease on {lease.replica} was taken back: {error}") from error

    async def _release(self, lease: Lease) -> bool:
        """Give it back; False when the dispatch went on elsewhere. A scheduler that is gone lends nothing."""
        try:
            is_ours: bool = await answered(self._scheduler.release.remote(lease.dispatch_id, lease.epoch))
        except Unreachable:
            return True
        return is_ours

    async def _give_up(self, dispatch_id: str) -> None:
        """Whatever is still waiting or leased under this dispatch goes back."""
        await answered(self._scheduler.abandon.remote(dispatch_id, self._holder))

    async def _beat(self) -> None:
        while True:
            held = [(each.request, each.grant.lease.replica) for each in self._held.values()]
            with contextlib.suppress(RaysmithError):
                await answered(self._scheduler.heartbeat.remote(self._holder, held))
            await asyncio.sleep(HEARTBEAT_S)


class _LeaseTaken(Exception):
    """The lease ended before the work did; the step goes on under another. `is_kill` blames the step."""

    def __init__(self, message: str, *, is_kill: bool = False) -> None:
        super().__init__(message)
        self.is_kill = is_kill


def _quarantined(dispatch: Dispatch, evidence: Sequence[str]) -> ReplicaLost:
    return ReplicaLost(
        f"step {dispatch.step} of run {dispatch.run_id} lost its replica {len(evidence)} times "
        f"({'; '.join(evidence)})",
        "look at what it runs; it is not tried again",
    )
