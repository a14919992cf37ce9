"""What a durable step costs: the same loops on the log in memory, SQLite and PostgreSQL, in turn, in one run.

A loop is four steps; a step is its dispatch, committed, a stand-in for the agent's call, and its outcome
with 4 KB of data, committed. 200 loops, 20 at a time. `--call-ms 0` leaves the stand-in out, so that the
ratio compares the logs alone; 25 ms is what a call through Ray took at 20 callers on two cores. PostgreSQL
takes part where `--postgres URL` answers, in a schema of its own that is dropped at the end.

    python benchmarks/durable.py --json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cluster.event_log import EventLog, open_log
from cluster.event_log_memory import MemoryEventLog
from cluster.store_settings import StoreSettings
from orchestrator.events import Kind, NewEvent, fold

Log = EventLog | MemoryEventLog
LOOPS, STEPS, AT_ONCE = 200, 4, 20
RESULT = "x" * 4096


async def loops(log: Log, call_s: float, names: str) -> float:
    """Run all loops; wall seconds."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def loop(number: int) -> None:
        run_id = f"r-{names}-{number}"
        async with gate:
            for step in range(STEPS):
                envelope: dict[str, Any] = {
                    "run_id": run_id,
                    "step": f"s{step}",
                    "dispatch_id": f"{run_id}/{step}",
                }
                await log.append([NewEvent(type=Kind.STEP_DISPATCHED, data={"replica": "run-0"}, **envelope)])
                if call_s:
                    await asyncio.sleep(call_s)
                await log.append([NewEvent(type=Kind.STEP_COMPLETED, data={"result": RESULT}, **envelope)])

    started = time.perf_counter()
    await asyncio.gather(*(loop(number) for number in range(LOOPS)))
    return time.perf_counter() - started


async def one_round(home: Path, number: int, call_s: float, postgres: str) -> dict[str, float]:
    """Every log once, the order turning from round to round; wall seconds by log."""
    logs: dict[str, Callable[[], Log]] = {
        "memory": MemoryEventLog,
        "FULL": lambda: open_log(StoreSettings(), home / "full"),
        "NORMAL": lambda: open_log(StoreSettings(synchronous="NORMAL"), home / "normal"),
    }
    if postgres:
        logs["POSTGRES"] = lambda: open_log(StoreSettings(url=postgres), home)
    names = list(logs)
    turn = number % len(names)
    took: dict[str, float] = {}
    for name in names[turn:] + names[:turn]:
        log = logs[name]()
        try:
            took[name] = await loops(log, call_s, f"{number}-{call_s:g}")
        finally:
            log.close()
    return took


def step_figures(home: Path, rounds: int, call_ms: float, postgres: str) -> dict[str, float]:
    """Medians over the rounds; a ratio is taken within each round."""
    for name in ("full", "normal"):
        (home / name).mkdir(exist_ok=True)
    took = [asyncio.run(one_round(home, number, call_ms / 1000, postgres)) for number in range(rounds)]
    ratios = [each["FULL"] / each["memory"] for each in took]
    steps = LOOPS * STEPS
    on_postgres = [each["POSTGRES"] / each["memory"] for each in took if "POSTGRES" in each]
    figures = {
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "ratio_normal": statistics.median(each["NORMAL"] / each["memory"] for each in took),
        "ms_memory": statistics.median(each["memory"] for each in took) * 1000 / steps,
        "ms_sqlite": statistics.median(each["FULL"] for each in took) * 1000 / steps,
        "events_per_s": 2 * steps / statistics.median(each["FULL"] for each in took),
    }
    if on_postgres:
        median_s = statistics.median(each["POSTGRES"] for each in took)
        figures |= {
            "ratio_postgres": statistics.median(on_postgres),
            "ratio_postgres_min": min(on_postgres),
            "ratio_postgres_max": max(on_postgres),
            "ms_postgres": median_s * 1000 / steps,
            "events_per_s_postgres": 2 * steps / median_s,
        }
    return figures


