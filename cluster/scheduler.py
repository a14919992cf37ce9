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
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from cluster.fleet import (
    ReplicaGroup,
    actor_options,
    code_version,
    fingerprint,
    group_of,
    pending_reason,
    replica_name,
)
from cluster.handles import Grant, Unreachable, answered
from cluster.metrics import EVERY_S, FleetCounts, FleetMetrics, RaySink
from cluster.replica import HEALTH, STOP_GRACE_S, ReplicaSpec, remote_class
from orchestrator.errors import Cancelled, MachineError, RaysmithError, StaleEpoch
from orchestrator.scheduling import (
    Decisions,
    Lease,
    LeaseRequest,
    ReplicaInfo,
    Scheduler,
    SchedulingSettings,
)

log = structlog.get_logger()

SCHEDULER = "scheduler"
# One for every request that may wait, beside what has to get through to them.
CALLS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSpec:
    """What a scheduler is made from; plain values that cross Ray."""

    groups: tuple[ReplicaGroup, ...]
    build: str
    config: Mapping[str, Any] = field(default_factory=dict)
    scheduling: SchedulingSettings = field(default_factory=SchedulingSettings)
    namespace: str = "raysmith"
    detached: bool = False
    """Whether the fleet outlives its clients."""
    version: str = ""
    """Of the code; filled in by `ensure_scheduler`."""
    tick_s: float = 0.25
    """How often groups are resized and time-outs looked at."""
    ping_interval_s: float = 1.0
    """How often a replica is asked for a sign of life."""
    ping_timeout_s: float = 5.0
    """How long a sign of life may take; after three misses the replica is lost."""
    holder_timeout_s: float = 15.0
    """A client silent for this long is dead and its leases are taken back."""
    orphan_timeout_s: float = 60.0
    """A fleet that is not detached ends after this long without any client."""
    start_attempts: int = 3
    """Replicas of a group that fail to start in a row before who waits for them is refused."""


@dataclass(slots=True, kw_only=True)
class _Hosted:
    name: str
    group: ReplicaGroup
    handle: Any
    state: str = "starting"
    node: str = ""
    pid: int = 0
    since: float = 0.0
    task: asyncio.Task[None] | None = None


@dataclass(slots=True, kw_only=True)
class _Failing:
    count: int = 0
    retry_at: float = 0.0
    error: RaysmithError | None = None


