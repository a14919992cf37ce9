"""The factory that `raysmith up` keeps running: one process in the background, ended by `raysmith down`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import MachineError, StoreOwned

if TYPE_CHECKING:
    from serve.commands.door import Door
    from serve.config import Loaded

_STARTS_WITHIN_S = 120.0
_ENDS_WITHIN_S = 30.0
_POLL_S = 0.1


def start(loaded: Loaded, *, file: Path | None = None, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Start the background factory unless it is up; returns once it takes tasks.

    Returns:
        `address`, `dashboard`, `pid`, and `joined`: whether it was up before.

    Raises:
        StoreOwned: Another command's factory holds the store.
        MachineError: It did not come up.
    """
    from cluster.owner import make_home, read_owner

    home = loaded.home
    make_home(home)
    if (living := _told(home)) is not None:
        return {**living, "joined": True}
    if (owner := read_owner(home)) is not None:
        raise StoreOwned(
            f"the factory of another command (process {owner.pid}) holds {home} and ends with it",
            "run `raysmith up` again when that command has ended",
        )
    child = _spawn(home, file, settings)
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < deadline:
        if (living := _told(home)) is not None:
            return {**living, "joined": living["pid"] != child.pid}
        if child.poll() is not None:
            raise MachineError(
                f"the factory did not come up: {_last_words(home)}", f"its log is {_output(home)}"
            )
        time.sleep(_POLL_S)
    child.terminate()
    raise MachineError(f"the factory was not up after {_STARTS_WITHIN_S:g} s", f"its log is {_output(home)}")


def stop(home: Path) -> bool:
    """End the background factory; whether there was one.

    Raises:
        MachineError: It does not end.
    """
    living = _told(home)
    if living is None:
        return False
    for number, patience_s in ((signal.SIGTERM, _ENDS_WITHIN_S), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(living["pid"], number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if _told(home) is None:
                return True
            time.sleep(_POLL_S)
    raise MachineError(f"the factory (process {living['pid']}) does not end", "look at what it hangs on")


def serve_until_told(door: Door) -> None:
    """Hold a factory until SIGTERM or Ctrl-C; then leave at once, runs can be resumed."""
    from cluster.owner import make_home

    make_home(door.home)
    with (
        _only_one(door.home),
        contextlib.suppress(KeyboardInterrupt),
        door.factory(dashboard=True) as factory,
    ):
        told = {"pid": os.getpid(), "address": factory.address, "dashboard": factory.dashboard_url}
        passing = _file(door.home).with_suffix(".new")
        passing.write_text(json.dumps(told))
        passing.replace(_file(door.home))
        while True:
            time.sleep(3600)


def _told(home: Path) -> dict[str, Any] | None:
    """What the living background factory says of itself; None when there is none, or none ready."""
    try:
        with _lock(home).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        with contextlib.suppress(FileNotFoundError, ValueError):
            told: dict[str, Any] = json.loads(_file(home).read_text())
            return told
    return None


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    with _lock(home).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreOwned("a background factory is running already", "`raysmith down` ends it") from error
        _file(home).unlink(missing_ok=True)
        try:
            yield
        finally:
            _file(home).unlink(missing_ok=True)


def _spawn(home: Path, file: Path | None, settings: Sequence[str]) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "raysmith", "_daemon"]
    words += ["--config", str(file.absolute())] if file else []
    words += [word for setting in settings for word in ("--set", setting)]
    _output(home).parent.mkdir(exist_ok=True, mode=0o700)
    with _output(home).open("wb") as out:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


def _last_words(home: Path) -> str:
    lines = _output(home).read_text(errors="replace").strip().splitlines()
    return " ".join(lines[-2:]) if lines else "it said nothing"


def _output(home: Path) -> Path:
    return home / "logs" / "factory.log"


def _file(home: Path) -> Path:
    return home / "daemon.json"


def _lock(home: Path) -> Path:
    return home / "daemon.lock"
