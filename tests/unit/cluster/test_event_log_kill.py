from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.event_log import open_reader
from cluster.store_settings import StoreSettings

KILLS = 24
TESTS = Path(__file__).parents[2]


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    chance = random.Random(20)

    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, TESTS / "event_log_child.py", tmp_path, journal], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.0, 0.25))
            child.send_signal(signal.SIGKILL)

    acknowledged = [line.split() for line in journal.read_text().splitlines()]
    with open_reader(StoreSettings(), tmp_path) as reader:
        kept = {
            (each.run_id, str(each.seq)): each.hash
            for run in reader.runs()
            for each in reader.events(run.run_id)
        }
        assert reader.check().problems == ()
    lost = [line for line in acknowledged if kept.get((line[0], line[1])) != line[2]]
    assert len(acknowledged) > 100 * KILLS
    assert lost == []


@pytest.mark.parametrize(
    ("point", "there"), [("before_append", 2), ("before_commit", 2), ("after_commit", 4)]
)
def test_dying_at_each_point_leaves_whole_appends(tmp_path: Path, point: str, there: int) -> None:
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from pathlib import Path\n"
            "from cluster.event_log import open_log\n"
            "from cluster.store_settings import StoreSettings\n"
            "from orchestrator.events import Kind, NewEvent\n"
            "new = [NewEvent(run_id='r-1', type=Kind.RUN_STARTED)] * 2\n"
            "log = open_log(StoreSettings(), Path(sys.argv[1]))\n"
            "for _ in range(3): log.append_blocking(new); print('acknowledged', flush=True)\n",
            tmp_path,
        ],
        env={"RAYSMITH_FAILPOINT": f"event_log.{point}:exit:2"},
        capture_output=True,
        check=False,
    )

    assert (child.returncode, child.stdout) == (137, b"acknowledged\n")
    with open_reader(StoreSettings(), tmp_path) as reader:
        assert [event.seq for event in reader.events("r-1")] == list(range(1, there + 1))
        assert reader.check().problems == ()
