"""A graph with every kind of node on a real Ray whose processes are killed, or whose calls get lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graph_suite import TASK, TREE, Journal, run_too_late

from cluster.connect import start_actor
from cluster.event_log import open_reader
from cluster.factory import FactorySettings
from cluster.fleet import ReplicaGroup
from cluster.owner import read_owner
from cluster.store_settings import StoreSettings
from orchestrator.events import Kind, RunState, Status

pytestmark = [pytest.mark.ray, pytest.mark.slow]

GROUPS = (
    ReplicaGroup(name="runners", roles=("run",), min_replicas=3, max_replicas=3, num_cpus=0.1),
    ReplicaGroup(name="repairers", roles=("repair",), min_replicas=1, max_replicas=1, num_cpus=0.1),
)


@contextlib.contextmanager
def ray_with(**variables: str) -> Iterator[None]:
    """A Ray of its own whose workers find the agents."""
    before = dict(os.environ)
    tests = Path(__file__).parents[1]
    paths = [tests / "integration", tests, tests.parent]
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        **variables,
    }
    import ray

    try:
        ray.init(address="local", num_cpus=2, include_dashboard=False, namespace="kills", log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)


class House:
    """A factory, what it is asked, and what its agents told."""

    def __init__(self, home: Path, step_s: float) -> None:
        self.home, self.journal = home, Journal(home / "journal")
        self.settings = FactorySettings(
            home=str(home),
            namespace="kills",
            life="life",
            build="suite_agents:build",
            agents={"journal": str(self.journal.path), "step_s": step_s},
            groups=GROUPS,
        )
        self.factory = start_actor(self.settings)
        self.killed: set[int] = set()

    def ask(self, method: str, *arguments: Any) -> Any:
        """An answer of the factory, which may be away for a while."""
        import ray
        from ray.exceptions import RayActorError

        give_up = time.monotonic() + 60
        while True:
            try:
                return ray.get(getattr(self.factory, method).remote(*arguments), timeout=60)
            except RayActorError:
                assert time.monotonic() < give_up, "the factory did not come back"
                time.sleep(0.2)

    def pids(self, what: str) -> list[int]:
        import ray

        if what == "orchestrator":
            owner = read_owner(self.home)
            return [owner.pid] if owner else []
        scheduler = ray.get_actor("scheduler", "kills")
        if what == "scheduler":
            return [ray.get(scheduler.pid.remote(), timeout=60)]
        return [
            row["pid"] for row in ray.get(scheduler.status.remote(), timeout=60)["replicas"] if row["pid"]
        ]

    def kill(self, what: str, chance: random.Random) -> None:
        pids = [pid for pid in self.pids(what) if pid not in self.killed]
        if pids:
            pid = chance.choice(pids)
            self.killed.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def until_ended(self, run_ids: list[str], meanwhile: Any = None) -> dict[str, RunState]:
        """The runs' ends; every gate is approved as soon as it asks."""
        give_up = time.monotonic() + 240
        while True:
            states = {run_id: self.ask("state", run_id) for run_id in run_ids}
            if all(state.status is Status.SUCCEEDED for state in states.values()):
                return states
            assert time.monotonic() < give_up, {run: each.status for run, each in states.items()}
            for run_id, state in states.items():
                assert state.status is not Status.FAILED, (run_id, state.reason, state.report)
                for gate, asked in state.approvals.items():
                    if asked.approved is None:
                        self._approve(run_id, gate)
            if meanwhile is not None:
                meanwhile()
            time.sleep(0.1)

    def _approve(self, run_id: str, gate: str) -> None:
        from ray.exceptions import RayTaskError

        try:
            self.ask("decide", run_id, gate, True, gate, "")
        except RayTaskError as error:
            # Asked again after its answer was lost: it was decided, and the run may have ended since.
            assert self.ask("state", run_id).approvals[gate].approved, error

    def submitted(self, runs: int) -> list[str]:
        return [self.ask("submit", TASK, TREE, None, f"run-{number}") for number in range(runs)]

    def check(self, run_ids: list[str]) -> int:
        """Hold all runs to what is promised; how many steps of living replicas ran twice."""
        with open_reader(StoreSettings(), self.home) as reader:
            assert reader.check().problems == ()
            assert sorted(run.run_id for run in reader.runs()) == sorted(run_ids)
            ends = {run_id: self._ends(reader.events(run_id)) for run_id in run_ids}
        assert len({json.dumps(end, sort_keys=True) for end in ends.values()}) == 1
        began: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for word, run_id, *rest in self.journal.lines():
            if word == "began":
                began[run_id].append((rest[0], int(rest[1])))
        assert all(run_too_late(step for step, _ in each) == [] for each in began.values())
        return sum(self._twice(each) for each in began.values())

    def _ends(self, events: Any) -> dict[str, Any]:
        ended = [each for each in events if each.type is Kind.NODE_ENDED]
        assert len({each.step for each in ended}) == len(ended)
        kept = [each.data["patch"] for each in events if each.type is Kind.RUN_FINISHED]
        return {"nodes": {each.step: each.data["status"] for each in ended}, "patch": kept[-1]}

    def _twice(self, began: list[tuple[str, int]]) -> int:
        """Steps begun again although the process that had begun them lives and they had not failed."""
        failing = ("closed/", "flaky/")
        return sum(
            step in [other for other, _ in began[:number] if not other.startswith(failing)]
            and not {pid for other, pid in began[:number] if other == step} & self.killed
            for number, (step, _) in enumerate(began)
        )


def test_every_run_outlives_kills_of_whatever_works_on_it(tmp_path: Path) -> None:
    chance = random.Random(6)
    victims = ["orchestrator", "replica", "scheduler", "both", "replica", "orchestrator"]
    with ray_with():
        house = House(tmp_path, step_s=0.5)
        run_ids = house.submitted(4)
        next_at = time.monotonic() + 1.0

        def strike() -> None:
            nonlocal next_at
            if victims and time.monotonic() > next_at:
                victim = victims.pop(0)
                for what in ("scheduler", "orchestrator") if victim == "both" else (victim,):
                    house.kill(what, chance)
                next_at = time.monotonic() + chance.uniform(0.5, 1.5)

        house.until_ended(run_ids, strike)
        twice = house.check(run_ids)

    assert len(house.killed) >= 5, "the runs ended before they were struck"
    assert twice == 0


def test_lost_calls_and_lost_answers_cost_nothing_but_time(tmp_path: Path) -> None:
    lost = {
        "num_failures": 12,
        "req_failure_prob": 20,
        "resp_failure_prob": 20,
        "in_flight_failure_prob": 5,
    }
    config = json.dumps({"CoreWorkerService.grpc_client.PushTask": lost})
    with ray_with(RAY_testing_rpc_failure=config):
        house = House(tmp_path, step_s=0.05)
        run_ids = house.submitted(2)
        house.until_ended(run_ids)

        assert house.check(run_ids) == 0
