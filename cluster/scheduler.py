"""The scheduler actor: grants leases by `orchestrator.scheduling` and keeps the fleet alive.

It never carries payloads. All its state is rebuilt after a kill: replicas from Ray's named actors,
leases from what they work on and from clients' heartbeats, waiting requests because Ray asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import structlog

from cluster.answered import Unreachable, answered
from cluster.fleet import ReplicaGroup, code_version, group_of
from cluster.fleet_table import counts, group_row, replica_row
from cluster.handles import Grant
from cluster.hosting import Hosting
from cluster.metrics import EVERY_S, FleetMetrics, RaySink
from cluster.replica import STOP_GRACE_S
from cluster.scheduler_spec import SchedulerSpec, replica_spec, spec_version
from orchestrator.errors import Cancelled, MachineError, RaysmithError, StaleEpoch
from orchestrator.scheduling import (
    Decisions,
    Lease,
    LeaseRequest,
    Scheduler,
)

log = structlog.get_logger()

SCHEDULER = "scheduler"
# One for every request that may wait, beside what has to get through to them.
CALLS = 20_000


class SchedulerActor:
    """Hosts one `Scheduler`; every method is safe to repeat, because Ray repeats calls after a restart.

    A holder is a client with a heartbeat; child leases have none of their own, they go with their parent.
    """

    def __init__(self, spec: SchedulerSpec) -> None:
        self._spec = spec
        self._groups = {group.name: group for group in spec.groups}
        self._machine = Scheduler(spec.scheduling, [group.info for group in spec.groups])
        self._waiters: defaultdict[str, list[asyncio.Future[Grant]]] = defaultdict(list)
        self._holders: dict[str, str] = {}
        self._seen: dict[str, float] = {}
        self._last_seen = time.monotonic()
        self._stopping: dict[Lease, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._recovered = asyncio.Event()
        self._wake = asyncio.Event()
        self._is_over = False
        self._metrics = FleetMetrics(
            RaySink(), groups=self._groups, roles=(role for group in spec.groups for role in group.roles)
        )
        self._hosting = Hosting(
            spec, self._machine, carry_out=self._carry_out, lost=self._metrics.lost, spawn=self._spawn
        )
        self._spawn(self._run())
        self._spawn(self._measure())

    # -- what clients call

    async def version(self) -> str:
        """Of the code and the configuration; a client that has another replaces this scheduler."""
        return spec_version(self._spec)

    async def pid(self) -> int:
        """Of its process."""
        return os.getpid()

    async def acquire(self, request: LeaseRequest, holder: str) -> Grant:
        """Wait for a lease. A dispatch whose holder died is handed over while its replica works on it.

        Raises:
            RaysmithError: The request is refused; see `Scheduler.request`.
        """
        await self._recovered.wait()
        self._heard(holder)
        lease = self._machine.lease(request.dispatch_id)
        if lease and lease.epoch < request.epoch and self._holders.get(lease.dispatch_id) != holder:
            self._holders[lease.dispatch_id] = holder
            return self._grant(lease)
        self._holders[request.dispatch_id] = holder
        made = self._machine.request(request, time.monotonic())
        refusals = [
            r for r in made.refused if (r.dispatch_id, r.epoch) == (request.dispatch_id, request.epoch)
        ]
        self._carry_out(made)
        if refusals:
            self._forget_holder(request.dispatch_id)
            raise refusals[0].error
        lease = self._machine.lease(request.dispatch_id)
        return self._grant(lease) if lease else await self._wait_for(request.dispatch_id)

    async def release(self, dispatch_id: str, epoch: int) -> bool:
        """Take a lease back after its work ended; False when the dispatch went on under a higher epoch."""
        await self._recovered.wait()
        current = self._machine.current_epoch(dispatch_id)
        is_ours = current is None or current <= epoch
        self._carry_out(self._machine.release(dispatch_id, epoch, time.monotonic()))
        return is_ours

    async def abandon(self, dispatch_id: str, holder: str) -> None:
        """Cancel what `holder` has under this dispatch; returns when its agent has stopped."""
        await self._recovered.wait()
        if self._holders.get(dispatch_id) == holder:
            await self.cancel(dispatch_id=dispatch_id)

    async def cancel(self, *, run_id: str | None = None, dispatch_id: str | None = None) -> None:
        """Stop a run's dispatches, or one; returns when their agents have stopped."""
        await self._recovered.wait()
        error = Cancelled(f"{run_id or dispatch_id} was cancelled")
        made = self._machine.cancel(run_id=run_id, dispatch_id=dispatch_id, error=error)
        self._carry_out(made, error)
        stopping = [self._stopping[lease] for lease in made.evicted if lease in self._stopping]
        if stopping:
            await asyncio.wait(stopping)

    async def heartbeat(self, holder: str, held: Sequence[tuple[LeaseRequest, str]]) -> None:
        """A client lives and holds these leases; after a restart they are learnt from it."""
        await self._recovered.wait()
        self._heard(holder)
        for request, replica in held:
            self._carry_out_quietly(self._machine.adopt(request, replica, time.monotonic()))
            if self._machine.is_current(request.dispatch_id, request.epoch):
                self._holders[request.dispatch_id] = holder

    async def goodbye(self, holder: str) -> None:
        """A client leaves and gives back what it has."""
        await self._recovered.wait()
        self._reclaim(holder)

    async def report_lost(self, replica: str, reason: str, *, certain: bool) -> bool | None:
        """A caller could not reach a replica: None when it lives, else whether its steps are to blame.

        Args:
            replica: Its name.
            reason: What the caller saw.
            certain: Ray says that it is dead; otherwise it is asked for a sign of life first.
        """
        await self._recovered.wait()
        hosted = self._hosting.get(replica)
        if hosted is None:
            return self._hosting.was_to_blame(replica)
        if not certain and await self._hosting.answers(hosted):
            return None
        return self._hosting.lose(hosted, reason)

    async def handle_of(self, replica: str) -> Any:
        """Ray handle of a living replica, None for one that is gone or not up yet."""
        await self._recovered.wait()
        hosted = self._hosting.get(replica)
        return hosted.handle if hosted and hosted.state in ("ready", "draining") else None

    async def forget(self, run_id: str) -> None:
        """A run is over: replicas that it took down no longer count."""
        self._machine.forget(run_id)

    async def drain(self, replica: str) -> None:
        """Retire a replica once what it holds is done."""
        await self._recovered.wait()
        self._hosting.drain(replica)

    async def status(self) -> dict[str, Any]:
        """The fleet as a table of JSON values."""
        await self._recovered.wait()
        waiting = self._machine.waiting()
        nodes = await asyncio.to_thread(_ray().nodes)
        free = await asyncio.to_thread(_ray().available_resources)
        return {
            "replicas": [
                replica_row(hosted, self._machine, nodes, free) for hosted in self._hosting.hosted.values()
            ],
            "waiting": {str(role): count for role, count in sorted(waiting.items())},
            "groups": [group_row(group, self._hosting, self._machine) for group in self._groups.values()],
            "holders": sorted(self._seen.keys() - {_NOBODY}),
        }

    async def shut_down(self) -> None:
        """End the whole fleet, this actor last."""
        self._is_over = True
        await self._hosting.end_all()
        me = _ray().get_runtime_context().current_actor
        asyncio.get_running_loop().call_later(0.2, functools.partial(_ray().kill, me, no_restart=True))

    # -- leases

    def _grant(self, lease: Lease) -> Grant:
        return Grant(lease=lease, handle=self._hosting.hosted[lease.replica].handle)

    async def _wait_for(self, dispatch_id: str) -> Grant:
        future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._waiters[dispatch_id].append(future)
        self._wake.set()
        return await future

    def _carry_out(self, made: Decisions, reason: RaysmithError | None = None) -> None:
        for lease, _ in made.ended:
            if self._machine.current_epoch(lease.dispatch_id) is None:
                self._forget_holder(lease.dispatch_id)
        for refusal in made.refused:
            # A dispatch that went on under a higher epoch has new waiters.
            for future in self._waiters.pop(refusal.dispatch_id, []):
                if not future.done():
                    future.set_exception(refusal.error)
            if self._machine.current_epoch(refusal.dispatch_id) is None:
                self._forget_holder(refusal.dispatch_id)
        for lease in made.granted:
            for future in self._waiters.pop(lease.dispatch_id, []):
                if not future.done():
                    future.set_result(self._grant(lease))
        for lease in made.evicted:
            self._stopping[lease] = self._spawn(self._stop_work(lease, reason))
        for name in made.drained:
            if hosted := self._hosting.get(name):
                self._spawn(self._hosting.end(hosted))
        self._wake.set()

    async def _stop_work(self, lease: Lease, reason: RaysmithError | None) -> None:
        """Make the replica stop; its slot is free only then. One that does not stop is ended."""
        told = reason or StaleEpoch(f"the lease of {lease.dispatch_id} on {lease.replica} was taken back")
        hosted = self._hosting.get(lease.replica)
        has_stopped = hosted is None
        if hosted is not None:
            with contextlib.suppress(RaysmithError, TimeoutError):
                call = answered(hosted.handle.cancel.remote(lease.dispatch_id, told))
                has_stopped = await asyncio.wait_for(call, 2 * STOP_GRACE_S)
        if hosted is not None and not has_stopped:
            self._hosting.lose(hosted, f"it did not stop {lease.dispatch_id}", blame=False)
        self._stopping.pop(lease, None)
        self._carry_out(self._machine.release(lease.dispatch_id, lease.epoch, time.monotonic()))

    def _heard(self, holder: str) -> None:
        if holder:
            self._seen[holder] = self._last_seen = time.monotonic()

    def _forget_holder(self, dispatch_id: str) -> None:
        self._holders.pop(dispatch_id, None)

    def _reclaim(self, holder: str) -> None:
        """The holder is gone: what it waits for or holds is taken back."""
        self._seen.pop(holder, None)
        for dispatch_id in [name for name, of in self._holders.items() if of == holder]:
            error = StaleEpoch(f"{holder} was silent for too long and lost {dispatch_id}")
            self._carry_out(self._machine.cancel(dispatch_id=dispatch_id, error=error), error)

    # -- the fleet

    async def _run(self) -> None:
        try:
            await self._recover()
        except Exception:
            log.exception("scheduler_recovery_failed")
        self._recovered.set()
        while not self._is_over:
            try:
                self._manage(time.monotonic())
            except Exception:
                log.exception("scheduler_tick_failed")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._spec.tick_s)
            self._wake.clear()

    def _manage(self, now: float) -> None:
        for holder, seen in list(self._seen.items()):
            if now - seen > self._spec.holder_timeout_s:
                log.warning("holder_lost", holder=holder)
                self._reclaim(holder)
        self._carry_out_quietly(self._machine.tick(now))
        for group in self._groups.values():
            self._resize(group, now)
        if not self._spec.detached and now - self._last_seen > self._spec.orphan_timeout_s:
            log.info("fleet_ends", reason="no client was heard of")
            self._spawn(self.shut_down())

    def _carry_out_quietly(self, made: Decisions) -> None:
        if made != Decisions():
            self._carry_out(made)

    def _resize(self, group: ReplicaGroup, now: float) -> None:
        members = [each for each in self._hosting.of(group) if each.state in ("starting", "ready")]
        starting = [h for h in members if h.state == "starting"]
        wanted = self._machine.wanted(group.name, now)
        if len(members) < wanted and now >= self._hosting.failing[group.name].retry_at:
            for _ in range(wanted - len(members)):
                self._hosting.start(group, now)
        for hosted in starting[: max(0, len(members) - wanted)]:
            self._spawn(self._hosting.end(hosted))
        for name in self._machine.surplus(group.name, now):
            self._hosting.drain(name)

    # -- after a restart

    async def _recover(self) -> None:
        """Find living replicas by their names; the leases they work under are leases again."""
        listed = await asyncio.to_thread(_ray().util.list_named_actors, all_namespaces=True)
        names = [each["name"] for each in listed if each["namespace"] == self._spec.namespace]
        found = [(name, group) for name in names if (group := group_of(name, self._spec.groups))]
        answers = await asyncio.gather(*(self._hosting.find(name, group) for name, group in found))
        described = [(name, group, each) for (name, group), each in zip(found, answers, strict=True)]
        work = [
            (request.parent is not None, epoch, request, name)
            for name, _, each in described
            for epoch, request in each.get("work", ())
        ]
        for _, epoch, request, replica in sorted(work, key=lambda item: item[0]):
            made = self._machine.adopt(_under(request, epoch), replica, time.monotonic())
            self._carry_out(made)
            if request.parent is None:
                self._holders[request.dispatch_id] = _NOBODY
        if work:
            self._seen[_NOBODY] = time.monotonic()
        for name, group, each in described:
            wanted = replica_spec(self._spec, group, name).fingerprint
            if each and (each["draining"] or each["fingerprint"] != wanted):
                self._hosting.drain(name)

    # -- the table

    async def _measure(self) -> None:
        await self._recovered.wait()
        while not self._is_over:
            self._metrics.set(counts(self._hosting, self._machine, self._groups.values()))
            await asyncio.sleep(EVERY_S)

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("scheduler_task_failed", error=repr(error))


