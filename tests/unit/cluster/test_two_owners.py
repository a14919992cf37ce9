"""An owner that is stopped and continues later, while somebody else took its store over, writes nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from event_log_conformance import fact, submitted

from cluster.event_log import open_log
from cluster.owner import Ownership
from cluster.store_settings import StoreSettings
from orchestrator.errors import StoreOwned

CHILD = """
import sys
from pathlib import Path
from cluster.event_log import open_log
from cluster.owner import Ownership
from cluster.store_settings import StoreSettings
from orchestrator.errors import StoreOwned
from orchestrator.events import Kind, NewEvent

home = Path(sys.argv[1])
owned = Ownership.acquire(home)
log = open_log(StoreSettings(), home, epoch=owned.epoch)
for line in sys.stdin:
    try:
        event = NewEvent(run_id="r-1", type=Kind.STEP_PROGRESS, step="s", data={"said": line.strip()})
        print("acknowledged", log.append_blocking([event])[0].seq, flush=True)
    except StoreOwned as error:
        print("refused", error, flush=True)
"""


@pytest.fixture
def first(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with open_log(StoreSettings(), tmp_path) as log:
        log.append_blocking([submitted("r-1")])
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        yield child
        child.send_signal(signal.SIGCONT)
        child.kill()


def say(child: subprocess.Popen[str], text: str) -> None:
    assert child.stdin is not None
    child.stdin.write(f"{text}\n")
    child.stdin.flush()


def heard(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_the_second_refuses_while_the_first_is_only_stopped(
    first: subprocess.Popen[str], tmp_path: Path
) -> None:
    say(first, "one")
    assert heard(first) == "acknowledged 2"
    first.send_signal(signal.SIGSTOP)

    with pytest.raises(StoreOwned, match="is still held by process"):
        Ownership.acquire(tmp_path, wait_s=0.3)

    first.send_signal(signal.SIGCONT)
    say(first, "two")
    assert heard(first) == "acknowledged 3"


def test_the_first_is_refused_after_a_lock_that_was_lost(
    first: subprocess.Popen[str], tmp_path: Path
) -> None:
    say(first, "one")
    assert heard(first) == "acknowledged 2"
    first.send_signal(signal.SIGSTOP)
    say(first, "asked while it was stopped")
    # As on a file system that forgot its locks: another file, so another lock.
    (tmp_path / "owner.lock").unlink()

    with Ownership.acquire(tmp_path, wait_s=5) as owned:
        with open_log(StoreSettings(), tmp_path, epoch=owned.epoch) as log:
            log.append_blocking([fact("r-1", x="of the second")])
            first.send_signal(signal.SIGCONT)
            assert heard(first).startswith("refused this orchestrator's epoch is")
            log.append_blocking([fact("r-1", x="of the second")])
            say(first, "and again")
            assert heard(first).startswith("refused")
            said = [event.data.get("said") for event in log.events("r-1")]
            assert said == [None, "one", None, None]
            assert log.check().problems == ()