def timed(work: Callable[[], object], times: int = 3) -> float:
    """The median of some repetitions, wall seconds."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def fold_figures(home: Path) -> dict[str, float]:
    """100,000 events of one run: their fold, and reading them from the database and folding."""
    with open_log(StoreSettings(synchronous="NORMAL"), home) as log:
        for start in range(0, 100_000, 1000):
            log.append_blocking([_nth_event(number) for number in range(start, start + 1000)])
        events = log.events("r-long")
        return {
            "fold_100k_s": timed(lambda: fold(events)),
            "read_and_fold_100k_s": timed(lambda: log.state("r-long")),
        }


def _nth_event(number: int) -> NewEvent:
    kinds = (Kind.STEP_DISPATCHED, Kind.STEP_PROGRESS, Kind.STEP_PROGRESS, Kind.STEP_COMPLETED)
    data = {"failing": 1, "explanation": "a > b", "replica": "run-0", "result": "0" * 64}
    return NewEvent(run_id="r-long", type=kinds[number % 4], step="run", attempt=number // 400, data=data)


def list_figures(home: Path) -> dict[str, float]:
    """10,000 runs: all their rows, and the first page."""
    with open_log(StoreSettings(synchronous="NORMAL"), home) as log:
        for start in range(0, 10_000, 1000):
            log.append_blocking(
                [
                    NewEvent(
                        run_id=f"r-{number}",
                        type=Kind.RUN_SUBMITTED,
                        data={"task": {"id": f"task-{number}", "graph": "repair", "origin": "/somewhere"}},
                    )
                    for number in range(start, start + 1000)
                ]
            )
        return {
            "list_10k_ms": timed(lambda: log.runs(limit=None)) * 1000,
            "list_page_of_10k_ms": timed(lambda: log.runs(limit=100)) * 1000,
        }


@contextlib.contextmanager
def schema_on(url: str) -> Iterator[tuple[str, str]]:
    """A URL into a schema of its own, and the server's version; two empty texts where no server answers."""
    try:
        import psycopg

        connection = psycopg.connect(url, autocommit=True, connect_timeout=3)
    except (ImportError, psycopg.Error):
        yield "", ""
        return
    name = f"raysmith_bench_{uuid.uuid4().hex[:8]}"
    with connection:
        connection.execute(f"CREATE SCHEMA {name}")
        version = str(connection.info.server_version // 10000)
        try:
            yield f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{name}", version
        finally:
            connection.execute(f"SET client_min_messages = error; DROP SCHEMA {name} CASCADE")


def measure(rounds: int, call_ms: float, postgres: str) -> dict[str, Any]:
    """All figures, with what they were measured on."""
    with (
        tempfile.TemporaryDirectory(prefix="raysmith-durable-") as folder,
        schema_on(postgres) as (url, version),
    ):
        home = Path(folder)
        bare = step_figures(home, rounds, 0, url)
        called = step_figures(home, rounds, call_ms, url) if call_ms else {}
        figures: dict[str, Any] = {
            "step_ratio_sqlite": bare["ratio"],
            "step_ratio_sqlite_min_max": [bare["ratio_min"], bare["ratio_max"]],
            "step_ratio_sqlite_normal": bare["ratio_normal"],
            "step_ms_memory": bare["ms_memory"],
            "step_ms_sqlite": bare["ms_sqlite"],
            "events_per_s_sqlite": bare["events_per_s"],
        }
        if called:
            figures["step_ratio_sqlite_with_call"] = called["ratio"]
            figures["step_ratio_sqlite_with_call_min_max"] = [called["ratio_min"], called["ratio_max"]]
        if url:
            figures["step_ratio_postgres"] = bare["ratio_postgres"]
            figures["step_ratio_postgres_min_max"] = [bare["ratio_postgres_min"], bare["ratio_postgres_max"]]
            figures["step_ms_postgres"] = bare["ms_postgres"]
            figures["events_per_s_postgres"] = bare["events_per_s_postgres"]
        if url and called:
            figures["step_ratio_postgres_with_call"] = called["ratio_postgres"]
        for name in ("fold", "list"):
            (home / name).mkdir()
        figures |= fold_figures(home / "fold") | list_figures(home / "list")
    return _rounded(figures) | {
        "conditions": {
            "rounds": rounds,
            "call_ms": call_ms,
            "loops": LOOPS,
            "steps": STEPS,
            "at_once": AT_ONCE,
            "cpus": os.cpu_count(),
            "load_1min": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "postgres": version or "none answered",
        }
    }


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [round(each, 3) for each in value] if isinstance(value, list) else round(value, 3)
        for name, value in figures.items()
    }


def main() -> None:
    """Measure and print, as a table or as one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved repetitions")
    parser.add_argument(
        "--call-ms", type=float, default=25.0, help="stand-in for an agent's call; 0 for none"
    )
    parser.add_argument(
        "--postgres",
        metavar="URL",
        default="postgresql:///test",
        help="a server to measure too, if it answers",
    )
    options = parser.parse_args()
    figures = measure(options.rounds, options.call_ms, options.postgres)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:<40} {json.dumps(value)}\n")


if __name__ == "__main__":
    main()
