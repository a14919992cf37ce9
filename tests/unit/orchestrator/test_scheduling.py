from __future__ import annotations

import time

import pytest

from orchestrator.errors import Cancelled, MachineError, QueueFull, ReplicaLost, StaleEpoch
from orchestrator.scheduling import (
    Decisions,
    Ended,
    GroupInfo,
    LeaseRequest,
    ReplicaInfo,
    Scheduler,
    SchedulingSettings,
)

CODERS = GroupInfo(name="coders", roles=frozenset({"code"}), max_replicas=4, idle_timeout_s=60.0)
MODELS = GroupInfo(name="models", roles=frozenset({"repair"}), max_replicas=4)
RUNNERS = GroupInfo(name="runners", roles=frozenset({"run"}), max_replicas=4)


def scheduler(*replicas: str, settings: SchedulingSettings | None = None, limit: int = 1) -> Scheduler:
    """Replicas are named after their group: `coders-1`."""
    made = Scheduler(settings, [CODERS, MODELS, RUNNERS])
    for name in replicas:
        join(made, name, limit=limit)
    return made


def join(machine: Scheduler, name: str, *, limit: int = 1) -> Decisions:
    group = next(g for g in (CODERS, MODELS, RUNNERS) if g.name == name.split("-")[0])
    info = ReplicaInfo(name=name, group=group.name, roles=group.roles, max_in_flight=limit)
    return machine.replica_joined(info, 0.0)


def step(name: str, role: str = "code", **about: object) -> LeaseRequest:
    about.setdefault("run_id", name)
    return LeaseRequest(dispatch_id=name, step="s", role=role, **about)  # type: ignore[arg-type]


def granted(made: Decisions) -> list[str]:
    return [lease.dispatch_id for lease in made.granted]


def finish_all(machine: Scheduler, first: list[str]) -> list[str]:
    """Release lease after lease; the order in which the others were granted."""
    order, running = [], list(first)
    while running:
        more = granted(machine.release(running.pop(0), 1, 0.0))
        order += more
        running += more
    return order


def test_grants_an_idle_replica_at_once() -> None:
    machine = scheduler("coders-1")

    made = machine.request(step("a"), 0.0)

    assert [(lease.dispatch_id, lease.replica, lease.epoch) for lease in made.granted] == [
        ("a", "coders-1", 1)
    ]
    assert machine.is_current("a", 1)


def test_asking_again_changes_nothing() -> None:
    machine = scheduler("coders-1")
    machine.request(step("a"), 0.0)
    machine.request(step("b"), 0.0)

    leased_again = machine.request(step("a"), 0.0)
    waiting_again = machine.request(step("b"), 0.0)

    assert granted(leased_again) == ["a"]
    assert waiting_again == Decisions()
    assert machine.waiting() == {"code": 1}


def test_higher_priority_goes_first() -> None:
    machine = scheduler("coders-1")
    machine.request(step("first"), 0.0)
    for name, priority in (("low", 0), ("high", 5), ("middle", 3)):
        machine.request(step(name, priority=priority), 0.0)

    assert finish_all(machine, ["first"]) == ["high", "middle", "low"]


def test_a_tenant_with_many_requests_does_not_hold_up_another() -> None:
    machine = scheduler("coders-1", "coders-2")
    for number in range(20):
        machine.request(step(f"big{number}", tenant="big"), 0.0)
    for number in range(3):
        machine.request(step(f"small{number}", tenant="small"), 0.0)

    order = finish_all(machine, ["big0", "big1"])

    assert [name[:5] for name in order[:6]].count("small") == 3


def test_a_new_tenant_gets_its_share_not_its_past() -> None:
    machine = scheduler("coders-1")
    for number in range(20):
        machine.request(step(f"old{number}", tenant="old"), 0.0)
    running = "old0"
    for _ in range(10):
        [running] = granted(machine.release(running, 1, 0.0))
    for number in range(5):
        machine.request(step(f"new{number}", tenant="new"), 0.0)

    order = finish_all(machine, [running])

    assert [name[:3] for name in order[:6]].count("new") in (3, 4)


