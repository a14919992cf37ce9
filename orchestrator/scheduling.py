"""Which step works on which replica: leases as a pure state machine. No clock, no handle, no I/O.

Order among waiting requests of a role: first children (their parent already holds a replica), then
priority, then fair share between tenants, then affinity, then the run that has had the fewest leases,
then age. `docs/design/scheduling.md` has the reasons and the argument that nothing deadlocks.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator
from math import ceil
from typing import Any, TypeVar

from orchestrator.errors import Cancelled, MachineError, QueueFull, RaysmithError, ReplicaLost, StaleEpoch
from orchestrator.leases import (
    Decisions,
    Ended,
    GroupInfo,
    Lease,
    LeaseRequest,
    Refusal,
    ReplicaInfo,
    SchedulingSettings,
)
from orchestrator.waiting import Entry, Line, Rank, State, TenantQueue

__all__ = [
    "Decisions",
    "Ended",
    "GroupInfo",
    "Lease",
    "LeaseRequest",
    "Refusal",
    "ReplicaInfo",
    "Scheduler",
    "SchedulingSettings",
]

_K = TypeVar("_K")


class _Replica:
    __slots__ = ("draining", "held", "idle_since", "info", "isolated", "reserved_for")

    def __init__(self, info: ReplicaInfo, now: float) -> None:
        self.info = info
        self.held: dict[tuple[str, int], Entry] = {}
        self.draining = False
        self.isolated = False
        self.reserved_for: Entry | None = None
        self.idle_since = now

    @property
    def room(self) -> int:
        if self.draining or self.isolated or self.reserved_for:
            return 0
        return self.info.max_in_flight - len(self.held)


class Scheduler:
    """Grants leases on replicas.

    Invariants: no replica holds more leases than its bound; a dispatch has at most one current lease;
    its epochs only grow; every lease ends in exactly one of finished, cancelled, requeued; a child's
    lease never outlives its parent's. A revoked lease keeps its slot until it is released, so that the
    bound holds for the work that really runs.
    """

    def __init__(self, settings: SchedulingSettings | None = None, groups: Iterable[GroupInfo] = ()) -> None:
        self._settings = settings or SchedulingSettings()
        self._groups = {group.name: group for group in groups}
        self._replicas: dict[str, _Replica] = {}
        self._lines: dict[str, Line] = {}
        self._entries: dict[str, Entry] = {}
        self._revoked: dict[tuple[str, int], Entry] = {}
        self._by_run: dict[str, set[str]] = {}
        self._extras: dict[str, dict[str, Entry]] = {}
        self._waiting_extras: deque[Entry] = deque()
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self._homes: OrderedDict[str, str] = OrderedDict()
        self._kills: OrderedDict[tuple[str, str], list[str]] = OrderedDict()
        self._leases_of_run: OrderedDict[str, int] = OrderedDict()
        self._seq = itertools.count()
        self._waiting = 0

    # -- transitions

    def request(self, request: LeaseRequest, now: float) -> Decisions:
        """Ask for a replica. Asking again for a dispatch that waits or is leased changes nothing.

        A higher epoch than the current one takes the dispatch over: its old lease is evicted.
        """
        made = Decisions()
        current = self._entries.get(request.dispatch_id)
        if current and request.epoch <= current.epoch:
            if current.state is State.LEASED:
                made.granted.append(current.lease)
            return made
        error = self._objection(request)
        if error:
            made.refused.append(Refusal(dispatch_id=request.dispatch_id, epoch=request.epoch, error=error))
            return made
        if current:
            self._revoke(current, Ended.REQUEUED, made)
        self._enqueue(Entry(request, self._order(request), now))
        return self._settle(made)

    def release(self, dispatch_id: str, epoch: int, now: float) -> Decisions:
        """Give a lease back; one that is not held under `epoch` (given back twice, say) changes nothing."""
        made = Decisions()
        entry = self._revoked.pop((dispatch_id, epoch), None)
        if entry:
            self._leave(entry, now, made)
            return self._settle(made)
        entry = self._entries.get(dispatch_id)
        if entry is None or entry.epoch != epoch or entry.state is not State.LEASED:
            return made
        made.ended.append((entry.lease, Ended.FINISHED))
        self._forget_entry(entry)
        entry.state = State.GONE
        self._leave(entry, now, made)
        self._revoke_children(entry, made)
        return self._settle(made)

    def cancel(
        self,
        *,
        run_id: str | None = None,
        dispatch_id: str | None = None,
        error: RaysmithError | None = None,
    ) -> Decisions:
        """Stop everything of a run, or one dispatch and its children; who waits is refused with `error`."""
        made = Decisions()
        names = list(self._by_run.get(run_id, ())) if run_id else []
        for name in [*names, dispatch_id]:
            entry = self._entries.get(name) if name else None
            if entry:
                self._revoke(entry, Ended.CANCELLED, made, error)
        return self._settle(made)

    def replica_joined(self, info: ReplicaInfo, now: float) -> Decisions:
        """A replica is ready to work."""
        if info.name not in self._replicas:
            self._replicas[info.name] = _Replica(info, now)
        return self._settle(Decisions())

    def adopt(self, request: LeaseRequest, replica: str, now: float) -> Decisions:
        """A lease that a restarted scheduler found at work on a living replica, under `request.epoch`.

        Parents come before their children; a child without its parent is evicted. What is found may be
        more than the replica's bound, when it was lent anew before its client was heard; that ends by itself.
        """
        made = Decisions()
        current = self._entries.get(request.dispatch_id)
        held_on = self._replicas.get(replica)
        if held_on is None or self._epochs.get(request.dispatch_id, request.epoch - 1) >= request.epoch:
            return made
        if current:
            self._revoke(current, Ended.REQUEUED, made)
        entry = Entry(request, self._order(request), now)
        self._remember(entry)
        self._occupy(entry, held_on)
        if request.parent is not None and request.parent not in self._entries:
            self._revoke(entry, Ended.CANCELLED, made)
        return self._settle(made)

    def replica_lost(self, name: str, reason: str, now: float, *, blame: bool = True) -> Decisions:
        """A replica is gone. Its steps wait again under the next epoch; its children's parents open others.

        Args:
            name: An unknown one changes nothing.
            reason: Kept as evidence.
            now: Seconds on any clock that only grows.
            blame: Count it against the steps on it; False when its node or its owner died.
        """
        made = Decisions()
        lost = self._replicas.pop(name, None)
        if lost is None:
            return made
        reserved, lost.reserved_for = lost.reserved_for, None
        if reserved:
            self._requeue(reserved)
        if blame:
            for step in dict.fromkeys(entry.step for entry in lost.held.values()):
                self._kill(step, f"{name}: {reason}")
        for key, entry in lost.held.items():
            self._revoked.pop(key, None)
            self._lost_lease(entry, now, made)
        return self._settle(made)

    def drain(self, name: str) -> Decisions:
        """Give the replica nothing more; `drained` names it once it holds nothing."""
        made = Decisions()
        replica = self._replicas.get(name)
        if replica is None or replica.draining:
            return made
        replica.draining = True
        reserved, replica.reserved_for = replica.reserved_for, None
        if reserved:
            self._requeue(reserved)
        if not replica.held:
            made.drained.append(name)
        return self._settle(made)

    def tick(self, now: float) -> Decisions:
        """Let time pass: second children that waited too long are refused."""
        made = Decisions()
        limit = self._settings.extra_child_wait_s
        while self._waiting_extras:
            entry = self._waiting_extras[0]
            if entry.state is State.WAITING and entry.is_extra:
                if now - entry.since < limit:
                    break
                busy = QueueFull(f"no second replica was free in {limit:g} s", "go on with the one you have")
                self._revoke(entry, Ended.CANCELLED, made, busy)
            else:
                self._waiting_extras.popleft()
        return self._settle(made)

    def group_failed(self, group: str, error: RaysmithError) -> Decisions:
        """A group cannot start a replica: refuse what waits for a role that no living replica serves."""
        made = Decisions()
        served = {role for replica in self._replicas.values() for role in replica.info.roles}
        roles = self._groups[group].roles - served
        for entry in [e for e in self._entries.values() if e.state is State.WAITING]:
            if entry.request.role in roles:
                self._revoke(entry, Ended.CANCELLED, made, error)
        return self._settle(made)

    def forget(self, run_id: str) -> None:
        """A run ended for now: its kills no longer count, nor the leases that it had."""
        self._leases_of_run.pop(run_id, None)
        for step in [step for step in self._kills if step[0] == run_id]:
            del self._kills[step]

    # -- questions

    def is_current(self, dispatch_id: str, epoch: int) -> bool:
        """Whether a result under `epoch` counts."""
        entry = self._entries.get(dispatch_id)
        return entry is not None and entry.state is State.LEASED and entry.epoch == epoch

    def lease(self, dispatch_id: str) -> Lease | None:
        """The dispatch's current lease."""
        entry = self._entries.get(dispatch_id)
        return entry.lease if entry and entry.state is State.LEASED else None

    def current_epoch(self, dispatch_id: str) -> int | None:
        """The epoch under which the dispatch waits or is leased; None when it is neither."""
        entry = self._entries.get(dispatch_id)
        return entry.epoch if entry else None

    def wanted(self, group: str, now: float) -> int:
        """Replicas the group should have: enough for what is held and waits, the warm ones, min to max."""
        bounds = self._groups[group]
        members = [r for r in self._replicas.values() if r.info.group == group and not r.draining]
        held = sum(len(replica.held) for replica in members)
        waiting = sum(self._lines[role].waiting for role in bounds.roles if role in self._lines)
        needed = ceil((held + waiting) / bounds.max_in_flight)
        warm = sum(bool(r.held) or now - r.idle_since < bounds.idle_timeout_s for r in members)
        return max(bounds.min_replicas, min(bounds.max_replicas, max(needed, warm)))

    def surplus(self, group: str, now: float) -> list[str]:
        """Idle replicas beyond `wanted`, longest idle first; `drain` them."""
        members = [r for r in self._replicas.values() if r.info.group == group and not r.draining]
        idle = sorted((r for r in members if not r.held and not r.reserved_for), key=lambda r: r.idle_since)
        return [r.info.name for r in idle[: max(0, len(members) - self.wanted(group, now))]]

    def waiting(self) -> dict[str, int]:
        """Waiting requests by role."""
        return {role: line.waiting for role, line in self._lines.items() if line.waiting}

    def waiting_dispatches(self) -> list[str]:
        """Dispatch ids of all waiting requests."""
        return [name for name, entry in self._entries.items() if entry.state is State.WAITING]

    def replicas(self) -> list[ReplicaInfo]:
        """All living replicas, in the order they joined."""
        return [replica.info for replica in self._replicas.values()]

    def is_draining(self, name: str) -> bool:
        """Whether the replica takes nothing more."""
        return name in self._replicas and self._replicas[name].draining

    def held(self, name: str) -> list[tuple[Lease, LeaseRequest]]:
        """Leases that take a slot of the replica, revoked ones included."""
        replica = self._replicas.get(name)
        return [(entry.lease, entry.request) for entry in replica.held.values()] if replica else []

    # -- inside

    def _objection(self, request: LeaseRequest) -> RaysmithError | None:
        step = (request.run_id, request.step)
        if len(self._kills.get(step, ())) >= self._settings.kills_to_quarantine:
            return self._quarantine(step)
        if request.epoch <= self._epochs.get(request.dispatch_id, request.epoch - 1):
            return StaleEpoch(
                f"dispatch {request.dispatch_id} has ended under epoch {self._epochs[request.dispatch_id]}",
                "ask again under a higher one",
            )
        if not any(request.role in roles for roles in self._all_roles()):
            return MachineError(
                f"no replica group serves role {str(request.role)!r}",
                "add a group with this role to `fleet` in the configuration",
            )
        if request.parent is not None:
            return self._objection_to_child(request)
        return None if request.dispatch_id in self._entries else self._full()

    def _objection_to_child(self, request: LeaseRequest) -> RaysmithError | None:
        parent = self._entries.get(request.parent or "")
        if parent is None or parent.state is not State.LEASED:
            return StaleEpoch(
                f"{request.parent} holds no lease", "stop: its work was given away or cancelled"
            )
        if request.parent_epoch is not None and request.parent_epoch != parent.epoch:
            return StaleEpoch(
                f"{request.parent} is at epoch {parent.epoch}, not {request.parent_epoch}",
                "stop: its work was given away",
            )
        if parent.request.parent is not None:
            return MachineError(f"{request.parent} is itself a child", "lease through its parent")
        return self._full() if parent.children else None

    def _full(self) -> QueueFull | None:
        limit = self._settings.max_waiting
        if self._waiting < limit:
            return None
        return QueueFull(f"{limit} requests are waiting already", "ask again later, or raise `max_waiting`")

    def _all_roles(self) -> Iterator[Collection[str]]:
        yield from (group.roles for group in self._groups.values())
        yield from (replica.info.roles for replica in self._replicas.values())

    def _order(self, request: LeaseRequest) -> tuple[int, int]:
        """The run that has had the least goes first, then who asked first."""
        return self._leases_of_run.get(request.run_id, 0), next(self._seq)

    def _enqueue(self, entry: Entry) -> None:
        self._remember(entry)
        if entry.is_extra:
            self._waiting_extras.append(entry)
        self._stand_in_line(entry)

    def _remember(self, entry: Entry) -> None:
        request = entry.request
        self._entries[request.dispatch_id] = entry
        self._by_run.setdefault(request.run_id, set()).add(request.dispatch_id)
        self._note_epoch(entry)
        parent = self._entries.get(request.parent) if request.parent else None
        if parent:
            entry.is_extra = bool(parent.children)
            parent.children[request.dispatch_id] = entry

    def _note_epoch(self, entry: Entry) -> None:
        name = entry.request.dispatch_id
        self._epochs[name] = max(entry.epoch, self._epochs.get(name, 0))
        _bound(self._epochs, name, self._settings.remembered + len(self._entries))

    def _stand_in_line(self, entry: Entry) -> None:
        line = self._lines.setdefault(entry.request.role, Line())
        line.add(entry, self._homes.get(entry.request.affinity, ""))
        line.waiting += 1
        line.waiting_extras += entry.is_extra
        self._waiting += 1

    def _leave_line(self, entry: Entry) -> None:
        line = self._lines[entry.request.role]
        line.waiting -= 1
        line.waiting_extras -= entry.is_extra
        self._waiting -= 1

    def _requeue(self, entry: Entry) -> None:
        """Stand where it stood. Reserved entries still count as waiting, so they leave the line first."""
        if entry.state is State.WAITING:
            self._leave_line(entry)
        entry.state = State.WAITING
        entry.replica = ""
        self._stand_in_line(entry)

    def _settle(self, made: Decisions) -> Decisions:
        """Grant what can be granted, then make room for what may take it from second children."""
        self._fill_reservations(made)
        while self._grant_one(made):
            pass
        self._evict_extras(made)
        return made

    def _fill_reservations(self, made: Decisions) -> None:
        for replica in self._replicas.values():
            entry = replica.reserved_for
            if entry is None:
                continue
            if entry.state is not State.WAITING:
                replica.reserved_for = None
                continue
            idle = next((r for r in (replica, *self._idle(entry.request.role)) if not r.held), None)
            if idle:
                replica.reserved_for = None
                self._grant(entry, idle, made)

    def _idle(self, role: str) -> list[_Replica]:
        return [r for r in self._replicas.values() if role in r.info.roles and r.room > 0 and not r.held]

    def _grant_one(self, made: Decisions) -> bool:
        heads = []
        for role, line in self._lines.items():
            rooms = [r for r in self._replicas.values() if role in r.info.roles and r.room > 0]
            head = line.head() if rooms else None
            if head:
                heads.append((self._urgency(head[0]), head, rooms))
        if not heads:
            return False
        _, (entry, queue), rooms = min(heads, key=lambda item: item[0])
        if entry.step in self._kills:
            self._grant_alone(entry, queue, rooms, made)
        else:
            self._grant_best(entry, queue, rooms, made)
        return True

    def _urgency(self, entry: Entry) -> tuple[Rank, int, tuple[int, int]]:
        """Compares heads of several roles that want the same replica: fair over all roles together."""
        tenant = entry.request.tenant
        return entry.rank, sum(line.held.get(tenant, 0) for line in self._lines.values()), entry.order

    def _grant_best(self, entry: Entry, queue: TenantQueue, rooms: list[_Replica], made: Decisions) -> None:
        home = self._homes.get(entry.request.affinity, "")
        target = min(rooms, key=lambda r: (r.info.name != home, len(r.held), r.idle_since))
        if target.info.name != home and entry.overtaken < self._settings.affinity_overtakes:
            later = queue.head_at(target.info.name)
            if later and later is not entry and later.step not in self._kills:
                entry.overtaken += 1
                entry = later
        self._grant(entry, target, made)

    def _grant_alone(self, entry: Entry, queue: TenantQueue, rooms: list[_Replica], made: Decisions) -> None:
        """A step that was on a lost replica works alone, so that the next loss has one suspect."""
        target = min(rooms, key=lambda r: (len(r.held), r.idle_since))
        if not target.held:
            self._grant(entry, target, made)
            return
        target.reserved_for = entry
        heapq.heappop(queue.all)

    def _grant(self, entry: Entry, replica: _Replica, made: Decisions) -> None:
        self._leave_line(entry)
        self._occupy(entry, replica)
        made.granted.append(entry.lease)

    def _occupy(self, entry: Entry, replica: _Replica) -> None:
        request = entry.request
        entry.state = State.LEASED
        entry.replica = replica.info.name
        replica.held[request.dispatch_id, entry.epoch] = entry
        replica.isolated = entry.step in self._kills
        self._lines.setdefault(request.role, Line()).took(request.tenant)
        if request.parent is None:
            self._leases_of_run[request.run_id] = self._leases_of_run.get(request.run_id, 0) + 1
            _bound(self._leases_of_run, request.run_id, self._settings.remembered)
        if request.affinity:
            self._homes[request.affinity] = replica.info.name
            _bound(self._homes, request.affinity, self._settings.remembered)
        if entry.is_extra:
            self._extras.setdefault(request.role, {})[request.dispatch_id] = entry

    def _evict_extras(self, made: Decisions) -> None:
        """Take replicas back from second children, newest first, for those who have none."""
        for role, line in self._lines.items():
            extras = self._extras.get(role)
            if not extras or line.waiting <= line.waiting_extras:
                continue
            head = line.head()
            coming = sum(role in self._roles_at(entry.replica) for entry in self._revoked.values())
            short = line.waiting - line.waiting_extras - coming
            for extra in list(reversed(extras.values()))[: max(0, short)]:
                if head and not head[0].is_extra and extra.rank > head[0].rank:
                    self._revoke(extra, Ended.CANCELLED, made)

    def _roles_at(self, replica: str) -> frozenset[str]:
        return self._replicas[replica].info.roles if replica in self._replicas else frozenset()

    def _revoke(
        self, entry: Entry, ended: Ended, made: Decisions, error: RaysmithError | None = None
    ) -> None:
        """Take away what is waiting or leased; a leased one keeps its slot until it is released."""
        self._forget_entry(entry)
        if entry.state is State.WAITING:
            self._leave_line(entry)
            entry.state = State.GONE
            reason = error or Cancelled(f"{entry.request.dispatch_id} was cancelled while it waited")
            made.refused.append(
                Refusal(dispatch_id=entry.request.dispatch_id, epoch=entry.epoch, error=reason)
            )
        else:
            entry.state = State.REVOKED
            self._revoked[entry.request.dispatch_id, entry.epoch] = entry
            made.evicted.append(entry.lease)
            made.ended.append((entry.lease, ended))
        self._revoke_children(entry, made)

    def _revoke_children(self, entry: Entry, made: Decisions) -> None:
        gone = StaleEpoch(f"{entry.request.dispatch_id} no longer holds its lease", "stop")
        children, entry.children = entry.children, {}
        for child in children.values():
            self._revoke(child, Ended.CANCELLED, made, gone)

    def _lost_lease(self, entry: Entry, now: float, made: Decisions) -> None:
        if entry.state is not State.LEASED:
            self._leave(entry, now, made)
            return
        kills = self._kills.get(entry.step, [])
        is_over = len(kills) >= self._settings.kills_to_quarantine
        if entry.request.parent is not None or is_over:
            made.ended.append((entry.lease, Ended.CANCELLED))
            self._forget_entry(entry)
            entry.state = State.GONE
            self._leave(entry, now, made)
            self._revoke_children(entry, made)
            if is_over:
                error = self._quarantine(entry.step)
                made.refused.append(
                    Refusal(dispatch_id=entry.request.dispatch_id, epoch=entry.epoch, error=error)
                )
            return
        made.ended.append((entry.lease, Ended.REQUEUED))
        self._revoke_children(entry, made)
        self._leave(entry, now, made)
        entry.epoch += 1
        entry.since = now
        self._note_epoch(entry)
        self._requeue(entry)

    def _leave(self, entry: Entry, now: float, made: Decisions) -> None:
        """The lease's slot is free."""
        request = entry.request
        self._lines[request.role].gave_back(request.tenant)
        self._extras.get(request.role, {}).pop(request.dispatch_id, None)
        replica = self._replicas.get(entry.replica)
        if replica is None:
            return
        del replica.held[request.dispatch_id, entry.epoch]
        if not replica.held:
            replica.isolated = False
            replica.idle_since = now
            if replica.draining:
                made.drained.append(replica.info.name)

    def _forget_entry(self, entry: Entry) -> None:
        request = entry.request
        del self._entries[request.dispatch_id]
        self._extras.get(request.role, {}).pop(request.dispatch_id, None)
        dispatches = self._by_run[request.run_id]
        dispatches.discard(request.dispatch_id)
        if not dispatches:
            del self._by_run[request.run_id]
        parent = self._entries.get(request.parent) if request.parent else None
        if parent and parent.children.pop(request.dispatch_id, None):
            self._promote(parent)

    def _promote(self, parent: Entry) -> None:
        """When the first child is gone, the oldest of the others is the first."""
        if not parent.children or any(not child.is_extra for child in parent.children.values()):
            return
        oldest = min(
            parent.children.values(), key=lambda child: (child.state is not State.LEASED, child.order)
        )
        is_waiting = oldest.state is State.WAITING
        if is_waiting:
            self._leave_line(oldest)
        oldest.is_extra = False
        self._extras.get(oldest.request.role, {}).pop(oldest.request.dispatch_id, None)
        if is_waiting:
            self._stand_in_line(oldest)

    def _kill(self, step: tuple[str, str], evidence: str) -> None:
        self._kills.setdefault(step, []).append(evidence)
        _bound(self._kills, step, self._settings.remembered)

    def _quarantine(self, step: tuple[str, str]) -> ReplicaLost:
        evidence = self._kills[step]
        return ReplicaLost(
            f"step {step[1]} of run {step[0]} took {len(evidence)} replicas down ({'; '.join(evidence)})",
            "look at what it runs; it is not tried again",
        )


def _bound(remembered: OrderedDict[_K, Any], newest: _K, limit: int) -> None:
    remembered.move_to_end(newest)
    if len(remembered) > limit:
        remembered.popitem(last=False)
