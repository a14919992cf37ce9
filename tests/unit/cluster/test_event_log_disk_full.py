"""On a small file system of their own, in a mount namespace that ends with the process."""

from __future__ import annotations

import subprocess
import sys
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
MOUNT = 'mount -t tmpfs -o size=8m,mode=700 raysmith "$1" && exec "$0" -c "$2" "$1"'


def test_a_full_disk_loses_nothing_and_is_recovered_from(tmp_path: Path) -> None:
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("unshare -rm does not work here, so no small file system can be mounted")

    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", MOUNT, sys.executable, tmp_path, SCRIPT],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    acknowledged, lost, unasked, problems = done.stdout.split(maxsplit=3)
    assert int(acknowledged) > 50
    assert (lost, unasked, problems) == ("0", "0", "()\n")
