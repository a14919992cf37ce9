"""A paused run starts nothing, costs nothing, outlives every process, and goes on where it was."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fakes import tree
from orchestrator_house import FIXED, House, ScriptedFleet, ended, kinds, until

from cluster.graphs import parsed
from cluster.live_run import used_wall_s
from orchestrator.errors import TaskError
from orchestrator.events import Kind, RunState, Status
from orchestrator.task import Task

TREE = tree(a="start", test_a="tests")
SIDES: dict[str, Any] = {
    "plan": {"kind": "agent", "role": "run", "work": "profile"},
    "left": {"kind": "repair_loop", "inputs": {"profile": "$plan.profile"}},
    "right": {"kind": "repair_loop", "inputs": {"profile": "$plan.profile"}},
    "pick": {"kind": "select", "of": ["left", "right"], "rule": "first_green"},
}
GRAPH = parsed(json.dumps({"name": "sides", "nodes": SIDES, "result": ["pick"]}), "sides.yaml")
TASK = Task(id="t", graph="sides", declaration=json.loads(GRAPH.canonical_json()))


@pytest.fixture
async def house(tmp_path: Path) -> Any:
    house = House(tmp_path)
    yield house
    for log in house.logs:
        log.close()


def stands(state: RunState) -> tuple[str, str | None]:
    return str(state.status), state.reason


async def test_what_is_at_work_comes_to_its_end_and_nothing_further_begins(house: House) -> None:
    held = asyncio.Event()
    fleet = ScriptedFleet(repair=held)
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)

    state = await orchestrator.pause(run_id, by="ann", why="the tests run on my machine")
    assert (state.status, state.pause and state.pause.by) == (Status.RUNNING, "ann")
    held.set()
    state = await ended(orchestrator, run_id)

    assert stands(state) == ("parked", "paused")
    assert fleet.began == ["profile", "repair"] == fleet.done
    assert state.steps["repair", 1].status == "completed"
    assert orchestrator.room == orchestrator._most_in_hand


async def test_resumed_it_does_again_nothing_that_was_done(house: House) -> None:
    held = asyncio.Event()
    fleet = ScriptedFleet(repair=held)
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)
    await orchestrator.pause(run_id, by="ann")
    held.set()
    await ended(orchestrator, run_id)

    assert await orchestrator.resume([run_id]) == [run_id]
    state = await ended(orchestrator, run_id)

    assert (state.reason, state.pause) == ("certified", None)
    assert fleet.began.count("profile") == fleet.began.count("repair") == 1


async def test_now_stops_what_is_at_work_and_it_is_done_anew_later(house: House) -> None:
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)

    state = await asyncio.wait_for(orchestrator.pause(run_id, by="ann", now=True), 2)

    assert stands(state) == ("parked", "paused")
    assert fleet.stopped == ["repair"]
    fleet.answers["repair"] = FIXED
    await orchestrator.resume([run_id])
    assert (await ended(orchestrator, run_id)).reason == "certified"
    assert fleet.began.count("repair") == 2


async def test_a_pause_in_two_words_can_be_hurried(house: House) -> None:
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)

    await orchestrator.pause(run_id, by="ann")
    state = await asyncio.wait_for(orchestrator.pause(run_id, by="bob", now=True), 2)

    assert stands(state) == ("parked", "paused")
    assert (await orchestrator.pause(run_id, by="eve")).pause == state.pause


async def test_one_side_ends_while_the_other_may_not_begin(house: House) -> None:
    held = asyncio.Event()
    fleet = ScriptedFleet(**{"left/repair": held, "right/repair": FIXED})
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(TASK, TREE)
    await until(lambda: "left/repair" in fleet.began and "right/certify-0-2" in fleet.done)

    await orchestrator.pause(run_id, by="ann")
    held.set()
    state = await ended(orchestrator, run_id)

    assert stands(state) == ("parked", "paused")
    assert "left/repair" in fleet.done
    assert not [step for step in fleet.began if step.startswith("left/certify")]
    await orchestrator.resume([run_id])
    assert (await ended(orchestrator, run_id)).status is Status.SUCCEEDED
    assert len(fleet.began) == len(set(fleet.began))


async def test_a_pause_called_off_in_time_costs_nothing(house: House) -> None:
    held = asyncio.Event()
    fleet = ScriptedFleet(repair=held)
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)
    await orchestrator.pause(run_id, by="ann")
    await asyncio.sleep(0.01)

    assert await orchestrator.resume([run_id]) == [run_id]
    held.set()
    state = await ended(orchestrator, run_id)

    assert state.reason == "certified"
    assert fleet.began.count("repair") == 1
    assert "parked" not in [event.data.get("status") for event in await orchestrator.events(run_id)]


async def test_a_run_that_waits_for_its_turn_is_paused_at_once(house: House) -> None:
    orchestrator = house.start(ScriptedFleet(repair=asyncio.Event()), max_active_runs=1)
    await orchestrator.submit(Task(id="first"), TREE)
    second = await orchestrator.submit(Task(id="second"), TREE)

    state = await asyncio.wait_for(orchestrator.pause(second, by="ann"), 2)

    assert stands(state) == ("parked", "paused")


@pytest.mark.parametrize("is_parked", [False, True], ids=["while it is pausing", "when it is parked"])
async def test_a_pause_survives_the_orchestrator(house: House, is_parked: bool) -> None:
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)
    await orchestrator.pause(run_id, by="ann", now=is_parked)
    await house.lose(orchestrator)

    again = ScriptedFleet()
    orchestrator = house.start(again, life="life-2")
    carried_on = await orchestrator.resume()
    state = await ended(orchestrator, run_id) if carried_on else await orchestrator.state(run_id)

    assert (carried_on, again.began) == ([] if is_parked else [run_id], [])
    assert stands(state) == ("parked", "paused")
    await orchestrator.resume([run_id])
    assert (await ended(orchestrator, run_id)).reason == "certified"
    assert "profile" not in again.began


async def test_a_pause_gives_no_fresh_budget(house: House) -> None:
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)
    await asyncio.sleep(0.05)
    await orchestrator.pause(run_id, by="ann", now=True)
    before = used_wall_s(house.logs[-1].events(run_id))
    fleet.answers["repair"] = FIXED
    await orchestrator.resume([run_id])
    await ended(orchestrator, run_id)

    events = house.logs[-1].events(run_id)
    resumed = next(event.seq for event in events if event.type is Kind.RUN_RESUMED)

    assert before >= 0.05
    assert used_wall_s(events[:resumed]) == pytest.approx(before)


async def test_what_does_nothing_cannot_be_paused(house: House) -> None:
    orchestrator = house.start(ScriptedFleet())
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await ended(orchestrator, run_id)

    with pytest.raises(TaskError, match="has ended"):
        await orchestrator.pause(run_id, by="ann")
    with pytest.raises(TaskError, match="there is no run"):
        await orchestrator.pause("r-nothing", by="ann")


async def test_a_paused_run_can_be_cancelled_and_only_once(house: House) -> None:
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)
    await orchestrator.pause(run_id, by="ann", now=True)

    state = await orchestrator.cancel(run_id, "no more need")

    assert stands(state) == ("cancelled", "cancelled_by_user")
    last = (await orchestrator.cancel(run_id)).last_seq
    assert (last, kinds(await orchestrator.events(run_id))[-1]) == (state.last_seq, "run_finished")


async def test_cancelling_a_run_that_is_pausing_stops_what_is_at_work(house: House) -> None:
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)
    await orchestrator.pause(run_id, by="ann")

    state = await asyncio.wait_for(orchestrator.cancel(run_id), 2)

    assert stands(state) == ("cancelled", "cancelled_by_user")
    assert fleet.stopped == ["repair"]
