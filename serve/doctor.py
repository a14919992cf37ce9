"""What this machine can do, and how to close each gap. It changes nothing that it does not take back."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import RaysmithError
from orchestrator.verdict import Level
from serve import doctor_doors

if TYPE_CHECKING:
    from serve.config import Loaded

_RAY = ("2.60", "2.61")
_FREE_MIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at. `ok` is False for a gap that stops work, None for one that only limits it."""

    name: str
    ok: bool | None
    found: str
    fix: str = ""


def examine(loaded: Loaded) -> list[Check]:
    """Look at everything; a check that breaks is a gap and stops no other."""
    looks: list[tuple[str, Callable[[Loaded], Check]]] = [
        ("python", _python),
        ("ray", _ray),
        ("dashboard", _dashboard),
        ("sandbox", _sandbox),
        ("store", _store),
        ("git", _git),
        ("gpus", _gpus),
        ("engines", _engines),
        ("slack", _slack),
        ("cluster", _door(doctor_doors.cluster)),
        ("fleet", _door(lambda loaded: doctor_doors.fleet(loaded, _count_gpus))),
        ("http", _door(doctor_doors.http)),
        ("metrics", _door(doctor_doors.metrics)),
    ]
    return [replace(_safely(name, look, loaded), name=name) for name, look in looks]


def _door(look: Callable[[Loaded], doctor_doors.Found]) -> Callable[[Loaded], Check]:
    def check(loaded: Loaded) -> Check:
        ok, found, fix = look(loaded)
        return Check(name="", ok=ok, found=found, fix=fix)

    return check


def _safely(name: str, look: Callable[[Loaded], Check], loaded: Loaded) -> Check:
    try:
        return look(loaded)
    except RaysmithError as error:
        return Check(name=name, ok=False, found=error.message, fix=error.next_move)
    except Exception as error:
        return Check(name=name, ok=False, found=f"{type(error).__name__}: {error}", fix="report this")


def _python(_loaded: Loaded) -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 11)
    return Check(name="python", ok=ok, found=version, fix="" if ok else "install Python 3.11 or newer")


def _ray(_loaded: Loaded) -> Check:
    try:
        version = metadata.version("ray")
    except metadata.PackageNotFoundError:
        return Check(name="ray", ok=False, found="not installed", fix="make install")
    ok = version.startswith(f"{_RAY[0]}.")
    fix = "" if ok else f"install ray>={_RAY[0]},<{_RAY[1]} (make install)"
    return Check(name="ray", ok=ok, found=version, fix=fix)


def _dashboard(_loaded: Loaded) -> Check:
    missing = [name for name in ("aiohttp", "opencensus") if find_spec(name) is None]
    if missing:
        return Check(
            name="dashboard",
            ok=None,
            found=f"{', '.join(missing)} not installed",
            fix="pip install 'ray[default]'",
        )
    return Check(name="dashboard", ok=True, found="available, shown by `raysmith up`")


def _sandbox(loaded: Loaded) -> Check:
    from actors.sandbox.probe import probe

    settings = loaded.config.sandbox
    report = probe(settings)
    held = f", memory by {report.memory}; held: {', '.join(report.tried)}"
    found = f"{report.level} by {report.provider}{held}" if report.provider != "none" else str(report.level)
    if report.error:
        found += f"; {report.error}"
    ok = report.level.at_least(settings.minimum)
    accepted = not ok and settings.accepts_unsandboxed
    fix = report.fix
    if not ok and report.level is not Level.NONE:
        fix += f"; or take less: sandbox.minimum={report.level}"
    return Check(name="sandbox", ok=None if accepted else ok, found=found, fix=fix)


def _store(loaded: Loaded) -> Check:
    from cluster.owner import make_home

    if loaded.config.store.is_postgres:
        return _postgres(loaded)
    home = loaded.home
    make_home(home)
    with tempfile.TemporaryDirectory(dir=home, prefix=".doctor-") as folder:
        mode = _journal_mode(Path(folder) / "try.db")
    free_mib = shutil.disk_usage(home).free // 2**20
    found = f"{home}, {free_mib} MiB free, journal {mode}"
    if mode != "wal":
        return Check(name="store", ok=False, found=found, fix="put RAYSMITH_HOME on a local disk")
    if free_mib < _FREE_MIB:
        return Check(name="store", ok=None, found=found, fix=f"free {_FREE_MIB} MiB, or set RAYSMITH_HOME")
    return Check(name="store", ok=True, found=found)


def _postgres(loaded: Loaded) -> Check:
    from cluster.event_log import EventReader, database_of
    from cluster.event_log_postgres import PostgresDatabase
    from cluster.owner import make_home

    make_home(loaded.home)
    database = database_of(loaded.config.store, loaded.home)
    assert isinstance(database, PostgresDatabase)
    facts = database.facts()
    with EventReader(loaded.config.store, loaded.home) as log:
        runs = f"{log.count()} runs" if log.exists else "no tables yet"
    owner = f", written by {facts['owner']}" if facts["owner"] else ""
    found = f"{database.name}, schema {facts['schema']!r}, version {facts['version']}, {runs}{owner}"
    artifacts = loaded.config.store.artifacts_url(loaded.home).partition("?")[0].rpartition("@")[2]
    found += f"; artifacts in {artifacts}"
    if not facts["schema"]:
        return Check(name="store", ok=False, found=found, fix="create the schema that `search_path` names")
    if facts["fsync"] == "off":
        fix = "set fsync = on in the server's configuration: a power cut may lose everything"
        return Check(name="store", ok=None, found=f"{found}, fsync off", fix=fix)
    return Check(name="store", ok=True, found=found)


def _journal_mode(path: Path) -> str:
    import contextlib
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])


def _git(_loaded: Loaded) -> Check:
    found = shutil.which("git")
    if found is None:
        return Check(
            name="git",
            ok=None,
            found="not installed: folders are walked, ignored files included",
            fix="install git",
        )
    return Check(name="git", ok=True, found=found)


def _gpus(_loaded: Loaded) -> Check:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Check(name="gpus", ok=True, found="none; search repair needs none")
    words = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        return Check(
            name="gpus", ok=None, found="nvidia-smi fails", fix=done.stderr.strip() or done.stdout.strip()
        )
    return Check(name="gpus", ok=True, found="; ".join(done.stdout.split("\n")[:-1]) or "none")


def _count_gpus() -> int:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    return len(done.stdout.splitlines()) if done.returncode == 0 else 0


def _slack(loaded: Loaded) -> Check:
    import asyncio

    from serve.slack import look

    settings = loaded.config.slack
    if not settings.is_on:
        return Check(name="slack", ok=True, found="off; RAYSMITH_SLACK__TOKEN and slack.channel switch it on")
    try:
        return Check(name="slack", ok=True, found=asyncio.run(look(settings)))
    except RaysmithError as error:
        # Slack is never in a run's way.
        return Check(name="slack", ok=None, found=error.message, fix=error.next_move)


def _engines(loaded: Loaded) -> Check:
    from serve.engines import look

    chosen = loaded.config.model
    engines = look(loaded.config)
    found = f"{', '.join(engines.known)}; model: {chosen or 'none'}"
    if engines.problem is not None:
        found += f": {engines.problem.message}"
        return Check(name="engines", ok=None, found=found, fix=engines.problem.next_move)
    fix = "" if chosen else "goals in words need --model or RAYSMITH_MODEL; repair needs none"
    return Check(name="engines", ok=True if chosen else None, found=found, fix=fix)