def test_a_runs_turns_go_back_to_the_same_replica() -> None:
    machine = scheduler("coders-1", "coders-2")
    machine.request(step("a1", run_id="a", affinity="a"), 0.0)
    machine.request(step("b1", run_id="b", affinity="b"), 0.0)
    machine.release("a1", 1, 0.0)
    machine.release("b1", 1, 0.0)

    made = machine.request(step("b2", run_id="b", affinity="b"), 0.0)

    assert made.granted[0].replica == "coders-2"


def test_a_request_passes_others_for_its_home_but_not_for_ever() -> None:
    machine = scheduler("coders-1", settings=SchedulingSettings(affinity_overtakes=2))
    machine.request(step("w0", run_id="warm", affinity="warm"), 0.0)
    machine.request(step("cold", run_id="cold", affinity="cold"), 0.0)
    order = []
    for number in range(1, 5):
        machine.request(step(f"w{number}", run_id="warm", affinity="warm"), 0.0)
    running = "w0"
    for _ in range(4):
        [running] = granted(machine.release(running, 1, 0.0))
        order.append(running)

    assert order == ["w1", "w2", "cold", "w3"]


def test_least_outstanding_work_goes_next() -> None:
    machine = scheduler("coders-1", "coders-2", limit=3)
    replicas = [machine.request(step(f"s{n}"), 0.0).granted[0].replica for n in range(4)]

    assert sorted(replicas) == ["coders-1", "coders-1", "coders-2", "coders-2"]


def test_a_full_queue_refuses_with_the_next_move() -> None:
    machine = scheduler(settings=SchedulingSettings(max_waiting=1))
    machine.request(step("a"), 0.0)

    [refusal] = machine.request(step("b"), 0.0).refused

    assert isinstance(refusal.error, QueueFull)
    assert "ask again later" in str(refusal.error)


def test_a_role_that_no_group_serves_is_refused() -> None:
    [refusal] = scheduler().request(step("a", "review"), 0.0).refused

    assert isinstance(refusal.error, MachineError)


def test_a_lost_replicas_step_goes_first_under_the_next_epoch() -> None:
    machine = scheduler("coders-1", "coders-2")
    machine.request(step("a"), 0.0)
    machine.request(step("b"), 0.0)
    machine.request(step("c"), 0.0)

    lost = machine.replica_lost("coders-1", "killed", 1.0)
    after = machine.release("b", 1, 2.0)

    assert [(lease.dispatch_id, how) for lease, how in lost.ended] == [("a", Ended.REQUEUED)]
    assert [(lease.dispatch_id, lease.epoch) for lease in after.granted] == [("a", 2)]
    assert not machine.is_current("a", 1)
    assert machine.is_current("a", 2)


def test_the_third_kill_quarantines_the_step_with_its_evidence() -> None:
    machine = scheduler("coders-1", "coders-2", "coders-3", "coders-4")
    machine.request(step("a", run_id="r"), 0.0)
    for number in (1, 2):
        machine.replica_lost(f"coders-{number}", f"signal {number}", 0.0)

    [refusal] = machine.replica_lost("coders-3", "signal 3", 0.0).refused
    [again] = machine.request(step("other", run_id="r"), 0.0).refused
    machine.forget("r")

    assert isinstance(refusal.error, ReplicaLost)
    assert all(f"coders-{n}: signal {n}" in str(refusal.error) for n in (1, 2, 3))
    assert isinstance(again.error, ReplicaLost)
    assert granted(machine.request(step("later", run_id="r"), 0.0)) == ["later"]


def test_a_lost_node_is_nobodys_fault() -> None:
    machine = scheduler("coders-1", "coders-2", "coders-3", "coders-4")
    machine.request(step("a"), 0.0)

    for number in (1, 2, 3):
        machine.replica_lost(f"coders-{number}", "node gone", 0.0, blame=False)

    assert machine.is_current("a", 4)


