from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.owner import Ownership, is_owned, lost_owner, make_home, read_owner
from orchestrator import failpoints
from orchestrator.errors import StoreDamaged, StoreError, StoreOwned

HOLD = """
import sys, time
from pathlib import Path
from cluster.owner import Ownership
ownership = Ownership.acquire(Path(sys.argv[1]), float(sys.argv[2]), address="10.0.0.1:6379", namespace="n")
print(ownership.epoch, flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, home, "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_an_owner_is_found_with_its_address(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Ownership.acquire(home) as ownership:
        assert is_owned(home)
        starting = read_owner(home)
        ownership.publish("10.0.0.1:6379", "raysmith")
        owner = read_owner(home)

    assert starting is not None
    assert starting.address == ""
    assert owner is not None
    assert (owner.address, owner.namespace, owner.pid, owner.epoch) == (
        "10.0.0.1:6379",
        "raysmith",
        os.getpid(),
        1,
    )
    assert (owner.started_at, owner.version, owner.host) == (
        starting.started_at,
        starting.version,
        starting.host,
    )
    assert not is_owned(home)
    assert read_owner(home) is None
    ownership.release()


def test_every_owner_has_a_higher_epoch(tmp_path: Path) -> None:
    epochs = []
    for at_least in (0, 0, 7, 3):
        with Ownership.acquire(tmp_path, at_least=at_least) as ownership:
            epochs.append(ownership.epoch)

    assert epochs == [1, 2, 8, 9]


def test_home_is_made_for_this_user_only(tmp_path: Path) -> None:
    home = tmp_path / "a" / "b"
    with Ownership.acquire(home):
        assert home.stat().st_mode & 0o777 == 0o700
        for name in ("owner.lock", "owner.json", "owner.epoch"):
            assert (home / name).stat().st_mode & 0o077 == 0


def test_a_living_owner_is_not_displaced(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(StoreOwned, match=f"held by process {process.pid} on .* after 0.3 s"):
            Ownership.acquire(tmp_path, 0.3)

        owner = read_owner(tmp_path)
        assert owner is not None
        assert (owner.address, owner.pid) == ("10.0.0.1:6379", process.pid)


def test_a_newcomer_waits_for_a_dying_owner(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        threading.Timer(0.3, process.send_signal, [signal.SIGKILL]).start()
        started = time.monotonic()

        with Ownership.acquire(tmp_path, 10) as ownership:
            assert 0.2 < time.monotonic() - started < 5
            assert ownership.epoch == 2


def test_the_file_of_a_killed_owner_means_nobody(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
        process.wait()

    assert json.loads((tmp_path / "owner.json").read_text())["address"] == "10.0.0.1:6379"
    assert not is_owned(tmp_path)
    assert read_owner(tmp_path) is None


def test_a_killed_owner_may_come_back_while_its_driver_lives(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert lost_owner(tmp_path) is None
        process.kill()
        process.wait()

    lost = lost_owner(tmp_path)
    assert lost is not None
    assert lost.address == "10.0.0.1:6379"
    told = json.loads((tmp_path / "owner.json").read_text())
    with holder(tmp_path) as gone:
        gone.kill()
        gone.wait()
    (tmp_path / "owner.json").write_text(json.dumps(told | {"driver_pid": gone.pid, "epoch": 2}))
    assert lost_owner(tmp_path) is None


def test_an_owner_that_let_go_is_not_lost(tmp_path: Path) -> None:
    with Ownership.acquire(tmp_path, address="10.0.0.1:6379"):
        pass
    assert lost_owner(tmp_path) is None


def test_the_file_of_a_dead_owner_is_not_taken_for_the_newcomer_s(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
    stale = (tmp_path / "owner.json").read_text()

    with Ownership.acquire(tmp_path):
        (tmp_path / "owner.json").write_text(stale)
        assert is_owned(tmp_path)
        assert read_owner(tmp_path) is None


def test_of_many_newcomers_exactly_one_wins(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path, "0.5"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(5)
    ]
    lines = [process.stdout.readline() for process in processes if process.stdout]
    for process in processes:
        process.communicate()

    assert sorted(lines) == [b""] * 4 + [b"1\n"]


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    inside: list[int] = []
    overlaps: list[int] = []

    def work() -> None:
        for _ in range(5):
            with Ownership.acquire(tmp_path, 30) as ownership:
                inside.append(ownership.epoch)
                overlaps.append(len(inside))
                inside.remove(ownership.epoch)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert overlaps == [1] * 20
    assert (tmp_path / "owner.epoch").read_text() == "20\n"


def test_probes_never_make_an_acquirer_fail(tmp_path: Path) -> None:
    make_home(tmp_path)
    stop = threading.Event()

    def probe() -> None:
        while not stop.is_set():
            is_owned(tmp_path)

    probes = [threading.Thread(target=probe) for _ in range(3)]
    for thread in probes:
        thread.start()
    try:
        for _ in range(20):
            Ownership.acquire(tmp_path, 0).release()
    finally:
        stop.set()
        for thread in probes:
            thread.join()


def test_looking_for_an_owner_makes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"

    assert not is_owned(home)
    assert read_owner(home) is None
    assert not home.exists()


def test_home_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"RAYSMITH_HOME .* is a file.*name another"):
            Ownership.acquire(home)
        with pytest.raises(StoreError, match="is a file"):
            is_owned(home)


def test_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "unshare",
            "-rm",
            "sh",
            "-c",
            'mount -t tmpfs -o ro raysmith "$1" && exec "$0" -c "$2" "$1" 0',
            sys.executable,
            tmp_path,
            HOLD,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare:" in done.stderr:
        pytest.skip("unshare -rm does not work here, so nothing read-only can be mounted")

    assert "StoreError: RAYSMITH_HOME" in done.stderr
    assert "is on a read-only disk; name another RAYSMITH_HOME" in done.stderr


def test_a_failed_start_lets_go(tmp_path: Path) -> None:
    failpoints.arm("owner.after_lock:raise:1")
    try:
        with pytest.raises(StoreError):
            Ownership.acquire(tmp_path)
    finally:
        failpoints.arm("")

    assert not is_owned(tmp_path)
    (tmp_path / "owner.epoch").write_text("many")
    with pytest.raises(StoreDamaged, match="does not hold a number"):
        Ownership.acquire(tmp_path)
    assert not is_owned(tmp_path)


def test_an_owner_file_of_another_release_is_read_or_means_nobody(tmp_path: Path) -> None:
    with Ownership.acquire(tmp_path) as ownership:
        data = json.loads((tmp_path / "owner.json").read_text())
        (tmp_path / "owner.json").write_text(json.dumps({**data, "a_field_of_tomorrow": 1}))
        assert read_owner(tmp_path) == ownership.owner
        for text in ("", "[]", "{}", "\x00"):
            (tmp_path / "owner.json").write_text(text)
            assert read_owner(tmp_path) is None
