"""A run from a step of another on: it inherits what was worked out before, and the other stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import tree
from orchestrator_house import FIXED, House, ScriptedFleet, ended

from cluster.graphs import parsed
from orchestrator.errors import TaskError
from orchestrator.events import Kind, Status, canonical
from orchestrator.forking import with_settings
from orchestrator.task import Task
from serve.commands.forking import split_settings

TREE = tree(a="start", test_a="tests")
NODES: dict[str, Any] = {
    "plan": {"kind": "agent", "role": "run", "work": "profile"},
    "fix": {"kind": "repair_loop", "inputs": {"profile": "$plan.profile"}},
    "side": {"kind": "agent", "role": "run", "work": "profile"},
    "pick": {"kind": "select", "of": ["fix"], "rule": "first_green", "needs": ["side"]},
    "check": {
        "kind": "agent", "role": "run", "work": "certify", "patch_of": "pick",
        "inputs": {"profile": "$plan.profile"},
    },
}  # fmt: skip
GRAPH = parsed(json.dumps({"name": "line", "nodes": NODES, "result": ["check"]}), "line.yaml")
TASK = Task(id="t", graph="line", declaration=json.loads(GRAPH.canonical_json()))


class Answering(ScriptedFleet):
    async def execute(self, dispatch: Any, **hooks: Any) -> Any:
        if dispatch.step.endswith("/repair"):
            self.answers[dispatch.step] = FIXED
        return await super().execute(dispatch, **hooks)


@pytest.fixture
async def house(tmp_path: Path) -> Any:
    house = House(tmp_path)
    yield house
    for log in house.logs:
        log.close()


async def a_run(house: House) -> tuple[Any, Answering, str]:
    fleet = Answering()
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(TASK, TREE)
    assert (await ended(orchestrator, run_id)).status is Status.SUCCEEDED
    return orchestrator, fleet, run_id


@pytest.mark.parametrize("start", ["plan", "fix", "pick", "check", "fix/repair", "fix/certify-0-2.1"])
async def test_a_fork_does_only_what_comes_from_its_step_on(house: House, start: str) -> None:
    orchestrator, fleet, run_id = await a_run(house)
    parent = await orchestrator.events(run_id)
    fleet.done.clear()

    fork_id = await orchestrator.fork(run_id, start)
    state = await ended(orchestrator, fork_id)

    assert (state.status, state.reason) == (Status.SUCCEEDED, "certified")
    assert state.parent is not None and state.parent["run"] == run_id and state.parent["from"] == start
    assert await orchestrator.events(run_id) == parent
    child = await orchestrator.events(fork_id)
    until = state.parent["seq"]
    took = [(e.type, e.step, e.attempt, e.epoch, canonical(e.data)) for e in parent[1:until]]
    assert [(e.type, e.step, e.attempt, e.epoch, canonical(e.data)) for e in child[1:until]] == took
    before = {e.step for e in parent[:until] if e.type is Kind.STEP_COMPLETED}
    assert before.isdisjoint(fleet.done) and fleet.done
    assert house.logs[-1].check(artifacts=house.artifacts()).problems == ()


async def test_a_fork_may_be_forked_and_survives_a_restart(house: House) -> None:
    orchestrator, _, run_id = await a_run(house)
    second = await orchestrator.fork(run_id, "fix")
    await ended(orchestrator, second)
    third = await orchestrator.fork(second, "check")
    await house.lose(orchestrator)

    again = house.start(Answering(), life="life-2")
    await again.resume()

    assert (await ended(again, third)).reason == "certified"


@pytest.mark.parametrize("graph", ["repair"])
async def test_graphs_without_node_events_are_forked_at_their_steps(house: House, graph: str) -> None:
    fleet = ScriptedFleet()
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t", graph=graph), TREE)
    await ended(orchestrator, run_id)
    fleet.done.clear()

    state = await ended(orchestrator, await orchestrator.fork(run_id, "certify-0-1"))

    assert state.reason == "certified" and "profile" not in fleet.done and "repair" not in fleet.done


async def test_another_graph_may_differ_in_what_comes_after_only(house: House) -> None:
    orchestrator, _, run_id = await a_run(house)
    later = with_settings(GRAPH, {"check.policy.timeout_s": 5, "check.policy.retry.attempts": 2})
    earlier = with_settings(GRAPH, {"plan.policy.timeout_s": 5})

    state = await ended(orchestrator, await orchestrator.fork(run_id, "check", later))
    with pytest.raises(TaskError, match="node 'plan' ended before that step"):
        await orchestrator.fork(run_id, "check", earlier)

    kept = json.loads(await orchestrator.artifact(str(state.graph_version)))
    assert kept["nodes"]["check"]["policy"]["timeout_s"] == 5 and state.graph_version != GRAPH.version


async def test_a_step_that_is_not_there_or_did_not_end_is_refused(house: House) -> None:
    broken = Answering()
    broken.answers["fix/certify-0-1"] = TaskError("no")
    orchestrator = house.start(broken)
    run_id = await orchestrator.submit(TASK, TREE)
    assert (await ended(orchestrator, run_id)).status is Status.FAILED

    with pytest.raises(TaskError, match="no node or step 'fxi'") as raised:
        await orchestrator.fork(run_id, "fxi")
    assert "plan" in raised.value.next_move
    for start in ("fix", "fix/certify-0-1", "check", "fix/repair.9"):
        with pytest.raises(TaskError, match=r"did not come to its end|no node or step"):
            await orchestrator.fork(run_id, start)
    with pytest.raises(TaskError, match="there is no run"):
        await orchestrator.fork("r-nothing", "plan")
    assert (await orchestrator.runs())[1] == 1


def test_settings_of_nodes_are_told_from_the_configuration_s() -> None:
    given = ["fix.policy.budget.tokens=500", "budget.attempts=3", "fix.policy.allowed_paths=[a, 'b*']"]

    assert split_settings(given) == (
        {"fix.policy.budget.tokens": 500, "fix.policy.allowed_paths": ["a", "b*"]},
        ["budget.attempts=3"],
    )
    with pytest.raises(TaskError, match="names no node"):
        with_settings(GRAPH, {"fx.policy.timeout_s": 1})
    with pytest.raises(TaskError, match="is not a key of a policy"):
        with_settings(GRAPH, {"fix.policy.on_failure.x": 1})