def test_neighbours_of_a_killer_are_cleared() -> None:
    """All that was on the lost replica works alone afterwards, so only the killer collects three kills."""
    machine = scheduler("coders-0", limit=4)
    for name in ("killer", "x", "y"):
        machine.request(step(name), 0.0)
    refused = []
    for number in range(4):
        name = f"coders-{number}"
        while True:
            work = [lease.dispatch_id for lease, _ in machine.held(name)]
            if "killer" in work or not work:
                break
            assert number == 0 or len(work) == 1
            machine.release(work[0], machine.lease(work[0]).epoch, 0.0)  # type: ignore[union-attr]
        made = machine.replica_lost(name, "killed", 0.0)
        refused += [refusal.dispatch_id for refusal in made.refused]
        join(machine, f"coders-{number + 1}", limit=4)

    assert refused == ["killer"]


def test_a_cancelled_lease_keeps_its_slot_until_the_work_stopped() -> None:
    machine = scheduler("coders-1")
    machine.request(step("a"), 0.0)
    machine.request(step("b"), 0.0)

    cancelled = machine.cancel(dispatch_id="a")
    stopped = machine.release("a", 1, 1.0)

    assert [lease.dispatch_id for lease in cancelled.evicted] == ["a"]
    assert cancelled.granted == []
    assert not machine.is_current("a", 1)
    assert granted(stopped) == ["b"]


def test_cancelling_a_run_takes_all_it_has() -> None:
    machine = scheduler("coders-1")
    machine.request(step("a", run_id="r"), 0.0)
    machine.request(step("b", run_id="r"), 0.0)

    made = machine.cancel(run_id="r")

    assert [lease.dispatch_id for lease in made.evicted] == ["a"]
    assert [(r.dispatch_id, type(r.error)) for r in made.refused] == [("b", Cancelled)]


def test_a_late_release_of_an_old_epoch_changes_nothing() -> None:
    machine = scheduler("coders-1", "coders-2")
    machine.request(step("a"), 0.0)
    machine.replica_lost("coders-1", "killed", 0.0)

    made = machine.release("a", 1, 0.0)

    assert made == Decisions()
    assert machine.is_current("a", 2)


def test_an_ended_dispatch_comes_back_only_under_a_higher_epoch() -> None:
    machine = scheduler("coders-1")
    machine.request(step("a"), 0.0)
    machine.release("a", 1, 0.0)

    [refusal] = machine.request(step("a"), 0.0).refused

    assert isinstance(refusal.error, StaleEpoch)
    assert granted(machine.request(step("a", epoch=2), 0.0)) == ["a"]


def child(name: str, parent: str, **about: object) -> LeaseRequest:
    return step(name, "run", run_id=parent, parent=parent, **about)


def test_children_go_with_their_parent() -> None:
    machine = scheduler("models-1", "runners-1")
    machine.request(step("p", "repair"), 0.0)
    machine.request(child("c1", "p"), 0.0)
    machine.request(child("c2", "p"), 0.0)

    made = machine.release("p", 1, 0.0)

    assert [lease.dispatch_id for lease in made.evicted] == ["c1"]
    assert [refusal.dispatch_id for refusal in made.refused] == ["c2"]


def test_a_child_of_an_old_epoch_is_refused() -> None:
    machine = scheduler("models-1", "models-2", "runners-1")
    machine.request(step("p", "repair"), 0.0)
    machine.replica_lost("models-1", "killed", 0.0)

    [refusal] = machine.request(child("c", "p", parent_epoch=1), 0.0).refused

    assert isinstance(refusal.error, StaleEpoch)
    assert granted(machine.request(child("d", "p", parent_epoch=2), 0.0)) == ["d"]


def test_a_lost_runner_ends_the_child_and_leaves_the_parent() -> None:
    machine = scheduler("models-1", "runners-1")
    machine.request(step("p", "repair"), 0.0)
    machine.request(child("c", "p"), 0.0)

    made = machine.replica_lost("runners-1", "killed", 0.0)

    assert [(lease.dispatch_id, how) for lease, how in made.ended] == [("c", Ended.CANCELLED)]
    assert machine.is_current("p", 1)


def test_first_children_go_before_everything_else() -> None:
    machine = scheduler("models-1", "runners-1")
    machine.request(step("p", "repair"), 0.0)
    machine.request(step("busy", "run"), 0.0)
    machine.request(step("urgent", "run", priority=9), 0.0)
    machine.request(child("c", "p"), 0.0)

    assert granted(machine.release("busy", 1, 0.0)) == ["c"]


