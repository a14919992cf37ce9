"""The canonical loop on a real fleet: a chain of four steps, each a call with 4 KB there and back."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import structlog

from cluster.artifacts import ArtifactStore
from cluster.event_log import open_log
from cluster.event_log_memory import MemoryEventLog
from cluster.fleet import ReplicaGroup
from cluster.handles import FleetClient
from cluster.orchestrator import Orchestrator
from cluster.orchestrator_settings import OrchestratorSettings
from cluster.store_settings import StoreSettings
from orchestrator.steps import Profiled
from orchestrator.task import Task
from orchestrator.tree import File, Tree
from orchestrator.verdict import Outcome, TestCase, TestProfile, TestRun

LOOPS, STEPS, REPLICAS, RESULT_BYTES = 200, 4, 20, 4096
GROUPS = (
    ReplicaGroup(name="agents", roles=("run",), min_replicas=REPLICAS, max_replicas=REPLICAS, num_cpus=0.0),
)
BUILD = "durable_fleet:build"
TREE = Tree(files={"a.py": File(content=b"#" * RESULT_BYTES)})
_PASSED = {"test_a.py::test_a": Outcome.PASSED}


def chain() -> Task:
    """A task whose graph is four steps, each after the one before."""
    node = {"kind": "agent", "role": "run", "work": "profile"}
    nodes = {f"s{n}": {**node, "needs": [f"s{n - 1}"] if n else []} for n in range(STEPS)}
    return Task(id="loop", graph="chain", declaration={"name": "chain", "nodes": nodes, "result": ["s3"]})


class Agent:
    """Answers at once, or after `step_s`, with another 4 KB each time; tells `journal` what it began."""

    def __init__(self, step_s: float, journal: str) -> None:
        self._step_s, self._journal = step_s, journal

    async def profile(self, _request: Any) -> Profiled:
        """Stand in for a test run."""
        if self._journal:
            about = structlog.contextvars.get_contextvars()
            with Path(self._journal).open("a") as journal:  # noqa: ASYNC230  # one short line
                journal.write(f"{about['run']}/{about['step']}\n")
        if self._step_s:
            await asyncio.sleep(self._step_s)
        case = TestCase(id="test_a.py::test_a", outcome=Outcome.PASSED, detail=os.urandom(2048).hex())
        run = TestRun(cases=(case,), collected=(case.id,), complete=True, exit_code=0)
        return Profiled(profile=TestProfile(expected=_PASSED), run=run)


def build(roles: list[str], config: dict[str, Any]) -> dict[str, Any]:
    """The agents of a replica."""
    return dict.fromkeys(roles, Agent(config.get("step_s", 0.0), config.get("journal", "")))


class Host:
    """An orchestrator's process; every round has a log of its own on the same fleet."""

    async def start(self, home: str) -> None:
        """Start the fleet and wait until all of it is up."""
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
        self._home = Path(home)
        self._fleet = await FleetClient.start(groups=GROUPS, build=BUILD, config={}, namespace="bench")
        while not await self._is_up():  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """End the fleet."""
        await self._fleet.stop()

    async def _is_up(self) -> bool:
        rows = (await self._fleet.status())["replicas"]
        return sum(row["state"] == "idle" for row in rows) == REPLICAS

    async def loops(self, store: str, name: str, loops: int = LOOPS) -> float:
        """Run all loops on a log; wall seconds.

        Args:
            store: `memory`, `FULL` or `NORMAL` for SQLite, else the URL of a PostgreSQL database.
        """
        home = self._home / name
        home.mkdir()
        log: Any = MemoryEventLog() if store == "memory" else open_log(_settings(store), home)
        orchestrator = Orchestrator(
            event_log=log,
            artifacts=ArtifactStore(str(home / "artifacts")),
            fleet=self._fleet,
            settings=OrchestratorSettings(max_active_runs=REPLICAS),
            life=name,
        )
        started = time.perf_counter()
        runs = [await orchestrator.submit(chain(), TREE) for _ in range(loops)]
        left = set(runs)
        while left:
            ended = await orchestrator.wait(left, 60.0)
            assert all(state.status == "succeeded" for state in ended.values())
            left -= ended.keys()
        took = time.perf_counter() - started
        log.close()
        return took


def _settings(store: str) -> StoreSettings:
    if store in ("FULL", "NORMAL"):
        return StoreSettings(synchronous=store)  # type: ignore[arg-type]
    return StoreSettings(url=store)


def environment() -> dict[str, str]:
    """What Ray's workers need to find this module."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
