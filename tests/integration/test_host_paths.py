"""Attacks on the host's own reading and writing, while somebody else changes the folder under it."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.beneath import Beneath, NotRegular, TooLarge
from orchestrator.tree import File

CONTENT = File(content=b"ours")


@contextlib.contextmanager
def meanwhile(change: Callable[[], None]) -> Iterator[None]:
    """Repeat `change` in a thread until the block ends."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            change()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "real").mkdir(parents=True)
    outside.mkdir()
    (inside / "door").symlink_to("real")
    return inside, outside


def flip(inside: Path, outside: Path) -> Callable[[], None]:
    """`door` is a folder one moment and a link to the outside the next."""

    def change() -> None:
        # The writer makes folders that it misses, so any step may find another state than the last one left.
        with contextlib.suppress(OSError):
            (inside / "passing").symlink_to(outside)
        with contextlib.suppress(OSError):
            os.replace(inside / "passing", inside / "door")
        with contextlib.suppress(OSError):
            (inside / "door").unlink()
        with contextlib.suppress(OSError):
            os.rename(inside / "real", inside / "door")
        with contextlib.suppress(OSError):
            os.rename(inside / "door", inside / "real")
        if (inside / "real").exists() and not (inside / "door").is_symlink():
            shutil.rmtree(inside / "door", ignore_errors=True)

    return change


def test_writing_through_a_folder_that_turns_into_a_link_never_leaves(folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    written = refused = 0
    deadline = time.monotonic() + 20

    with meanwhile(flip(inside, outside)):
        while (written < 20 or refused < 20) and time.monotonic() < deadline:
            with Beneath(inside) as folder:
                try:
                    folder.place(folder.stage("door/file", CONTENT, None), "door/file")
                    written += 1
                except OSError:
                    refused += 1

    assert list(outside.iterdir()) == []
    assert refused > 0


def test_reading_through_a_folder_that_turns_into_a_link_never_shows_the_outside(
    folders: tuple[Path, Path],
) -> None:
    inside, outside = folders
    (outside / "file").write_text("secret")
    (inside / "real/file").write_text("ours")
    seen = set()
    deadline = time.monotonic() + 2

    with meanwhile(flip(inside, outside)):
        while time.monotonic() < deadline:
            with Beneath(inside) as folder, contextlib.suppress(OSError):
                found = folder.read("door/file", 100)
                seen.add(found.content if found else None)

    assert seen <= {b"ours", None}


def test_what_a_naive_check_lets_through_is_what_this_race_is(folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    escaped = False
    deadline = time.monotonic() + 30

    with meanwhile(flip(inside, outside)):
        while not escaped and time.monotonic() < deadline:
            target = inside / "door/file"
            with contextlib.suppress(OSError):
                if target.resolve().is_relative_to(inside):
                    target.write_text("escaped")
            escaped = (outside / "file").exists()

    if not escaped:
        pytest.skip("the race was not won in 30 s, so the tests beside this one show less")


def test_fifos_devices_and_deep_folders_are_neither_waited_for_nor_followed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "big").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to("/etc/passwd")

    with Beneath(tmp_path) as folder:
        with pytest.raises(NotRegular):
            folder.read("fifo", 10)
        with pytest.raises(TooLarge):
            folder.read("big", 10)
        link = folder.read("link", 100)

    assert link is not None
    assert link.content == b"/etc/passwd"
