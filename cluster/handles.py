"""The client's side of a fleet: get a lease, call the replica, give the lease back on every path.

Ray's errors on calls to replicas and to the scheduler become ours here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pickle
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.fleet import ReplicaGroup
from cluster.replica import Context, Kept
from orchestrator.errors import (
    AgentError,
    Cancelled,
    QueueFull,
    RaysmithError,
    ReplicaLost,
    SandboxError,
    StaleEpoch,
)
from orchestrator.ports import SessionSpec
from orchestrator.scheduling import Lease, LeaseRequest, SchedulingSettings
from orchestrator.steps import Allowance, EngineCall, Improvement, Role, TestRequest, Turn
from orchestrator.verdict import TestRun

OnDispatched = Callable[[str, int], Awaitable[None]]
OnRequeued = Callable[[int, str], Awaitable[None]]

# Above this, a payload goes to the object store once instead of with every call.
LARGE_PAYLOAD_BYTES = 100_000
HEARTBEAT_S = 2.0
RECONNECT_S = 0.2
RECONNECTS = 50
# Deliveries of one `execute`, also when nothing is to blame on the step.
DELIVERIES = 10
# How long a replica may take to tell how a delivery ended; a busy one is asked again by its lease.
REMEMBER_S = 5.0
# How long progress waits for an orchestrator that is coming back.
REPORTER_PATIENCE_S = 60.0


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
        payload = _packed(dispatch.payload)
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
                await _in_every_case(self._give_up(dispatch.dispatch_id))

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
            await _in_every_case(answered(self._scheduler.abandon.remote(request.dispatch_id, "")))
            raise
        session = RaySearchSession(self._scheduler, grant, Context(request=request))
        try:
            await session.open(spec)
            yield session
        finally:
            await _in_every_case(session.close())
            await _in_every_case(answered(self._scheduler.release.remote(request.dispatch_id, request.epoch)))

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
        self._name = await self._ask("open_session", _packed(spec))

    async def call(self, method: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """Call the search worker inside the sandbox; see `SearchSession.call`."""
        result, self._cpu_s = await self._ask("call_session", self._name, method, dict(arguments), timeout_s)
        return result

    async def test(self, request: TestRequest) -> TestRun:
        """Test a candidate on the same runner; see `SearchSession.test`."""
        run: TestRun = await self._ask("test", _packed(request))
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


class RayProgress:
    """Implements `orchestrator.ports.Progress` through an actor's `report_progress`."""

    def __init__(self, reporter: Any, dispatch_id: str, epoch: int) -> None:
        self._reporter = reporter
        self._dispatch_id = dispatch_id
        self._epoch = epoch

    async def __call__(self, news: Improvement | Turn) -> None:
        """Report; waits while the reporter restarts and takes its runs up again.

        Raises:
            StaleEpoch: The step is no longer wanted.
            ReplicaLost: The reporter did not come back.
        """
        if self._reporter is not None:
            await _reported(
                lambda: self._reporter.report_progress.remote(self._dispatch_id, self._epoch, news)
            )


class RayCalls:
    """Where a replica tells of its engine calls, through an actor's `report_call`."""

    def __init__(self, reporter: Any, dispatch_id: str, epoch: int) -> None:
        self._reporter = reporter
        self._dispatch_id = dispatch_id
        self._epoch = epoch

    async def __call__(self, call: EngineCall) -> None:
        """Report, as `RayProgress` does."""
        if self._reporter is not None:
            await _reported(lambda: self._reporter.report_call.remote(self._dispatch_id, self._epoch, call))


async def _reported(report: Callable[[], Any]) -> None:
    """Have `report` answered; waits while the reporter restarts and takes its runs up again.

    Raises:
        StaleEpoch: The step is no longer wanted.
        ReplicaLost: The reporter did not come back.
    """
    deadline = time.monotonic() + REPORTER_PATIENCE_S
    was_away = False
    while True:
        try:
            return await answered(report())  # type: ignore[no-any-return]
        except (ReplicaLost, StaleEpoch) as error:
            # A reporter that comes back does not know its runs yet.
            was_away = was_away or isinstance(error, ReplicaLost)
            if not was_away or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.5)


class Unreachable(ReplicaLost):
    """Ray could not reach an actor; `certain` when it is dead for good."""

    def __init__(self, message: str, next_move: str = "", *, certain: bool = False) -> None:
        super().__init__(message, next_move)
        self.certain = certain


class _LeaseTaken(Exception):
    """The lease ended before the work did; the step goes on under another. `is_kill` blames the step."""

    def __init__(self, message: str, *, is_kill: bool = False) -> None:
        super().__init__(message)
        self.is_kill = is_kill


async def report_lost(scheduler: Any, replica: str, error: Unreachable) -> bool | None:
    """Tell the scheduler; None when the replica lives, else whether its steps are to blame."""
    blame: bool | None = await answered(
        scheduler.report_lost.remote(replica, error.message, certain=error.certain)
    )
    return blame


async def answered(reference: Awaitable[Any]) -> Any:
    """What a Ray call returned; errors of ours as they were raised, Ray's as ours.

    Raises:
        ReplicaLost: The actor is dead or cannot be reached.
        AgentError: The call failed in a way that is not ours, for example with a result that cannot be sent.
    """
    from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError

    try:
        return await reference
    except RayTaskError as error:
        if isinstance(error.cause, Unreachable):
            # Whom the other side could not reach is not the one that we called.
            raise ReplicaLost(error.cause.message, error.cause.next_move) from None
        if isinstance(error.cause, RaysmithError):
            raise error.cause from None
        raise AgentError(f"a remote call failed: {error.cause!r}", "see the replica's log") from error
    except ActorDiedError as error:
        raise Unreachable(_told(error), certain=True) from error
    except (ActorUnavailableError, RayError) as error:
        raise Unreachable(_told(error)) from error


def _told(error: Exception) -> str:
    """Ray's reason in a line: the sentence after the actor's particulars."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return (lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__)[:300]


def _packed(payload: object) -> Any:
    """A reference for what is large, so that a retry does not send it again."""
    if len(pickle.dumps(payload, protocol=5)) <= LARGE_PAYLOAD_BYTES:
        return payload
    import ray

    return ray.put(payload)


def _quarantined(dispatch: Dispatch, evidence: Sequence[str]) -> ReplicaLost:
    return ReplicaLost(
        f"step {dispatch.step} of run {dispatch.run_id} lost its replica {len(evidence)} times "
        f"({'; '.join(evidence)})",
        "look at what it runs; it is not tried again",
    )


async def _in_every_case(cleanup: Awaitable[Any]) -> None:
    """Finish `cleanup` although this task is being cancelled; errors in it are the scheduler's to mend."""
    task = asyncio.ensure_future(cleanup)
    with contextlib.suppress(RaysmithError):
        await asyncio.shield(task)
