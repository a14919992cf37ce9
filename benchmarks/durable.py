"""What durability costs: a step of a run with its log on disk against the same step with a log in memory.

Three parts, all in one run:

- the canonical loop on a real fleet: 200 runs of four steps, 20 at a time on 20 replicas, 4 KB there and
  back, through orchestrator, scheduler and Ray; the log in memory, on SQLite at FULL and on PostgreSQL in
  turn. With LangGraph or DBOS installed (the extra `peers`) their loops are measured too, without a fleet;
- kill -9 of an orchestrator with 200 open runs: until its next life has a step, and until all are done;
- the log alone: two commits a step, the fold of 100,000 events, the list of 10,000 runs.

PostgreSQL takes part where `--postgres URL` answers, in a schema of its own that is dropped at the end.

    python benchmarks/durable.py --json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "support"))

import durable_fleet as fleet
import durable_peers as peers
from durable_recovery import recovery_figures
from durable_store import fold_figures, list_figures, log_figures, schema_on


def step_figures(home: Path, rounds: int, loops: int, postgres: str) -> dict[str, Any]:
    """Medians over the rounds of the canonical loop on the fleet; a ratio is taken within each round."""
    import ray

    host = ray.remote(fleet.Host).options(num_cpus=0, max_concurrency=10).remote()
    ray.get(host.start.remote(str(home)))
    stores = {"memory": "memory", "sqlite": "FULL", **({"postgres": postgres} if postgres else {})}
    names = list(stores)
    took: dict[str, list[float]] = {name: [] for name in names}
    ray.get(host.loops.remote("memory", "warm", fleet.REPLICAS))
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            took[name].append(ray.get(host.loops.remote(stores[name], f"{name}-{number}", loops)))
    ray.get(host.stop.remote())
    ray.kill(host)
    figures: dict[str, Any] = {}
    for name in names[1:]:
        ratios = [one / other for one, other in zip(took[name], took["memory"], strict=True)]
        figures[f"step_ratio_{name}"] = statistics.median(ratios)
        figures[f"step_ratio_{name}_min_max"] = [min(ratios), max(ratios)]
    for name in names:
        figures[f"step_ms_{name}"] = statistics.median(took[name]) * 1000 / (loops * fleet.STEPS)
    return figures


def bare_figures(home: Path, rounds: int, postgres: str) -> dict[str, Any]:
    """The log alone."""
    found = log_figures(home, rounds, 0, postgres)
    figures: dict[str, Any] = {
        "log_ratio_sqlite": found["ratio"],
        "log_ratio_sqlite_min_max": [found["ratio_min"], found["ratio_max"]],
        "log_ms_memory": found["ms_memory"],
        "log_ms_sqlite": found["ms_sqlite"],
        "events_per_s_sqlite": found["events_per_s"],
    }
    if postgres:
        figures["log_ratio_postgres"] = found["ratio_postgres"]
        figures["log_ms_postgres"] = found["ms_postgres"]
        figures["events_per_s_postgres"] = found["events_per_s_postgres"]
    for name in ("fold", "list"):
        (home / name).mkdir()
    return figures | fold_figures(home / "fold") | list_figures(home / "list")


def measure(rounds: int, loops: int, postgres: str) -> dict[str, Any]:
    """All figures, with what they were measured on."""
    os.environ |= fleet.environment()
    import ray

    with (
        tempfile.TemporaryDirectory(prefix="raysmith-durable-", ignore_cleanup_errors=True) as folder,
        schema_on(postgres) as (url, version),
    ):
        for part in ("steps", "recovery", "bare", "peers"):
            (Path(folder) / part).mkdir()
        before = os.getloadavg()[0]
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            namespace="bench",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            figures = step_figures(Path(folder) / "steps", rounds, loops, url)
            figures |= recovery_figures(Path(folder) / "recovery")
        finally:
            ray.shutdown()
        figures |= bare_figures(Path(folder) / "bare", rounds, url)
        figures |= peers.peer_figures(Path(folder) / "peers")
        after = os.getloadavg()[0]
    return _rounded(figures) | {
        "conditions": {
            "rounds": rounds,
            "loops": loops,
            "steps": fleet.STEPS,
            "replicas": fleet.REPLICAS,
            "cpus": os.cpu_count(),
            "load_1min_before_after": [round(before, 2), round(after, 2)],
            "python": platform.python_version(),
            "ray": ray.__version__,
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
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repetitions")
    parser.add_argument("--loops", type=int, default=fleet.LOOPS, help="runs of a round")
    parser.add_argument(
        "--postgres",
        metavar="URL",
        default="postgresql:///test",
        help="a server to measure too, if it answers",
    )
    options = parser.parse_args()
    # Ray prints what it warns of; standard output is for the figures.
    with contextlib.redirect_stdout(sys.stderr):
        figures = measure(options.rounds, options.loops, options.postgres)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:<40} {json.dumps(value)}\n")


if __name__ == "__main__":
    main()
