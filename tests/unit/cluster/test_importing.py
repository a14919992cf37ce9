"""A run that is taken into another store is the same there, event by event, and can go on there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fakes import tree
from orchestrator_house import FIXED, House, ScriptedFleet, ended, until

from cluster.event_log import open_log
from cluster.export import export_bytes
from cluster.importing import insert
from cluster.store_settings import StoreSettings
from orchestrator.comparison import compared
from orchestrator.errors import TaskError
from orchestrator.events import Event
from orchestrator.report import result
from orchestrator.task import Task
from serve.replays import take_in

TREE = tree(a="start", test_a="tests")


@pytest.fixture
async def houses(tmp_path: Path) -> Any:
    both = [House(tmp_path / "here"), House(tmp_path / "there")]
    for house in both:
        house.home.mkdir()
    yield both
    for house in both:
        for log in house.logs:
            log.close()


async def a_run(house: House, *, pauses: bool = False) -> tuple[Any, str]:
    fleet = ScriptedFleet(repair=asyncio.Event() if pauses else FIXED)
    orchestrator = house.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    if pauses:
        await until(lambda: "repair" in fleet.began)
        await orchestrator.pause(run_id, by="ann", now=True)
    else:
        await ended(orchestrator, run_id)
    return orchestrator, run_id


def exported(house: House, run_id: str, file: Path) -> Path:
    file.write_bytes(export_bytes(house.logs[-1].events(run_id), house.artifacts(), {}))
    return file


def into(house: House, file: Path) -> dict[str, Any]:
    log = house.logs[-1]
    return take_in(
        file, house.artifacts(), lambda events: log.do_blocking(lambda driver: insert(driver, events))
    )


async def test_a_run_is_the_same_in_another_store(houses: list[House], tmp_path: Path) -> None:
    here, there = houses
    _, run_id = await a_run(here)
    there.logs.append(open_log(StoreSettings(), there.home))

    told = into(there, exported(here, run_id, tmp_path / "run.zip"))

    assert told["imported"] is True
    assert there.logs[-1].events(run_id) == here.logs[-1].events(run_id)
    assert there.logs[-1].run(run_id) == here.logs[-1].run(run_id)
    assert there.logs[-1].check(artifacts=there.artifacts()).problems == ()
    assert into(there, tmp_path / "run.zip")["imported"] is False


async def test_a_paused_run_goes_on_in_another_store(houses: list[House], tmp_path: Path) -> None:
    here, there = houses
    _, run_id = await a_run(here, pauses=True)
    fleet = ScriptedFleet()
    orchestrator = there.start(fleet)

    into(there, exported(here, run_id, tmp_path / "run.zip"))
    assert await orchestrator.resume() == []
    await orchestrator.resume([run_id])

    assert (await ended(orchestrator, run_id)).reason == "certified"
    assert "profile" not in fleet.began


async def test_a_run_that_is_further_there_is_left_alone(houses: list[House], tmp_path: Path) -> None:
    here = houses[0]
    orchestrator, run_id = await a_run(here, pauses=True)
    file = exported(here, run_id, tmp_path / "run.zip")
    await orchestrator.cancel(run_id)
    before = here.logs[-1].events(run_id)

    with pytest.raises(TaskError, match="is in this store already"):
        into(here, file)
    assert here.logs[-1].events(run_id) == before


async def test_a_run_that_goes_on_elsewhere_is_not_taken_in(houses: list[House], tmp_path: Path) -> None:
    here, there = houses
    fleet = ScriptedFleet(repair=asyncio.Event())
    orchestrator = here.start(fleet)
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await until(lambda: "repair" in fleet.began)
    there.logs.append(open_log(StoreSettings(), there.home))

    with pytest.raises(TaskError, match="had not ended when it was exported"):
        into(there, exported(here, run_id, tmp_path / "run.zip"))
    assert there.logs[-1].run_ids() == []


async def test_two_runs_side_by_side(houses: list[House]) -> None:
    house = houses[0]
    orchestrator, first = await a_run(house)
    second = await orchestrator.submit(Task(id="t"), TREE)
    await ended(orchestrator, second)
    third = await orchestrator.fork(first, "repair")
    await orchestrator.cancel(third)

    def both(one: str, other: str) -> dict[str, Any]:
        runs: list[list[Event]] = [house.logs[-1].events(each) for each in (one, other)]
        load = house.artifacts().get
        return compared(*runs, tuple(result(house.logs[-1].state(each), load) for each in (one, other)))

    same, other = both(first, second), both(first, third)

    assert (same["equal"], same["parted_at"], same["same_task"]) == (True, None, True)
    assert other["equal"] is False
    assert other["outcome"]["status"] == ["succeeded", "cancelled"]
    assert other["parted_at"][0]["step"] == "repair" or other["parted_at"][0]["type"] == "attempt_started"
