"""The log alone, without a fleet: what a step's two commits cost, a fold, a list."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
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


def log_figures(home: Path, rounds: int, call_ms: float, postgres: str) -> dict[str, float]:
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
