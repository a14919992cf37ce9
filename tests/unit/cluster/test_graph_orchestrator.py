"""Graphs on real stores: their versions, people's decisions, and kills at every position of the log."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from fakes import improvement, repaired, tree
from orchestrator_house import House, ScriptedFleet, ended, kinds

from cluster.artifacts import ArtifactStore
from cluster.event_log import open_log
from cluster.graphs import parsed, shipped
from cluster.handles import Dispatch
from cluster.store_settings import StoreSettings
from orchestrator.errors import TaskError
from orchestrator.events import Event, Kind, NewEvent, Status
from orchestrator.task import Task

TREE = tree(a="start", test_a="tests")
PROFILE = {"kind": "agent", "role": "run", "work": "profile"}
# Two ways side by side, one of which fails for good, a choice, a gate and a check.
NODES: dict[str, Any] = {
    "plan": PROFILE,
    "one": {"kind": "repair_loop", "inputs": {"profile": "$plan.profile"}},
    "two": {**PROFILE, "needs": ["plan"], "policy": {"on_failure": "continue"}},
    "after": {**PROFILE, "needs": ["two"]},
    "pick": {
        "kind": "select", "of": ["one", "two"], "rule": "best_patch", "inputs": {"profile": "$plan.profile"},
        "needs": ["after"],
    },
    "gate": {"kind": "approval", "message": "Ship it?", "patch_of": "pick"},
    "check": {"kind": "agent", "role": "run", "work": "certify", "patch_of": "gate"},
}  # fmt: skip
GRAPH = parsed(json.dumps({"name": "two-ways", "nodes": NODES, "result": ["check"]}), "two-ways.yaml")
TASK = Task(id="t", graph="two-ways", declaration=json.loads(GRAPH.canonical_json()))


@pytest.fixture
async def house(tmp_path: Path) -> Any:
    house = House(tmp_path)
    yield house
    for log in house.logs:
        log.close()


class TwoWays(ScriptedFleet):
    """Fails what is asked under `two/`, and keeps a journal over all lives of what was done."""

    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.journal = journal

    async def execute(self, dispatch: Dispatch, **hooks: Any) -> Any:
        if dispatch.step.endswith("/repair"):
            self.answers[dispatch.step] = repaired(improvement("fixed"))
        if dispatch.step.startswith("two/"):
            self.answers[dispatch.step] = TaskError("this way is closed")
        try:
            return await super().execute(dispatch, **hooks)
        finally:
            self.journal.append(f"{dispatch.step}.{dispatch.epoch}")


async def test_a_run_keeps_the_graph_that_it_was_submitted_with(house: House) -> None:
    orchestrator = house.start(TwoWays([]))

    run_id = await orchestrator.submit(TASK, TREE)
    state = await ended(orchestrator, run_id)

    assert state.graph_version == GRAPH.version and state.task["declaration"] is None
    assert await orchestrator.artifact(GRAPH.version) == GRAPH.canonical_json()
    other = await orchestrator.submit(Task(id="t"), TREE)
    assert (await orchestrator.state(other)).graph_version == shipped("repair").version
    assert house.logs[-1].check(artifacts=house.artifacts()).problems == ()


async def test_a_graph_that_cannot_run_is_refused_when_it_is_submitted(house: House) -> None:
    orchestrator = house.start(ScriptedFleet())
    broken = {**json.loads(GRAPH.canonical_json()), "result": ["nothing"]}

    with pytest.raises(TaskError, match="`result` names 'nothing'"):
        await orchestrator.submit(Task(id="t", graph="x", declaration=broken), TREE)
    with pytest.raises(TaskError, match="needs the input 'who'"):
        wanting = {**json.loads(GRAPH.canonical_json()), "inputs": {"who": {"required": True}}}
        await orchestrator.submit(Task(id="t", graph="x", declaration=wanting), TREE)
    assert (await orchestrator.runs())[1] == 0


async def parked(orchestrator: Any) -> str:
    run_id = await orchestrator.submit(TASK, TREE)
    state = await ended(orchestrator, run_id)
    assert (state.status, state.reason) == (Status.PARKED, "awaiting_approval")
    return str(run_id)


async def test_a_run_waits_at_a_gate_through_a_restart_and_goes_on_with_a_yes(house: House) -> None:
    run_id = await parked(first := house.start(TwoWays([])))
    # Nothing of it is in hand any more.
    assert (await first.status())["active_runs"] == [] == (await first.status())["working_on"]
    await house.lose(first)
    orchestrator = house.start(TwoWays([]), life="life-2")

    assert await orchestrator.resume() == []
    await orchestrator.decide(run_id, None, approved=True, by="ann", why="looks right")
    state = await ended(orchestrator, run_id)

    assert (state.status, state.reason) == (Status.SUCCEEDED, "certified")
    gate = state.approvals["gate"]
    assert (gate.approved, gate.by, gate.why) == (True, "ann", "looks right")
    assert state.nodes["two"].status == "failed" and state.report["files"] == ["a.py"]


async def test_the_same_key_is_the_run_that_waits_and_not_another(house: House) -> None:
    orchestrator = house.start(TwoWays([]))
    run_id = await orchestrator.submit(TASK, TREE, key="k")
    assert (await ended(orchestrator, run_id)).status is Status.PARKED

    assert await orchestrator.submit(TASK, TREE, key="k") == run_id
    await house.logs[-1].append(
        [
            NewEvent(
                run_id=run_id, type=Kind.APPROVAL_DECIDED, data={"approved": True, "by": "ann"}, step="gate"
            )
        ]
    )
    assert await orchestrator.submit(TASK, TREE, key="k") == run_id
    assert (await ended(orchestrator, run_id)).status is Status.SUCCEEDED


async def test_a_no_ends_the_run_with_its_patch_kept(house: House) -> None:
    orchestrator = house.start(TwoWays([]))
    run_id = await parked(orchestrator)

    await orchestrator.decide(run_id, "gate", approved=False, by="ann", why="not today")
    state = await ended(orchestrator, run_id)

    assert (state.status, state.reason, state.report["files"]) == (Status.FAILED, "rejected", ["a.py"])


async def test_what_cannot_be_decided_is_refused_in_words(house: House) -> None:
    orchestrator = house.start(TwoWays([]))
    run_id = await parked(orchestrator)

    with pytest.raises(TaskError, match=r"node 'gaet' .* asks nothing; waiting: gate"):
        await orchestrator.decide(run_id, "gaet", approved=True, by="ann")
    await orchestrator.decide(run_id, "gate", approved=True, by="ann")
    await ended(orchestrator, run_id)
    for node in (None, "gate"):
        with pytest.raises(TaskError, match=r"has ended \(succeeded: certified\)"):
            await orchestrator.decide(run_id, node, approved=False, by="bob")


async def test_of_two_decisions_at_once_one_counts(house: House) -> None:
    orchestrator = house.start(TwoWays([]))
    run_id = await parked(orchestrator)

    said = await asyncio.gather(
        *(orchestrator.decide(run_id, "gate", approved=yes, by="x") for yes in (True, False)),
        return_exceptions=True,
    )

    assert sorted(isinstance(each, TaskError) for each in said) == [False, True]
    state = await ended(orchestrator, run_id)
    events = await orchestrator.events(run_id)
    assert kinds(events).count("approval_decided") == 1
    assert (state.status is Status.SUCCEEDED) == state.approvals["gate"].approved


TWO_GATES = {
    "name": "two-gates",
    "nodes": {
        "ann": {"kind": "approval", "message": "Is it right?"},
        "bob": {"kind": "approval", "message": "Is it safe?"},
        "end": {**PROFILE, "needs": ["ann", "bob"]},
    },
    "result": ["end"],
}


async def at_two_gates(orchestrator: Any) -> str:
    run_id = await orchestrator.submit(Task(id="t", graph="two-gates", declaration=TWO_GATES), TREE)
    assert (await ended(orchestrator, run_id)).status is Status.PARKED
    return str(run_id)


async def test_a_decision_while_the_run_is_being_taken_up_for_another_counts(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, may_go_on = threading.Event(), threading.Event()
    load_tree = ArtifactStore.load_tree

    def slowly(store: ArtifactStore, digest: str) -> Any:
        reading.set()
        assert may_go_on.wait(10)
        return load_tree(store, digest)

    orchestrator = house.start(ScriptedFleet())
    run_id = await at_two_gates(orchestrator)
    monkeypatch.setattr(ArtifactStore, "load_tree", slowly)

    await orchestrator.decide(run_id, "ann", approved=True, by="ann")
    await asyncio.to_thread(reading.wait, 10)
    await orchestrator.decide(run_id, "bob", approved=True, by="bob")
    may_go_on.set()

    assert (await ended(orchestrator, run_id)).status is Status.SUCCEEDED


@pytest.mark.parametrize("gates", [("ann",), ("ann", "bob")])
async def test_lost_between_a_decision_and_going_on_the_run_is_taken_up(
    house: House, gates: tuple[str, ...]
) -> None:
    run_id = await at_two_gates(first := house.start(ScriptedFleet()))
    decided = [
        NewEvent(run_id=run_id, type=Kind.APPROVAL_DECIDED, data={"approved": True, "by": gate}, step=gate)
        for gate in gates
    ]
    await house.logs[-1].append(decided)
    await house.lose(first)
    orchestrator = house.start(ScriptedFleet(), life="life-2")

    assert await orchestrator.resume_life(["life-1"]) == [run_id]

    state = await ended(orchestrator, run_id)
    assert state.status is (Status.SUCCEEDED if len(gates) == 2 else Status.PARKED)
    assert await orchestrator.resume() == []


@pytest.mark.slow
async def test_cut_off_after_any_event_nothing_that_ended_is_done_again(tmp_path: Path) -> None:
    reference = House(tmp_path)
    orchestrator = reference.start(TwoWays([]))
    run_id = await parked(orchestrator)
    await orchestrator.decide(run_id, None, approved=True, by="ann")
    expected = await ended(orchestrator, run_id)
    whole = await orchestrator.events(run_id)
    reference.logs[-1].close()

    for length in range(1, len(whole)):
        journal: list[str] = []
        house = _as_it_stood(tmp_path, whole[:length], tmp_path / f"after-{length}")
        state = await _carried_to_its_end(house, journal, run_id)

        assert (state.status, state.reason) == (expected.status, expected.reason), length
        assert state.report["patch"] == expected.report["patch"]
        assert {name: node.status for name, node in state.nodes.items()} == {
            name: node.status for name, node in expected.nodes.items()
        }
        over = {e.step for e in whole[:length] if e.type is Kind.STEP_COMPLETED}
        over |= {f"{e.step}/profile" for e in whole[:length] if e.type is Kind.NODE_ENDED and e.step == "two"}
        assert over.isdisjoint(step.rpartition(".")[0] for step in journal), (length, journal)
        assert len(journal) == len(set(journal)), (length, journal)
        assert house.logs[-1].check(artifacts=house.artifacts()).problems == ()
        house.logs[-1].close()


def _as_it_stood(home: Path, events: Any, new_home: Path) -> House:
    """A home whose log ends with `events`, as after kill -9 behind the last of them."""
    shutil.copytree(home / "artifacts", new_home / "artifacts")
    with open_log(StoreSettings(), new_home) as log:
        log.append_blocking([_again(event) for event in events])
    return House(new_home)


def _again(event: Event) -> NewEvent:
    return NewEvent(**{each.name: getattr(event, each.name) for each in fields(NewEvent)})


async def _carried_to_its_end(house: House, journal: list[str], run_id: str) -> Any:
    orchestrator = house.start(TwoWays(journal), life="life-2")
    await orchestrator.resume()
    state = await orchestrator.state(run_id)
    if state.status is not Status.PARKED:
        state = await ended(orchestrator, run_id)
    if state.status is Status.PARKED and state.approvals["gate"].approved is None:
        await orchestrator.decide(run_id, None, approved=True, by="ann")
        state = await ended(orchestrator, run_id)
    if state.status is Status.PARKED:
        await orchestrator.resume([run_id])
        state = await ended(orchestrator, run_id)
    return state


# A fan-out of graphs with a gate in each, after a node that failed; a loop that goes on from a patch.
WIDE: dict[str, Any] = {
    "plan": PROFILE,
    "shut": {**PROFILE, "needs": ["plan"], "policy": {"on_failure": "continue"}},
    "each": {
        "kind": "graph", "graph": "way", "for_each": ["x", "y"], "max_parallel": 2,
        "when": {"equal": ["$shut.status", "failed"]}, "inputs": {"profile": "$plan.profile"},
        "policy": {"on_failure": "continue"},
    },
    "pick": {
        "kind": "select", "of": ["each"], "rule": "best_patch", "inputs": {"profile": "$plan.profile"},
    },
    "more": {"kind": "repair_loop", "patch_of": "pick", "inputs": {"profile": "$plan.profile"}},
}  # fmt: skip
WAY: dict[str, Any] = {
    "name": "way", "inputs": {"profile": {}}, "result": ["gate"],
    "nodes": {
        "fix": {"kind": "repair_loop", "inputs": {"profile": "$inputs.profile"}},
        "gate": {"kind": "approval", "message": "This way?", "patch_of": "fix"},
    },
}  # fmt: skip
FANNED = parsed(
    json.dumps({"name": "fanned", "nodes": WIDE, "result": ["more"], "graphs": {"way": WAY}}), "fanned.yaml"
)


class Fanned(TwoWays):
    """As `TwoWays`, whose closed way is called `shut`."""

    async def execute(self, dispatch: Dispatch, **hooks: Any) -> Any:
        if dispatch.step.startswith("shut/"):
            self.answers[dispatch.step] = TaskError("this way is closed")
        return await super().execute(dispatch, **hooks)


async def _to_the_end(orchestrator: Any, run_id: str) -> Any:
    """Go on until the run has ended, with a yes at every gate."""
    for _ in range(10):
        state = await ended(orchestrator, run_id)
        if state.status is not Status.PARKED:
            return state
        waiting = [name for name, asked in state.approvals.items() if asked.approved is None]
        if waiting:
            await orchestrator.decide(run_id, waiting[0], approved=True, by="ann")
        else:
            await orchestrator.resume([run_id])
    raise AssertionError("the run does not end")


@pytest.mark.slow
async def test_a_fan_out_of_graphs_with_gates_goes_on_after_any_cut(tmp_path: Path) -> None:
    task = Task(id="t", graph="fanned", declaration=json.loads(FANNED.canonical_json()))
    reference = House(tmp_path)
    orchestrator = reference.start(Fanned([]))
    run_id = await orchestrator.submit(task, TREE)
    expected = await _to_the_end(orchestrator, run_id)
    whole = await orchestrator.events(run_id)
    reference.logs[-1].close()

    assert (expected.status, expected.reason) == (Status.SUCCEEDED, "certified")
    assert set(expected.approvals) == {"each[0]/gate", "each[1]/gate"}
    for length in range(1, len(whole), 6):
        journal: list[str] = []
        house = _as_it_stood(tmp_path, whole[:length], tmp_path / f"after-{length}")
        orchestrator = house.start(Fanned(journal), life="life-2")
        await orchestrator.resume()
        state = await _to_the_end(orchestrator, run_id)

        assert (state.status, state.report["patch"]) == (expected.status, expected.report["patch"]), length
        assert {name: node.status for name, node in state.nodes.items()} == {
            name: node.status for name, node in expected.nodes.items()
        }
        over = {e.step for e in whole[:length] if e.type is Kind.STEP_COMPLETED}
        over |= {
            f"{e.step}/profile" for e in whole[:length] if e.type is Kind.NODE_ENDED and e.step == "shut"
        }
        assert over.isdisjoint(step.rpartition(".")[0] for step in journal), (length, journal)
        house.logs[-1].close()
