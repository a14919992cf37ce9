"""Runs that lack packages nobody allowed yet: they wait for a person, also through a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import tree
from orchestrator_house import House, ScriptedFleet, ended, kinds

from cluster.approvals import is_decided
from cluster.handles import Dispatch
from orchestrator.events import Kind, Status
from orchestrator.packages import gate_of
from orchestrator.steps import PackagesAsked, Profiled
from orchestrator.task import Task
from orchestrator.verdict import TestProfile, TestRun

TREE = tree(a="start", test_a="tests")
ONE = PackagesAsked(packages=("greetings==1.0 --hash=sha256:aa",), why="test_a.py")
TWO = PackagesAsked(packages=("greetings==1.0 --hash=sha256:aa", "more==2 --hash=sha256:bb"), why="a.py")


@pytest.fixture
async def house(tmp_path: Path) -> Any:
    house = House(tmp_path)
    yield house
    for log in house.logs:
        log.close()


class Wanting(ScriptedFleet):
    """A runner whose task lacks the packages of `asks`, one question after the other."""

    def __init__(self, *asks: PackagesAsked) -> None:
        super().__init__()
        self.asks = asks

    def judged(self, dispatch: Dispatch) -> Any:
        if dispatch.method == "profile":
            for asks in self.asks:
                if not set(asks.packages) <= set(dispatch.payload.allowed):
                    return Profiled(profile=TestProfile(expected={}), run=TestRun(), asks=asks)
        return super().judged(dispatch)


async def parked(orchestrator: Any, task: Task) -> str:
    run_id = await orchestrator.submit(task, TREE)
    state = await ended(orchestrator, run_id)
    assert (state.status, state.reason) == (Status.PARKED, "awaiting_approval")
    return str(run_id)


@pytest.mark.parametrize("graph", ["repair", "test"])
async def test_a_run_waits_for_a_package_through_a_restart_and_goes_on_with_a_yes(
    house: House, graph: str
) -> None:
    run_id = await parked(first := house.start(Wanting(ONE)), Task(id="t", graph=graph))
    await house.lose(first)
    orchestrator = house.start(fleet := Wanting(ONE), life="life-2")

    assert await orchestrator.resume() == []
    await orchestrator.decide(run_id, None, approved=True, by="ann")
    state = await ended(orchestrator, run_id)

    assert state.status is not Status.PARKED and state.verdict is not None
    (asked,) = [e for e in await orchestrator.events(run_id) if e.type is Kind.APPROVAL_ASKED]
    assert "greetings==1.0 --hash=sha256:aa" in asked.data["message"]
    profiles = [each for each in fleet.asked if hasattr(each, "allowed")]
    assert [each.allowed for each in profiles] == [ONE.packages], "the first answer is from the log"
    assert house.logs[-1].check(artifacts=house.artifacts()).problems == ()


async def test_what_an_allowed_package_turns_out_to_need_is_asked_anew(house: House) -> None:
    orchestrator = house.start(Wanting(ONE, TWO))
    run_id = await parked(orchestrator, Task(id="t"))

    await orchestrator.decide(run_id, gate_of(ONE), approved=True, by="ann")
    again = await ended(orchestrator, run_id)
    assert (again.status, again.reason) == (Status.PARKED, "awaiting_approval")
    assert not is_decided(again), "the first yes is no reason to go round again"
    await orchestrator.decide(run_id, None, approved=True, by="bob")
    state = await ended(orchestrator, run_id)

    assert (state.status, state.reason) == (Status.SUCCEEDED, "certified")
    assert kinds(await orchestrator.events(run_id)).count("run_resumed") == 2
    assert {node: asked.by for node, asked in state.approvals.items()} == {
        gate_of(ONE): "ann",
        gate_of(TWO): "bob",
    }


async def test_a_no_ends_the_run_and_names_the_package(house: House) -> None:
    orchestrator = house.start(Wanting(ONE))
    run_id = await parked(orchestrator, Task(id="t"))

    await orchestrator.decide(run_id, None, approved=False, by="ann")
    state = await ended(orchestrator, run_id)

    assert (state.status, state.reason) == (Status.FAILED, "rejected")
    assert "ann did not allow greetings==1.0" in state.report["error"]["message"]


async def test_another_file_of_the_same_version_is_asked_for_again(house: House) -> None:
    changed = replace(ONE, packages=("greetings==1.0 --hash=sha256:cc",))
    run_id = await parked(first := house.start(Wanting(ONE)), Task(id="t"))
    await house.lose(first)
    orchestrator = house.start(Wanting(changed), life="life-2")

    await orchestrator.decide(run_id, None, approved=True, by="ann")
    state = await ended(orchestrator, run_id)

    assert (state.status, state.reason) == (Status.PARKED, "awaiting_approval")
    assert [asked.approved for asked in state.approvals.values()] == [True, None]
