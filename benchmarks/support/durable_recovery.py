"""kill -9 of the orchestrator with many runs open: how long until its next life has a step done, and all."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from durable_fleet import BUILD, GROUPS, LOOPS, REPLICAS, TREE, chain

from cluster.connect import start_actor
from cluster.event_log import EventReader, open_reader
from cluster.factory import FactorySettings
from cluster.orchestrator_settings import OrchestratorSettings
from cluster.owner import read_owner
from cluster.store_settings import StoreSettings
from orchestrator.events import Event, Kind, Status

STEP_S = 1.0
PATIENCE_S = 300.0


def recovery_figures(home: Path) -> dict[str, float]:
    """Open all runs, kill their orchestrator once each has begun, and wait for what its next life does."""
    import ray

    journal = home / "journal"
    settings = FactorySettings(
        home=str(home),
        namespace="recovery",
        life="life",
        build=BUILD,
        agents={"step_s": STEP_S, "journal": str(journal)},
        groups=GROUPS,
        orchestrator=OrchestratorSettings(max_active_runs=LOOPS),
    )
    factory = start_actor(settings)
    _until_up(factory)
    for number in range(LOOPS):
        task = replace(chain(), id=f"loop-{number}")
        ray.get(factory.submit.remote(task, TREE, None, None))
    owner = read_owner(home)
    assert owner is not None
    with open_reader(StoreSettings(), home) as reader:
        # Every run is open and has been taken on when it happens.
        _until(lambda: reader.count(status=[Status.RUNNING]) == LOOPS)
        os.kill(owner.pid, signal.SIGKILL)
        killed = time.perf_counter()
        time.sleep(0.05)  # what was being committed is there by then
        end = reader.end()
        open_runs = reader.count(status=[Status.RUNNING])
        _until(lambda: bool(_steps(reader, end)))
        first_s = time.perf_counter() - killed
        _until(lambda: reader.count(status=[Status.SUCCEEDED]) == LOOPS)
        all_s = time.perf_counter() - killed
    ray.kill(factory)
    began = Counter(journal.read_text().splitlines())
    return {
        "recovery_first_step_s": first_s,
        "recovery_all_s": all_s,
        "recovery_open_runs": open_runs,
        "recovery_steps_run_twice": sum(times > 1 for times in began.values()),
    }


def _until_up(factory: Any) -> None:
    import ray

    def is_up() -> bool:
        rows = ray.get(factory.status.remote())["fleet"]["replicas"]
        return sum(row["state"] == "idle" for row in rows) == REPLICAS

    _until(is_up)


def _until(happened: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not happened():
        if time.monotonic() > give_up:
            raise TimeoutError("the benchmark's runs do not get on")
        time.sleep(0.02)


def _steps(reader: EventReader, after: int) -> list[tuple[int, Event]]:
    """What has been told of steps behind that position."""
    found: list[tuple[int, Event]] = []
    while page := reader.feed(after):
        found += [each for each in page if each[1].type in (Kind.STEP_DISPATCHED, Kind.STEP_COMPLETED)]
        after = page[-1][0]
    return found
