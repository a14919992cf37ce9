"""A real Prometheus scrapes a running factory and finds a batch's numbers, also over a restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_server import QUERIES, Prometheus, log_says, needs_prometheus, prometheus, until, until_equal

from cluster.event_log import open_reader
from cluster.store_settings import StoreSettings
from orchestrator.steps import Role

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox, needs_prometheus]

GREEN = "from calculator import add\n\ndef test_add():\n    assert add(1, 2) == 3\n"
FILES = {
    "green": ("def add(a, b):\n    return a + b\n", GREEN),
    "red": ("def add(a, b):\n    return a - b\n", GREEN),
}


class Factory:
    """A factory that `raysmith up` started, and its Prometheus."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "RAYSMITH_HOME": str(self.home),
            "RAY_AUTH_MODE": "disabled",
            # Ray exports every 10 s; a test has less patience.
            "RAY_metrics_report_interval_ms": "1000",
        }
        self.prometheus: Prometheus

    def raysmith(self, *words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "raysmith", *words, "--json"],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.stdout.count("\n") == 1, done.stdout + done.stderr
        told = json.loads(done.stdout)
        assert "code" not in (told.get("error") or {}), done.stdout + done.stderr
        return told

    def batch(self, name: str, *graphs: str) -> list[dict[str, Any]]:
        """Run a package that is repaired, and `graphs` on one that is green."""
        for kind, (code, test) in FILES.items():
            made = self.folder / kind
            made.mkdir(exist_ok=True)
            (made / "calculator.py").write_text(code)
            (made / "test_add.py").write_text(test)
        lines = [{"id": f"{name}-red", "path": "red"}]
        lines += [
            {"id": f"{name}-{number}", "path": "green", "graph": graph} for number, graph in enumerate(graphs)
        ]
        file = self.folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return list(self.raysmith("batch", str(file))["results"])

    def query(self, promql: str) -> dict[str, float]:
        return self.prometheus.query(promql)


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    made = Factory(tmp_path_factory.mktemp("prometheus"))
    up = made.raysmith("up")
    try:
        with prometheus(made.folder, dashboard=up["dashboard"]) as made.prometheus:
            yield made
    finally:
        made.raysmith("down")


def _agree(factory: Factory) -> None:
    until_equal(factory.prometheus.totals, lambda: log_says(StoreSettings(), factory.home))


def test_prometheus_finds_a_batch_s_numbers(factory: Factory) -> None:
    results = factory.batch("first", "test", "test")
    assert [result["status"] for result in results] == ["succeeded"] * 3

    _agree(factory)

    assert factory.query(QUERIES["runs"]) == {"reason=certified,status=succeeded": 3.0}
    assert factory.query("sum(ray_raysmith_runs_submitted_total)") == {"": 3.0}
    assert factory.query("sum(ray_raysmith_runs_finished_total)") == {"": 3.0}
    assert factory.query("sum(ray_raysmith_run_duration_seconds_count)") == {"": 3.0}
    assert factory.query("sum(ray_raysmith_candidates_total)") == {
        "": float(sum(result["candidates"] for result in results if "candidates" in result))
    }
    idle = 'sum by (group) (ray_raysmith_replicas{state="idle",group="runners"})'
    until(lambda: factory.query(idle) == {"group=runners": 2.0})
    assert set(factory.query("sum by (role) (ray_raysmith_queue_length)").values()) == {0.0}
    assert factory.query("count by (role) (ray_raysmith_leases)").keys() == {f"role={role}" for role in Role}


def test_no_series_carries_a_run_a_task_or_a_replica(factory: Factory) -> None:
    until(lambda: factory.query("ray_raysmith_log_runs"))

    series = " ".join(factory.query('{__name__=~"ray_raysmith_.*"}'))

    with open_reader(StoreSettings(), factory.home) as log:
        assert not any(run.run_id in series for run in log.runs(limit=None))
    assert "first-red" not in series
    assert "runners-" not in series
    assert "run-01" not in series


def test_after_a_killed_orchestrator_the_totals_are_exact_and_the_counters_go_on(factory: Factory) -> None:
    killed = json.loads((factory.home / "owner.json").read_text())
    os.kill(killed["pid"], signal.SIGKILL)

    results = factory.batch("second", "test")

    assert [result["status"] for result in results] == ["succeeded"] * 2
    # The command waited for the killed one to come back instead of starting a factory beside it.
    owner = json.loads((factory.home / "owner.json").read_text())
    assert owner["pid"] != killed["pid"]
    assert owner["address"] == killed["address"]
    _agree(factory)
    assert factory.query(QUERIES["runs"]) == {"reason=certified,status=succeeded": 5.0}
    # The dead process's series stay, so sums go on where they were.
    assert factory.query("sum(ray_raysmith_runs_submitted_total)") == {"": 5.0}


def test_the_rules_are_evaluated_and_quiet(factory: Factory) -> None:
    rules = factory.prometheus.get("rules")["groups"][0]["rules"]

    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert [rule["name"] for rule in rules if rule["type"] == "alerting" and rule["state"] == "firing"] == []
    none = {"__name__=raysmith:runs_unfinished": 0.0}
    until(lambda: factory.query("raysmith:runs_unfinished") == none)