# Holds leases that were found at work after a restart, until their client's next heartbeat.
_NOBODY = "nobody"


def _ray() -> Any:
    import ray

    return ray


def _under(request: LeaseRequest, epoch: int) -> LeaseRequest:
    return replace(request, epoch=epoch)


def _place() -> dict[str, Any]:
    """Where the scheduler runs: on a node kept for control where there is one, else on the head.

    Never beside an engine or a runner: those nodes come and go, and a runner's reaches little.
    """
    control = {"raysmith.io/pool": "control"}
    for node in _ray().nodes():
        if node["Alive"] and control.items() <= node["Labels"].items():
            return {"label_selector": control}
    return {"resources": {"node:__internal_head__": 0.001}}


async def ensure_scheduler(spec: SchedulerSpec) -> Any:
    """Handle of the namespace's scheduler; one of other code or another configuration is replaced first."""
    spec = replace(spec, version=spec.version or code_version())
    actor = (
        _ray()
        .remote(SchedulerActor)
        .options(
            name=SCHEDULER,
            namespace=spec.namespace,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=CALLS,
            **await asyncio.to_thread(_place),
        )
    )
    for _ in range(50):
        handle = actor.remote(spec)
        try:
            theirs = await answered(handle.version.remote())
        except Unreachable:
            theirs = None
        if theirs == spec_version(spec):
            return handle
        _ray().kill(handle, no_restart=True)
        await asyncio.sleep(0.2)
    raise MachineError(
        "the fleet's scheduler could not be replaced", "stop whatever keeps starting the old one"
    )
