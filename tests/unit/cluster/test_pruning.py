"""Only what ended long ago goes, and only contents that nobody else names."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fakes import tree
from orchestrator_house import FIXED, House, ScriptedFleet, ended, until

from cluster.event_log import open_log, open_reader
from cluster.owner import Ownership
from cluster.pruning import prune
from cluster.store_settings import StoreSettings
from orchestrator.errors import StoreError, StoreOwned
from orchestrator.task import Task

SETTINGS = StoreSettings()
FAR = "9999"


async def a_store(home: Path) -> tuple[str, str, str, str]:
    """Ids of a run that ended, a fork of it, a paused and an open one; the first two have a file more."""
    house, fleet = House(home), ScriptedFleet()
    orchestrator = house.start(fleet)
    done = await orchestrator.submit(Task(id="done"), tree(a="start", test_a="tests", own="own"))
    await ended(orchestrator, done)
    fork = await orchestrator.fork(done, "repair")
    await ended(orchestrator, fork)
    fleet.answers["repair"] = asyncio.Event()
    paused = await orchestrator.submit(Task(id="paused"), tree(a="start", test_a="tests"))
    await until(lambda: fleet.began.count("profile") == 2 and "repair" in fleet.began[-1])
    await orchestrator.pause(paused, by="ann", now=True)
    still = await orchestrator.submit(Task(id="open"), tree(a="start", test_a="tests"))
    await until(lambda: fleet.began.count("profile") == 3 and fleet.began[-1] == "repair")
    await house.lose(orchestrator)
    return done, fork, paused, still


def contents(home: Path) -> list[Path]:
    return sorted(path for path in (home / "artifacts").rglob("*") if path.is_file())


def check(home: Path) -> tuple[str, ...]:
    with open_reader(SETTINGS, home) as log:
        return log.check(artifacts=House(home).artifacts()).problems


async def test_what_waits_or_is_unfinished_stays_whole_and_goes_on(tmp_path: Path) -> None:
    done, fork, paused, still = await a_store(tmp_path)
    own = tree(own="own").files["own.py"].digest

    told = prune(SETTINGS, tmp_path, FAR)

    assert (set(told.runs), told.kept) == ({done, fork}, 2)
    assert check(tmp_path) == ()
    assert not House(tmp_path).artifacts().has(own)
    house = House(tmp_path)
    fleet = ScriptedFleet(repair=FIXED)
    orchestrator = house.start(fleet)
    try:
        assert await orchestrator.resume() == [still]
        await orchestrator.resume([paused])
        for run_id in (paused, still):
            assert (await ended(orchestrator, run_id)).reason == "certified"
        assert "profile" not in fleet.began
    finally:
        house.logs[-1].close()


async def test_what_a_run_that_stays_shares_stays(tmp_path: Path) -> None:
    done, fork, *_ = await a_store(tmp_path)
    with open_reader(SETTINGS, tmp_path) as log:
        first, second = log.run(done), log.run(fork)
    assert first is not None
    assert second is not None
    assert str(first.finished_at) < str(second.finished_at)

    told = prune(SETTINGS, tmp_path, str(second.finished_at))

    assert told.runs == (done,)
    assert check(tmp_path) == ()


async def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    await a_store(tmp_path)
    before = contents(tmp_path)

    told = prune(SETTINGS, tmp_path, FAR, dry_run=True)

    assert (len(told.runs), told.artifacts > 0) == (2, True)
    assert contents(tmp_path) == before
    with open_reader(SETTINGS, tmp_path) as log:
        assert len(log.run_ids()) == 4
    assert prune(SETTINGS, tmp_path, "1970").runs == ()


async def test_nothing_goes_while_a_factory_works_or_what_stays_is_damaged(tmp_path: Path) -> None:
    await a_store(tmp_path)
    with Ownership.acquire(tmp_path), pytest.raises(StoreOwned):
        prune(SETTINGS, tmp_path, FAR)
    with open_reader(SETTINGS, tmp_path) as log:
        stays: Any = log.state(log.unfinished()[0]).task["tree"]
    (tmp_path / "artifacts" / stays[:2] / stays[2:4] / stays).unlink()

    with pytest.raises(StoreError, match="cannot be told"):
        prune(SETTINGS, tmp_path, FAR)
    with open_log(SETTINGS, tmp_path) as log:
        assert len(log.run_ids()) == 4


def test_a_home_without_a_log_has_nothing_to_prune(tmp_path: Path) -> None:
    assert prune(SETTINGS, tmp_path, FAR).runs == ()