class SchedulerActor:
    """Hosts one `Scheduler`; every method is safe to repeat, because Ray repeats calls after a restart.

    A holder is a client with a heartbeat; child leases have none of their own, they go with their parent.
    """

    def __init__(self, spec: SchedulerSpec) -> None:
        self._spec = spec
        self._groups = {group.name: group for group in spec.groups}
        self._machine = Scheduler(spec.scheduling, [group.info for group in spec.groups])
        self._hosted: dict[str, _Hosted] = {}
        # Names of lost replicas, never used again in this life, and whether their steps were to blame.
        self._burned: dict[str, bool] = {}
        self._failing: defaultdict[str, _Failing] = defaultdict(_Failing)
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
        self._spawn(self._run())
        self._spawn(self._measure())

    # -- what clients call

    async def version(self) -> str:
        """Of the code and the configuration; a client that has another replaces this scheduler."""
        return _spec_version(self._spec)

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
        hosted = self._hosted.get(replica)
        if hosted is None:
            return self._burned.get(replica, True)
        if not certain and await self._answers(hosted):
            return None
        return await self._lose(hosted, reason)

    async def forget(self, run_id: str) -> None:
        """A run is over: replicas that it took down no longer count."""
        self._machine.forget(run_id)

    async def drain(self, replica: str) -> None:
        """Retire a replica once what it holds is done."""
        await self._recovered.wait()
        self._drain(replica)

    async def status(self) -> dict[str, Any]:
        """The fleet as a table of JSON values."""
        await self._recovered.wait()
        waiting = self._machine.waiting()
        nodes = await asyncio.to_thread(_ray().nodes)
        free = await asyncio.to_thread(_ray().available_resources)
        return {
            "replicas": [self._row(hosted, nodes, free) for hosted in self._hosted.values()],
            "waiting": {str(role): count for role, count in sorted(waiting.items())},
            "groups": [self._group_row(group) for group in self._groups.values()],
            "holders": sorted(self._seen.keys() - {_NOBODY}),
        }

    async def shut_down(self) -> None:
        """End the whole fleet, this actor last."""
        self._is_over = True
        await asyncio.gather(*(self._end(hosted) for hosted in list(self._hosted.values())))
        me = _ray().get_runtime_context().current_actor
        asyncio.get_running_loop().call_later(0.2, functools.partial(_ray().kill, me, no_restart=True))

    # -- leases

    def _grant(self, lease: Lease) -> Grant:
        return Grant(lease=lease, handle=self._hosted[lease.replica].handle)

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
            if name in self._hosted:
                self._spawn(self._end(self._hosted[name]))
        self._wake.set()

    async def _stop_work(self, lease: Lease, reason: RaysmithError | None) -> None:
        """Make the replica stop; its slot is free only then. One that does not stop is ended."""
        told = reason or StaleEpoch(f"the lease of {lease.dispatch_id} on {lease.replica} was taken back")
        hosted = self._hosted.get(lease.replica)
        has_stopped = hosted is None
        if hosted is not None:
            with contextlib.suppress(RaysmithError, TimeoutError):
                call = answered(hosted.handle.cancel.remote(lease.dispatch_id, told))
                has_stopped = await asyncio.wait_for(call, 2 * STOP_GRACE_S)
        if hosted is not None and not has_stopped:
            await self._lose(hosted, f"it did not stop {lease.dispatch_id}", blame=False)
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
        members = [h for h in self._hosted.values() if h.group is group and h.state in ("starting", "ready")]
        starting = [h for h in members if h.state == "starting"]
        wanted = self._machine.wanted(group.name, now)
        if len(members) < wanted and now >= self._failing[group.name].retry_at:
            for _ in range(wanted - len(members)):
                self._start(group, now)
        for hosted in starting[: max(0, len(members) - wanted)]:
            self._spawn(self._end(hosted))
        for name in self._machine.surplus(group.name, now):
            self._drain(name)

    def _start(self, group: ReplicaGroup, now: float) -> None:
        name = replica_name(group, {*self._hosted, *self._burned})
        spec = self._replica_spec(group, name)
        options = actor_options(group, name, self._spec.namespace)
        try:
            handle = remote_class().options(**options).remote(spec)
        except ValueError:
            # Ray still knows an ended actor of this name.
            self._burned[name] = False
            return
        hosted = _Hosted(name=name, group=group, handle=handle, since=now)
        self._hosted[name] = hosted
        hosted.task = self._spawn(self._bring_up(hosted))

    def _replica_spec(self, group: ReplicaGroup, name: str) -> ReplicaSpec:
        spec = self._spec
        return ReplicaSpec(
            name=name,
            group=group.name,
            roles=group.roles,
            build=spec.build,
            config={**spec.config, **({"engine": group.engine} if group.engine else {})},
            max_in_flight=group.max_in_flight,
            namespace=spec.namespace,
            fingerprint=fingerprint(group, spec.build, spec.config, spec.version),
        )

    async def _bring_up(self, hosted: _Hosted) -> None:
        try:
            described = await answered(hosted.handle.start.remote())
        except RaysmithError as error:
            await self._could_not_start(hosted, error)
            return
        self._failing.pop(hosted.group.name, None)
        self._join(hosted, described)
        await self._watch(hosted)

    def _join(self, hosted: _Hosted, described: Mapping[str, Any]) -> None:
        hosted.state, hosted.node, hosted.pid = "ready", described["node"], described["pid"]
        info = ReplicaInfo(
            name=hosted.name,
            group=hosted.group.name,
            roles=frozenset(hosted.group.roles),
            node=hosted.node,
            max_in_flight=hosted.group.max_in_flight,
        )
        self._carry_out(self._machine.replica_joined(info, time.monotonic()))

    async def _could_not_start(self, hosted: _Hosted, error: RaysmithError) -> None:
        self._remove(hosted)
        if self._is_over or hosted.state == "stopping":
            return
        group, failing = hosted.group, self._failing[hosted.group.name]
        failing.count += 1
        failing.retry_at = time.monotonic() + min(30.0, 0.5 * 2**failing.count)
        failing.error = error
        log.warning("replica_did_not_start", replica=hosted.name, error=str(error), attempt=failing.count)
        if failing.count >= self._spec.start_attempts:
            refusal = MachineError(
                f"group {group.name} could not start a replica {failing.count} times: {error.message}",
                error.next_move or "mend what it names",
            )
            self._carry_out(self._machine.group_failed(group.name, refusal))

    async def _watch(self, hosted: _Hosted) -> None:
        misses = 0
        while self._hosted.get(hosted.name) is hosted:
            await asyncio.sleep(self._spec.ping_interval_s)
            try:
                await self._ping(hosted)
                misses = 0
            except Unreachable as error:
                misses += 3 if error.certain else 1
                reason = error.message
            except (RaysmithError, TimeoutError):
                misses += 1
                reason = f"it gave no sign of life {misses} times"
            # Three misses, not one: a machine under load may keep a process from its turn for seconds.
            if misses >= 3 and self._hosted.get(hosted.name) is hosted:
                await self._lose(hosted, reason)

    async def _ping(self, hosted: _Hosted) -> None:
        ping = hosted.handle.ping.options(concurrency_group=HEALTH).remote()
        await asyncio.wait_for(answered(ping), self._spec.ping_timeout_s)

    async def _answers(self, hosted: _Hosted) -> bool:
        for _ in range(3):
            try:
                await self._ping(hosted)
                return True
            except Unreachable as error:
                if error.certain:
                    return False
            except (RaysmithError, TimeoutError):
                pass
            await asyncio.sleep(0.2)
        return False

    async def _lose(self, hosted: _Hosted, reason: str, *, blame: bool = True) -> bool:
        """Ends what may still live of it first, so that nobody works under the old epoch."""
        if self._hosted.get(hosted.name) is not hosted:
            return blame
        # No await from here on: the machine must not lend what is no longer hosted.
        self._remove(hosted)
        blame = blame and hosted.state != "stopping" and not _is_node_gone(hosted.node)
        self._burned[hosted.name] = blame
        self._metrics.lost(hosted.group.name)
        log.warning("replica_lost", replica=hosted.name, reason=reason, blame=blame)
        self._carry_out(self._machine.replica_lost(hosted.name, reason, time.monotonic(), blame=blame))
        return blame

    def _drain(self, name: str) -> None:
        hosted = self._hosted.get(name)
        if hosted is None:
            return
        if hosted.state == "starting":
            self._spawn(self._end(hosted))
            return
        hosted.state = "draining"
        hosted.handle.drain.remote()
        self._carry_out(self._machine.drain(name))

    async def _end(self, hosted: _Hosted) -> None:
        """Stop a replica that holds nothing, or with the whole fleet."""
        if hosted.state == "stopping":
            return
        was_up, hosted.state = hosted.state != "starting", "stopping"
        if was_up:
            with contextlib.suppress(RaysmithError, TimeoutError):
                await asyncio.wait_for(answered(hosted.handle.stop.remote()), STOP_GRACE_S)
        self._remove(hosted)
        self._carry_out(
            self._machine.replica_lost(hosted.name, "it was retired", time.monotonic(), blame=False)
        )

    def _remove(self, hosted: _Hosted) -> None:
        if self._hosted.get(hosted.name) is hosted:
            del self._hosted[hosted.name]
        with contextlib.suppress(ValueError, RuntimeError):
            _ray().kill(hosted.handle, no_restart=True)
        self._wake.set()

    # -- after a restart

    async def _recover(self) -> None:
        """Find living replicas by their names; the leases they work under are leases again."""
        listed = await asyncio.to_thread(_ray().util.list_named_actors, all_namespaces=True)
        names = [each["name"] for each in listed if each["namespace"] == self._spec.namespace]
        found = [(name, group) for name in names if (group := group_of(name, self._spec.groups))]
        described = await asyncio.gather(*(self._find(name, group) for name, group in found))
        work = [
            (request.parent is not None, epoch, request, name)
            for name, each in described
            for epoch, request in each.get("work", ())
        ]
        for _, epoch, request, replica in sorted(work, key=lambda item: item[0]):
            made = self._machine.adopt(_under(request, epoch), replica, time.monotonic())
            self._carry_out(made)
            if request.parent is None:
                self._holders[request.dispatch_id] = _NOBODY
        if work:
            self._seen[_NOBODY] = time.monotonic()
        for name, each in described:
            if each and (each["draining"] or each["fingerprint"] != self._fingerprint_of(name)):
                self._drain(name)

    async def _find(self, name: str, group: ReplicaGroup) -> tuple[str, dict[str, Any]]:
        handle = None
        try:
            handle = await asyncio.to_thread(_ray().get_actor, name, self._spec.namespace)
            call = answered(handle.describe.remote())
            described: dict[str, Any] = await asyncio.wait_for(call, self._spec.ping_timeout_s)
        except (ValueError, RaysmithError, TimeoutError) as error:
            log.warning("replica_not_adopted", replica=name, reason=str(error))
            self._burned[name] = False
            if handle is not None:
                _ray().kill(handle, no_restart=True)
            return name, {}
        hosted = _Hosted(name=name, group=group, handle=handle, since=time.monotonic())
        self._hosted[name] = hosted
        if described["started"]:
            self._join(hosted, described)
            hosted.task = self._spawn(self._watch(hosted))
        else:
            hosted.task = self._spawn(self._bring_up(hosted))
        return name, described

    def _fingerprint_of(self, name: str) -> str:
        return self._replica_spec(self._hosted[name].group, name).fingerprint

    # -- the table

    async def _measure(self) -> None:
        await self._recovered.wait()
        while not self._is_over:
            self._metrics.set(self._counts())
            await asyncio.sleep(EVERY_S)

    def _counts(self) -> FleetCounts:
        held = {hosted.name: self._machine.held(hosted.name) for hosted in self._hosted.values()}
        states = Counter(
            (hosted.group.name, _state(hosted, bool(held[hosted.name]))) for hosted in self._hosted.values()
        )
        now = time.monotonic()
        return FleetCounts(
            waiting={str(role): count for role, count in self._machine.waiting().items()},
            leases=Counter(str(request.role) for leases in held.values() for _, request in leases),
            replicas=states,
            wanted={name: self._machine.wanted(name, now) for name in self._groups},
        )

    def _row(
        self, hosted: _Hosted, nodes: Sequence[Mapping[str, Any]], free: Mapping[str, float]
    ) -> dict[str, Any]:
        held = self._machine.held(hosted.name)
        state = pending_reason(hosted.group, nodes, free) if hosted.state == "starting" else hosted.state
        return {
            "name": hosted.name,
            "roles": list(hosted.group.roles),
            "group": hosted.group.name,
            "node": hosted.node,
            "pid": hosted.pid,
            "state": "busy" if state == "ready" and held else "idle" if state == "ready" else state,
            "in_flight": len(held),
            "max_in_flight": hosted.group.max_in_flight,
            "work": [
                {
                    "run_id": request.run_id,
                    "step": request.step,
                    "role": str(request.role),
                    "dispatch_id": lease.dispatch_id,
                    "epoch": lease.epoch,
                    "parent": request.parent,
                }
                for lease, request in held
            ],
        }

    def _group_row(self, group: ReplicaGroup) -> dict[str, Any]:
        failing = self._failing.get(group.name)
        members = [h for h in self._hosted.values() if h.group is group]
        return {
            "name": group.name,
            "roles": list(group.roles),
            "min": group.min_replicas,
            "max": group.max_replicas,
            "wanted": self._machine.wanted(group.name, time.monotonic()),
            "ready": sum(hosted.state == "ready" for hosted in members),
            "trouble": str(failing.error) if failing and failing.error else "",
        }

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


def _state(hosted: _Hosted, is_busy: bool) -> str:
    return ("busy" if is_busy else "idle") if hosted.state == "ready" else hosted.state


def _ray() -> Any:
    import ray

    return ray


def _is_node_gone(node: str) -> bool:
    return any(each["NodeID"] == node and not each["Alive"] for each in _ray().nodes())


def _under(request: LeaseRequest, epoch: int) -> LeaseRequest:
    return replace(request, epoch=epoch)


def _spec_version(spec: SchedulerSpec) -> str:
    parts = [fingerprint(group, spec.build, spec.config, spec.version) for group in spec.groups]
    bounds = [(g.min_replicas, g.max_replicas, g.idle_timeout_s) for g in spec.groups]
    return f"{spec.version} {parts} {bounds} {spec.scheduling} {spec.detached}"


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
        if theirs == _spec_version(spec):
            return handle
        _ray().kill(handle, no_restart=True)
        await asyncio.sleep(0.2)
    raise MachineError(
        "the fleet's scheduler could not be replaced", "stop whatever keeps starting the old one"
    )
