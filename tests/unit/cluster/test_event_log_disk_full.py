"""On a small file system of their own, in a mount namespace that ends with the process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = """
import asyncio, os, sys
from pathlib import Path
from cluster.artifacts import ArtifactStore
from cluster.event_log import open_log
from cluster.owner import Ownership
from cluster.store_settings import StoreSettings
from orchestrator.errors import StoreError
from orchestrator.events import Kind, NewEvent

disk = Path(sys.argv[1])
home = disk / "home"
ownership = Ownership.acquire(home)
artifacts = ArtifactStore(str(home / "artifacts"))
first = artifacts.put(b"first")
ballast = disk / "ballast"
ballast.write_bytes(bytes(4_000_000))
log = open_log(StoreSettings(), home, epoch=ownership.epoch)
acknowledged = []


def fill(descriptor):
    try:
        while os.write(descriptor, bytes(4096)):
            pass
    except OSError:
        return


async def work(n):
    new = NewEvent(run_id=f"r-{n}", type=Kind.RUN_STARTED, data={"blob": "x" * 4000})
    while True:
        acknowledged.extend(await log.append([new, new]))


async def main():
    results = await asyncio.gather(*(work(n) for n in range(10)), return_exceptions=True)
    assert all(isinstance(each, StoreError) and "full" in each.message for each in results), results
    descriptor = os.open(disk / "rest", os.O_WRONLY | os.O_CREAT)
    fill(descriptor)
    for attempt in (
        lambda: artifacts.put(os.urandom(100_000)),
        lambda: ownership.publish("address " * 1000, "namespace"),
        lambda: Ownership.acquire(disk / "other"),
    ):
        try:
            attempt()
        except StoreError as error:
            assert "full disk" in str(error) or "full;" in str(error), error
        else:
            raise AssertionError(f"the disk is not full for {attempt}")
    assert artifacts.get(first) == b"first"
    assert [path.name for path in (home / "artifacts" / "tmp").iterdir()] == []
    os.close(descriptor)
    (disk / "rest").unlink()
    ballast.unlink()

    acknowledged.extend(await log.append([NewEvent(run_id="r-1", type=Kind.RUN_STARTED, data={"after": 1})]))
    artifacts.put(os.urandom(100_000))
    ownership.publish("address", "namespace")


asyncio.run(main())
kept = {(each.run_id, each.seq): each.hash for run in log.runs() for each in log.events(run.run_id)}
lost = [each for each in acknowledged if kept.get((each.run_id, each.seq)) != each.hash]
print(len(acknowledged), len(lost), len(kept) - len(acknowledged), log.check().problems)
log.close()
"""
RUNS = """
import asyncio, os, sys
from pathlib import Path

sys.path[:0] = [sys.argv[2]]
from fakes import tree
from orchestrator_house import FIXED, House, ScriptedFleet, ended, until
from orchestrator.task import Task

disk = Path(sys.argv[1])
home = disk / "home"
home.mkdir()


def fill():
    descriptor = os.open(disk / "ballast", os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(descriptor, bytes(512)):
            pass
    except OSError:
        os.close(descriptor)


async def main():
    house, held = House(home), asyncio.Event()
    fleet = ScriptedFleet(repair=held)
    orchestrator = house.start(fleet)
    runs = [await orchestrator.submit(Task(id=str(n)), tree(a="start", test_a="tests")) for n in range(5)]
    await until(lambda: fleet.began.count("repair") == 5)
    before = {run_id: house.logs[-1].events(run_id) for run_id in runs}
    fill()
    held.set()
    await asyncio.sleep(1)
    told = [await orchestrator.state(run_id) for run_id in runs]
    assert not any(state.status.is_finished for state in told), told
    (disk / "ballast").unlink()
    states = [await ended(orchestrator, run_id) for run_id in runs]
    print([state.reason for state in states], fleet.began.count("profile"))
    for run_id in runs:
        assert house.logs[-1].events(run_id)[: len(before[run_id])] == before[run_id]
    print(house.logs[-1].check(artifacts=house.artifacts()).problems)
    house.logs[-1].close()


asyncio.run(main())
"""
MOUNT = 'mount -t tmpfs -o size=8m,mode=700 raysmith "$1" && exec "$0" -c "$2" "$1" "$3"'


@pytest.fixture
def on_a_small_disk(tmp_path: Path) -> Callable[[str], str]:
    """Runs a script on a file system of 8 MB, and gives what it printed."""
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("unshare -rm does not work here, so no small file system can be mounted")

    def run(script: str) -> str:
        helpers = Path(__file__).parents[2]
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", MOUNT, sys.executable, tmp_path, script, helpers],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_full_disk_loses_nothing_and_is_recovered_from(on_a_small_disk: Callable[[str], str]) -> None:
    acknowledged, lost, unasked, problems = on_a_small_disk(SCRIPT).split(maxsplit=3)

    assert int(acknowledged) > 50
    assert (lost, unasked, problems) == ("0", "0", "()\n")


def test_runs_wait_for_room_and_go_on_without_a_restart(on_a_small_disk: Callable[[str], str]) -> None:
    *_, ends, problems = on_a_small_disk(RUNS).splitlines()

    assert ends == "['certified', 'certified', 'certified', 'certified', 'certified'] 5"
    assert problems == "()"
