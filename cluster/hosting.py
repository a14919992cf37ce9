"""Replica actors, one by one: started, watched, drained, lost and ended.

What follows for leases is decided by the machine; its decisions go to `carry_out`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from cluster.answered import Unreachable, answered
from cluster.fleet import ReplicaGroup, actor_options, replica_name
from cluster.replica import HEALTH, STOP_GRACE_S, remote_class
from cluster.scheduler_spec import SchedulerSpec, replica_spec
from orchestrator.errors import MachineError, RaysmithError
from orchestrator.scheduling import Decisions, ReplicaInfo, Scheduler

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Hosted:
    """A replica's actor; `state` is `starting`, `ready`, `draining` or `stopping`, `since` monotonic."""

    name: str
    group: ReplicaGroup
    handle: Any
    state: str = "starting"
    node: str = ""
    pid: int = 0
    since: float = 0.0
    task: asyncio.Task[None] | None = None


@dataclass(slots=True, kw_only=True)
class Failing:
    """How often in a row a group's replicas did not start, and when to try again."""

    count: int = 0
    retry_at: float = 0.0
    error: RaysmithError | None = None


class Hosting:
    """Every replica actor of one scheduler."""

    def __init__(
        self,
        spec: SchedulerSpec,
        machine: Scheduler,
        *,
        carry_out: Callable[[Decisions], None],
        lost: Callable[[str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        """`lost` is told the group of each replica that died; `spawn` keeps a task."""
        self._spec = spec
        self._machine = machine
        self._carry_out = carry_out
        self._lost = lost
        self._spawn = spawn
        self.hosted: dict[str, Hosted] = {}
        # Names of lost replicas, never used again in this life, and whether their steps were to blame.
        self._burned: dict[str, bool] = {}
        self.failing: defaultdict[str, Failing] = defaultdict(Failing)
        self._is_over = False

    def of(self, group: ReplicaGroup) -> list[Hosted]:
        """The group's replicas, in whatever state."""
        return [hosted for hosted in self.hosted.values() if hosted.group is group]

    def was_to_blame(self, name: str) -> bool:
        """Whether the steps of a replica that is gone are to blame for it."""
        return self._burned.get(name, True)

    def get(self, name: str) -> Hosted | None:
        """The replica of this name, unless it is gone."""
        return self.hosted.get(name)

    def start(self, group: ReplicaGroup, now: float) -> None:
        """Make one more replica; it joins the machine when it is up."""
        name = replica_name(group, {*self.hosted, *self._burned})
        spec = replica_spec(self._spec, group, name)
        options = actor_options(group, name, self._spec.namespace)
        try:
            handle = remote_class().options(**options).remote(spec)
        except ValueError:
            # Ray still knows an ended actor of this name.
            self._burned[name] = False
            return
        hosted = Hosted(name=name, group=group, handle=handle, since=now)
        self.hosted[name] = hosted
        hosted.task = self._spawn(self._bring_up(hosted))

    async def _bring_up(self, hosted: Hosted) -> None:
        try:
            described = await answered(hosted.handle.start.remote())
        except RaysmithError as error:
            self._could_not_start(hosted, error)
            return
        if self.hosted.get(hosted.name) is not hosted:
            # Ended while it started: the answer was under way.
            return
        self.failing.pop(hosted.group.name, None)
        self._join(hosted, described)
        await self._watch(hosted)

    def _join(self, hosted: Hosted, described: Mapping[str, Any]) -> None:
        hosted.state, hosted.node, hosted.pid = "ready", described["node"], described["pid"]
        info = ReplicaInfo(
            name=hosted.name,
            group=hosted.group.name,
            roles=frozenset(hosted.group.roles),
            node=hosted.node,
            max_in_flight=hosted.group.max_in_flight,
        )
        self._carry_out(self._machine.replica_joined(info, time.monotonic()))

    def _could_not_start(self, hosted: Hosted, error: RaysmithError) -> None:
        self._remove(hosted)
        if self._is_over or hosted.state == "stopping":
            return
        group, failing = hosted.group, self.failing[hosted.group.name]
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

    async def _watch(self, hosted: Hosted) -> None:
        misses = 0
        while self.hosted.get(hosted.name) is hosted:
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
            if misses >= 3 and self.hosted.get(hosted.name) is hosted:
                self.lose(hosted, reason)

    async def _ping(self, hosted: Hosted) -> None:
        ping = hosted.handle.ping.options(concurrency_group=HEALTH).remote()
        await asyncio.wait_for(answered(ping), self._spec.ping_timeout_s)

    async def answers(self, hosted: Hosted) -> bool:
        """Whether it gives a sign of life, asked three times."""
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

    def lose(self, hosted: Hosted, reason: str, *, blame: bool = True) -> bool:
        """It is gone; whether its steps are to blame.

        What may still live of it is ended first, so that nobody works under the old epoch. Nothing here
        waits: the machine must not lend what is no longer hosted.
        """
        if self.hosted.get(hosted.name) is not hosted:
            return blame
        self._remove(hosted)
        blame = blame and hosted.state != "stopping" and not _is_node_gone(hosted.node)
        self._burned[hosted.name] = blame
        self._lost(hosted.group.name)
        log.warning("replica_lost", replica=hosted.name, reason=reason, blame=blame)
        self._carry_out(self._machine.replica_lost(hosted.name, reason, time.monotonic(), blame=blame))
        return blame

    def drain(self, name: str) -> None:
        """Retire it once what it holds is done."""
        hosted = self.hosted.get(name)
        if hosted is None:
            return
        if hosted.state == "starting":
            self._spawn(self.end(hosted))
            return
        hosted.state = "draining"
        hosted.handle.drain.remote()
        self._carry_out(self._machine.drain(name))

    async def end(self, hosted: Hosted) -> None:
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

    def _remove(self, hosted: Hosted) -> None:
        if self.hosted.get(hosted.name) is hosted:
            del self.hosted[hosted.name]
        with contextlib.suppress(ValueError, RuntimeError):
            _ray().kill(hosted.handle, no_restart=True)

    async def end_all(self) -> None:
        """Stop every replica; none is missed from now on."""
        self._is_over = True
        await asyncio.gather(*(self.end(hosted) for hosted in list(self.hosted.values())))

    async def find(self, name: str, group: ReplicaGroup) -> dict[str, Any]:
        """Take up the living replica of this name again; what it says of itself, {} when it is of no use."""
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
            return {}
        hosted = Hosted(name=name, group=group, handle=handle, since=time.monotonic())
        self.hosted[name] = hosted
        if described["started"]:
            self._join(hosted, described)
            hosted.task = self._spawn(self._watch(hosted))
        else:
            hosted.task = self._spawn(self._bring_up(hosted))
        return described


def _ray() -> Any:
    import ray

    return ray


def _is_node_gone(node: str) -> bool:
    return any(each["NodeID"] == node and not each["Alive"] for each in _ray().nodes())
