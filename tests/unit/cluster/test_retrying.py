"""One failed node done anew: what does not follow from it is inherited, the parent stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import improvement, repaired, tree
from orchestrator_house import FIXED, House, ScriptedFleet, ended

from cluster.graphs import parsed
from orchestrator.errors import AgentError, TaskError
from orchestrator.events import Kind, RunState, Status
from orchestrator.steps import Scanned
from orchestrator.task import Task

TREE = tree(a="start", test_a="tests")
NODES: dict[str, Any] = {
    "plan": {"kind": "agent", "role": "run", "work": "profile"},
    "left": {
        "kind": "repair_loop", "inputs": {"profile": "$plan.profile"}, "policy": {"on_failure": "continue"},
    },
    "right": {
        "kind": "repair_loop", "inputs": {"profile": "$plan.profile"}, "policy": {"on_failure": "continue"},
    },
    "pick": {"kind": "select", "of": ["left", "right"], "rule": "first_green"},
    "scan": {"kind": "agent", "role": "run", "work": "scan", "patch_of": "pick"},
}  # fmt: skip


def a_task(nodes: dict[str, Any], result: str, **graphs: Any) -> Task:
    values = {"name": "g", "nodes": nodes, "result": [result], **graphs}
    graph = parsed(json.dumps(values), "g.yaml")
    return Task(id="t", graph="g", declaration=json.loads(graph.canonical_json()))


@pytest.fixture
async def house(tmp_path: Path) -> Any:
    house = House(tmp_path)
    yield house
    for log in house.logs:
        log.close()


async def failed_run(house: House, task: Task, **answers: Any) -> tuple[Any, ScriptedFleet, RunState]:
    fleet = ScriptedFleet(scan=Scanned(), **answers)
    orchestrator = house.start(fleet)
    state = await ended(orchestrator, await orchestrator.submit(task, TREE))
    fleet.began.clear()
    return orchestrator, fleet, state


async def test_only_the_node_and_what_needs_it_is_done_anew(house: House) -> None:
    broken = AgentError("the model is away", "ask again")
    orchestrator, fleet, state = await failed_run(
        house, a_task(NODES, "scan"), **{"left/repair": broken, "right/repair": FIXED}
    )
    assert (state.status, state.nodes["left"].status) == (Status.SUCCEEDED, "failed")
    before = house.logs[-1].events(state.run_id)
    fleet.answers["left/repair"] = FIXED

    new_id = await orchestrator.retry(state.run_id, "left")
    done = await ended(orchestrator, new_id)

    assert (done.status, done.nodes["left"].status) == (Status.SUCCEEDED, "done")
    assert {step.split("/")[0] for step in fleet.began} == {"left", "scan"}
    assert done.parent is not None
    assert (done.parent["run"], done.parent["from"], done.parent["retry"]) == (state.run_id, "left", True)
    assert house.logs[-1].events(state.run_id) == before
    kept = [event for event in house.logs[-1].events(new_id) if event.type is Kind.NODE_ENDED]
    assert [event.data for event in before if event.step == "right" and event.type is Kind.NODE_ENDED] == [
        event.data for event in kept if event.step == "right"
    ]


async def test_a_node_that_ended_the_run_is_done_anew(house: House) -> None:
    nodes = {**NODES, "left": {**NODES["left"], "policy": {}}}
    orchestrator, fleet, state = await failed_run(
        house, a_task(nodes, "scan"), **{"left/repair": AgentError("away"), "right/repair": FIXED}
    )
    assert state.status is Status.FAILED
    fleet.answers["left/repair"] = FIXED

    done = await ended(orchestrator, await orchestrator.retry(state.run_id, "left"))

    assert done.status is Status.SUCCEEDED
    assert "plan/profile" not in fleet.began


async def test_asked_twice_with_one_key_it_is_one_run(house: House) -> None:
    orchestrator, fleet, state = await failed_run(
        house, a_task(NODES, "scan"), **{"left/repair": AgentError("away"), "right/repair": FIXED}
    )
    fleet.answers["left/repair"] = FIXED

    first = await orchestrator.retry(state.run_id, "left", "call:1")

    assert await orchestrator.retry(state.run_id, "left", "call:1") == first
    await ended(orchestrator, first)


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ("right", "did not fail: done"),
        ("nothing", "has no node 'nothing'"),
        ("left/inner", "has no node"),
        ("../left", "has no node"),
        ("", "has no node"),
        ("left[x", "has no node"),
    ],
)
async def test_what_did_not_fail_is_refused(house: House, node: str, told: str) -> None:
    orchestrator, _, state = await failed_run(
        house, a_task(NODES, "scan"), **{"left/repair": AgentError("away"), "right/repair": FIXED}
    )

    with pytest.raises(TaskError, match=told):
        await orchestrator.retry(state.run_id, node)


async def test_a_run_that_is_paused_is_resumed_instead(house: House) -> None:
    orchestrator = house.start(ScriptedFleet())
    run_id = await orchestrator.submit(a_task(NODES, "scan"), TREE)
    await orchestrator.pause(run_id, by="ann", now=True)

    with pytest.raises(TaskError, match="has not ended"):
        await orchestrator.retry(run_id, "left")


async def test_a_node_of_a_graph_within_the_graph(house: House) -> None:
    inner = {
        "inputs": {"profile": {"type": "text"}},
        "name": "both",
        "nodes": {
            name: {
                "kind": "repair_loop",
                "inputs": {"profile": "$inputs.profile"},
                "policy": {"on_failure": "continue"},
            }
            for name in ("left", "right")
        }
        | {"pick": {"kind": "select", "of": ["left", "right"], "rule": "first_green"}},
        "result": ["pick"],
    }
    nodes = {
        "plan": {"kind": "agent", "role": "run", "work": "profile"},
        "both": {"kind": "graph", "graph": "both", "inputs": {"profile": "$plan.profile"}},
        "scan": {"kind": "agent", "role": "run", "work": "scan", "patch_of": "both"},
    }
    orchestrator, fleet, state = await failed_run(
        house,
        a_task(nodes, "scan", graphs={"both": inner}),
        **{"both/left/repair": AgentError("away"), "both/right/repair": FIXED},
    )
    fleet.answers["both/left/repair"] = FIXED

    done = await ended(orchestrator, await orchestrator.retry(state.run_id, "both/left"))

    assert (done.status, done.nodes["both/left"].status) == (Status.SUCCEEDED, "done")
    assert {step.rpartition("/")[0] for step in fleet.began} == {"both/left", "scan"}


async def test_a_graph_without_node_events_goes_on_at_its_step(house: House) -> None:
    wrong = repaired(improvement("wrong"))
    orchestrator, fleet, state = await failed_run(house, Task(id="t"), repair=wrong)
    assert state.status is Status.FAILED
    fleet.answers["repair"] = FIXED

    done = await ended(orchestrator, await orchestrator.retry(state.run_id, "repair"))

    assert (done.status, done.reason) == (Status.SUCCEEDED, "certified")
    assert "profile" not in fleet.began
    with pytest.raises(TaskError, match="succeeded"):
        await orchestrator.retry(done.run_id, "repair")
    with pytest.raises(TaskError, match="no node or step 'nothing'"):
        await orchestrator.retry(state.run_id, "nothing")
