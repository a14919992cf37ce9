"""A backup is taken while runs work, is verified, and a restored store goes on."""

from __future__ import annotations

import asyncio
import zipfile
from pathlib import Path
from typing import Any

import pytest
from fakes import tree
from orchestrator_house import House, ScriptedFleet, ended, until

from cluster.backup import back_up, restore
from cluster.store_settings import StoreSettings
from orchestrator.errors import StoreDamaged, StoreOwned, TaskError
from orchestrator.task import Task

TREE = tree(a="start", test_a="tests")
SETTINGS = StoreSettings()


@pytest.fixture
async def house(tmp_path: Path) -> Any:
    house = House(tmp_path / "home")
    house.home.mkdir()
    yield house
    for log in house.logs:
        log.close()


def backed_up(house: House, tmp_path: Path) -> Any:
    between = tmp_path / "between"
    between.mkdir()
    return back_up(SETTINGS, house.home, tmp_path / "backup.zip", between)


async def test_a_store_at_work_is_backed_up_and_goes_on_elsewhere(house: House, tmp_path: Path) -> None:
    fleet = ScriptedFleet()
    orchestrator = house.start(fleet)
    done = await orchestrator.submit(Task(id="done"), TREE)
    await ended(orchestrator, done)
    fleet.answers["repair"] = asyncio.Event()
    open_run = await orchestrator.submit(Task(id="open"), TREE)
    await until(lambda: fleet.began.count("repair") == 2)

    told = await asyncio.to_thread(backed_up, house, tmp_path)
    fleet.answers["repair"].set()
    await ended(orchestrator, open_run)

    assert (told.runs, told.problems) == (2, ())
    there = House(tmp_path / "there")
    restore(SETTINGS, there.home, Path(told.file))
    again = ScriptedFleet()
    other = there.start(again)
    try:
        assert there.logs[-1].check(artifacts=there.artifacts()).problems == ()
        assert there.logs[-1].events(done) == house.logs[-1].events(done)
        assert await other.resume() == [open_run]
        assert (await ended(other, open_run)).reason == "certified"
        assert "profile" not in again.began
        assert there.logs[-1].epoch > house.logs[-1].epoch
    finally:
        there.logs[-1].close()


async def test_what_a_store_lacks_is_told_and_the_rest_is_kept(house: House, tmp_path: Path) -> None:
    orchestrator = house.start(ScriptedFleet())
    run_id = await orchestrator.submit(Task(id="t"), TREE)
    await ended(orchestrator, run_id)
    digest = TREE.files["a.py"].digest
    (house.home / "artifacts" / digest[:2] / digest[2:4] / digest).unlink()

    told = backed_up(house, tmp_path)

    assert digest in told.problems[0]
    restore(SETTINGS, tmp_path / "there", Path(told.file))


async def test_nothing_is_restored_over_a_log_or_from_what_is_broken(house: House, tmp_path: Path) -> None:
    orchestrator = house.start(ScriptedFleet())
    await ended(orchestrator, await orchestrator.submit(Task(id="t"), TREE))
    file = Path(backed_up(house, tmp_path).file)
    broken, foreign = tmp_path / "broken.zip", tmp_path / "foreign.zip"
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(broken, "w") as changed:
        for name in whole.namelist():
            content = whole.read(name)
            changed.writestr(name, content[:-1] + b"x" if name == "events.db" else content)
    foreign.write_bytes(b"no zip at all")

    with pytest.raises(TaskError, match="holds an event log already"):
        restore(SETTINGS, house.home, file)
    with pytest.raises(StoreDamaged, match="is not what was written"):
        restore(SETTINGS, tmp_path / "there", broken)
    for wrong in (foreign, tmp_path / "absent.zip"):
        with pytest.raises(TaskError, match="is no backup"):
            restore(SETTINGS, tmp_path / "there", wrong)
    assert not (tmp_path / "there" / "events.db").exists()


def test_there_has_to_be_a_log(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="there is no event log"):
        back_up(SETTINGS, tmp_path, tmp_path / "backup.zip", tmp_path)


def test_a_home_that_a_factory_has_is_not_restored_into(tmp_path: Path) -> None:
    from cluster.owner import Ownership

    file = tmp_path / "backup.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("manifest.json", '{"format": "raysmith-backup", "version": 1, "schema": "0003"}')
    with Ownership.acquire(tmp_path / "home"), pytest.raises(StoreOwned):
        restore(SETTINGS, tmp_path / "home", file)