def test_a_second_child_gives_way_to_who_has_none() -> None:
    machine = scheduler("models-1", "models-2", "runners-1", "runners-2")
    machine.request(step("p", "repair"), 0.0)
    machine.request(step("q", "repair"), 0.0)
    machine.request(child("p1", "p"), 0.0)
    machine.request(child("p2", "p"), 0.0)

    asked = machine.request(child("q1", "q"), 0.0)
    stopped = machine.release("p2", 1, 0.0)

    assert [lease.dispatch_id for lease in asked.evicted] == ["p2"]
    assert granted(stopped) == ["q1"]


def test_two_parents_that_each_want_a_second_runner_do_not_lock_up() -> None:
    machine = scheduler("models-1", "models-2", "runners-1", "runners-2")
    for parent in ("p", "q"):
        machine.request(step(parent, "repair"), 0.0)
        machine.request(child(f"{parent}1", parent), 0.0)
    for parent in ("p", "q"):
        machine.request(child(f"{parent}2", parent), 0.0)

    early = machine.tick(29.0)
    late = machine.tick(31.0)

    assert early.refused == []
    assert [refusal.dispatch_id for refusal in late.refused] == ["p2", "q2"]
    assert all(isinstance(refusal.error, QueueFull) for refusal in late.refused)


def test_a_child_cannot_lease() -> None:
    machine = scheduler("models-1", "runners-1", "runners-2")
    machine.request(step("p", "repair"), 0.0)
    machine.request(child("c", "p"), 0.0)

    [refusal] = machine.request(child("g", "c"), 0.0).refused

    assert "itself a child" in str(refusal.error)


def test_a_draining_replica_gets_nothing_and_is_named_when_empty() -> None:
    machine = scheduler("coders-1")
    machine.request(step("a"), 0.0)

    first = machine.drain("coders-1")
    machine.request(step("b"), 0.0)
    last = machine.release("a", 1, 0.0)

    assert first.drained == []
    assert last.drained == ["coders-1"]
    assert machine.waiting() == {"code": 1}


def test_wanted_follows_the_queue_between_min_and_max() -> None:
    machine = scheduler()
    before = machine.wanted("coders", 0.0)
    for number in range(10):
        machine.request(step(f"s{number}"), 0.0)

    assert before == 0
    assert machine.wanted("coders", 0.0) == CODERS.max_replicas


def test_an_idle_replica_stays_warm_then_is_surplus() -> None:
    machine = scheduler("coders-1")
    machine.request(step("a"), 0.0)
    machine.release("a", 1, 100.0)

    assert machine.surplus("coders", 159.0) == []
    assert machine.surplus("coders", 160.0) == ["coders-1"]


def test_a_found_lease_is_a_lease_again_unless_it_has_ended() -> None:
    machine = scheduler("coders-1")

    machine.adopt(step("a", epoch=3), "coders-1", 0.0)
    found = machine.is_current("a", 3)
    machine.release("a", 3, 0.0)
    machine.adopt(step("a", epoch=3), "coders-1", 0.0)

    assert found
    assert machine.lease("a") is None


def test_a_group_that_cannot_start_refuses_who_waits_for_it() -> None:
    machine = scheduler("coders-1")
    machine.request(step("a"), 0.0)
    machine.request(step("b"), 0.0)
    machine.request(step("m", "repair"), 0.0)

    made = machine.group_failed("models", MachineError("no GPU"))
    served = machine.group_failed("coders", MachineError("no CPU"))

    assert [refusal.dispatch_id for refusal in made.refused] == ["m"]
    assert served.refused == []


@pytest.mark.parametrize("kinds", [1, 500])
def test_ten_thousand_waiting_requests_take_a_moment(kinds: int) -> None:
    machine = scheduler("coders-1", "coders-2", "coders-3", "coders-4")
    began = time.process_time()
    for n in range(10_000):
        tenant, priority = f"t{n % kinds}", n % min(kinds, 50)
        machine.request(
            step(f"s{n}", run_id=f"r{n % 100}", tenant=tenant, priority=priority, affinity=f"r{n % 100}"), 0.0
        )

    assert len(finish_all(machine, ["s0", "s1", "s2", "s3"])) == 9_996
    assert time.process_time() - began < 10.0
