"""Random walks over the scheduler: what must hold whatever happens in whatever order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.scheduling import (
    Decisions,
    Ended,
    GroupInfo,
    Lease,
    LeaseRequest,
    ReplicaInfo,
    Scheduler,
    SchedulingSettings,
)

GROUPS = (
    GroupInfo(name="model", roles=frozenset({"code", "repair"}), max_replicas=3, max_in_flight=2),
    GroupInfo(name="runners", roles=frozenset({"run"}), max_replicas=3, max_in_flight=2),
)
ROLES = st.sampled_from(["code", "repair", "run"])


class Walk(RuleBasedStateMachine):
    """Keeps a model beside the scheduler: what was asked, what is held, how each lease ended."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Scheduler(SchedulingSettings(max_waiting=12, extra_child_wait_s=5.0), GROUPS)
        self.now = 0.0
        self.number = 0
        self.asked: dict[str, LeaseRequest] = {}
        self.waiting: set[str] = set()
        self.leased: dict[str, Lease] = {}
        self.stopping: set[Lease] = set()
        self.ended: Counter[Lease] = Counter()
        self.granted: set[Lease] = set()
        self.epochs: dict[str, int] = {}
        self.bounds: dict[str, int] = {}

    def follow(self, made: Decisions) -> None:
        for lease, how in made.ended:
            self.ended[lease] += 1
            assert self.leased.pop(lease.dispatch_id) == lease
            if how is Ended.REQUEUED:
                self.waiting.add(lease.dispatch_id)
        for lease in made.evicted:
            if lease.replica in self.bounds:
                self.stopping.add(lease)
        for refusal in made.refused:
            if refusal.epoch >= self.asked[refusal.dispatch_id].epoch:
                self.waiting.discard(refusal.dispatch_id)
        for lease in made.granted:
            if self.leased.get(lease.dispatch_id) == lease:
                continue
            assert lease.dispatch_id not in self.leased, "leased twice"
            assert lease not in self.granted, "the same lease was granted before"
            assert lease.epoch >= self.epochs.get(lease.dispatch_id, 0), "epochs only grow"
            self.epochs[lease.dispatch_id] = lease.epoch
            self.granted.add(lease)
            self.leased[lease.dispatch_id] = lease
            self.waiting.discard(lease.dispatch_id)

    def ask(self, request: LeaseRequest) -> None:
        self.asked[request.dispatch_id] = request
        self.waiting.add(request.dispatch_id)
        self.follow(self.machine.request(request, self.now))

    @rule(role=ROLES, tenant=st.sampled_from("ab"), priority=st.integers(0, 2), run=st.integers(0, 4))
    def request(self, role: str, tenant: str, priority: int, run: int) -> None:
        self.number += 1
        self.ask(
            LeaseRequest(
                dispatch_id=f"d{self.number}",
                run_id=f"r{run}",
                step=f"s{self.number % 3}",
                role=role,
                tenant=tenant,
                priority=priority,
                affinity=f"r{run}",
            )
        )

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def request_child(self, data: st.DataObject) -> None:
        parent = self.asked[data.draw(st.sampled_from(sorted(self.leased)))]
        self.number += 1
        self.ask(
            LeaseRequest(
                dispatch_id=f"d{self.number}",
                run_id=parent.run_id,
                step=parent.step,
                role="run",
                tenant=parent.tenant,
                parent=parent.dispatch_id,
                parent_epoch=self.leased[parent.dispatch_id].epoch,
            )
        )

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), higher=st.integers(0, 1))
    def ask_again(self, data: st.DataObject, higher: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.asked)))
        if self.asked[name].parent or not (name in self.waiting or name in self.leased):
            return
        epoch = (self.machine.current_epoch(name) or 0) + higher
        request = replace(self.asked[name], epoch=epoch)
        if higher:
            self.ask(request)
        else:
            self.follow(self.machine.request(request, self.now))

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = self.leased[data.draw(st.sampled_from(sorted(self.leased)))]
        self.follow(self.machine.release(lease.dispatch_id, lease.epoch, self.now))
        assert not self.machine.is_current(lease.dispatch_id, lease.epoch)

    @precondition(lambda self: self.stopping)
    @rule(data=st.data())
    def stopped(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.stopping, key=str)))
        self.stopping.discard(lease)
        self.follow(self.machine.release(lease.dispatch_id, lease.epoch, self.now))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.asked)))
        self.follow(self.machine.cancel(dispatch_id=name))

    @rule(run=st.integers(0, 4))
    def cancel_run(self, run: int) -> None:
        self.follow(self.machine.cancel(run_id=f"r{run}"))
        assert not any(self.asked[name].run_id == f"r{run}" for name in {*self.waiting, *self.leased})

    @rule(group=st.sampled_from(GROUPS), limit=st.integers(1, 3))
    def join(self, group: GroupInfo, limit: int) -> None:
        self.number += 1
        info = ReplicaInfo(
            name=f"{group.name}-{self.number}", group=group.name, roles=group.roles, max_in_flight=limit
        )
        self.bounds[info.name] = limit
        self.follow(self.machine.replica_joined(info, self.now))

    @precondition(lambda self: self.bounds)
    @rule(data=st.data(), blame=st.booleans())
    def lose(self, data: st.DataObject, blame: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.bounds)))
        del self.bounds[name]
        self.stopping = {lease for lease in self.stopping if lease.replica != name}
        self.follow(self.machine.replica_lost(name, "killed", self.now, blame=blame))
        assert all(lease.replica != name for lease in self.leased.values())

    @precondition(lambda self: self.bounds)
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        self.follow(self.machine.drain(data.draw(st.sampled_from(sorted(self.bounds)))))

    @rule(seconds=st.floats(0.0, 10.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.follow(self.machine.tick(self.now))

    @invariant()
    def no_replica_is_over_its_bound(self) -> None:
        for name, limit in self.bounds.items():
            held = [lease for lease, _ in self.machine.held(name)]
            assert len(held) <= limit
            mine = {lease for lease in self.leased.values() if lease.replica == name}
            assert set(held) == mine | {lease for lease in self.stopping if lease.replica == name}

    @invariant()
    def nothing_is_lost(self) -> None:
        assert set(self.machine.waiting_dispatches()) == self.waiting
        assert sum(self.machine.waiting().values()) == len(self.waiting)
        for name, lease in self.leased.items():
            assert self.machine.lease(name) == lease
            assert self.machine.is_current(name, lease.epoch)

    @invariant()
    def every_lease_ends_once(self) -> None:
        assert all(count == 1 for count in self.ended.values())
        assert self.granted == set(self.ended) | set(self.leased.values())

    @invariant()
    def no_child_outlives_its_parent(self) -> None:
        for name in {*self.leased, *self.waiting}:
            parent = self.asked[name].parent
            assert parent is None or parent in self.leased

    @invariant()
    def nobody_waits_beside_an_idle_replica(self) -> None:
        waiting = self.machine.waiting()
        for info in self.machine.replicas():
            if not self.machine.held(info.name) and not self.machine.is_draining(info.name):
                assert not any(waiting.get(role) for role in info.roles)

    @invariant()
    def wanted_is_between_min_and_max(self) -> None:
        for group in GROUPS:
            assert group.min_replicas <= self.machine.wanted(group.name, self.now) <= group.max_replicas


Walk.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


def test_invariants_hold_on_random_walks() -> None:
    Walk.TestCase("runTest").runTest()
