"""A real Prometheus that scrapes a factory, and the totals that it should find, counted in the event log."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray_head import free_port

from cluster.event_log import open_reader
from cluster.store_settings import StoreSettings
from orchestrator.events import Kind

CONFIGS = Path(__file__).parents[1] / "configs/prometheus"

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (apt-get install prometheus)"
)

# As docs/howto/prometheus.md asks for exact totals; what is 0 is told, but not in the log's own count.
QUERIES = {
    "runs": "max by (status, reason) (ray_raysmith_log_runs) > 0",
    "attempts": "max(ray_raysmith_log_attempts)",
    "verdicts": "max by (certified) (ray_raysmith_log_verdicts)",
    "steps": 'sum(max by (role, outcome) (ray_raysmith_log_steps{outcome="completed"}))',
    "candidates": "max(ray_raysmith_log_candidates)",
}


def log_says(store: StoreSettings, home: Path) -> dict[str, dict[str, float]]:
    """What `QUERIES` should find, from the event log."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in QUERIES}
    with open_reader(store, home) as log:
        for run in log.runs(limit=None):
            counts["runs"][f"reason={run.reason},status={run.status}"] += 1
        for _, event in log.feed(0, 100_000):
            if event.type is Kind.ATTEMPT_STARTED:
                counts["attempts"][""] += 1
            if event.type is Kind.VERDICT_REACHED:
                is_certified = event.data["verdict"]["certified"]
                counts["verdicts"][f"certified={'yes' if is_certified else 'no'}"] += 1
            if event.type is Kind.STEP_COMPLETED:
                counts["steps"][""] += 1
            if event.type is Kind.RUN_FINISHED:
                counts["candidates"][""] += event.data["candidates"]
    return {name: {key: float(value) for key, value in each.items()} for name, each in counts.items()}


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs."""

    url: str

    def query(self, promql: str) -> dict[str, float]:
        """The values by their labels, `a=b,c=d`."""
        found = self.get("query?" + urllib.parse.urlencode({"query": promql}))["result"]
        return {
            ",".join(f"{key}={value}" for key, value in sorted(each["metric"].items())): float(
                each["value"][1]
            )
            for each in found
        }

    def totals(self) -> dict[str, dict[str, float]]:
        """What `QUERIES` find now."""
        return {name: self.query(promql) for name, promql in QUERIES.items()}

    def faults(self) -> dict[str, str]:
        """What it says of each target that it cannot read."""
        targets = self.get("targets")["activeTargets"]
        return {each["scrapeUrl"]: each["lastError"] for each in targets if each["health"] != "up"}

    def get(self, path: str) -> Any:
        """The data that its API answers with."""
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]


@contextlib.contextmanager
def prometheus(
    folder: Path, *, file: Path | None = None, dashboard: str = "", door: str = ""
) -> Iterator[Prometheus]:
    """Run one with the shipped configuration, on a cluster and on a door's `host:port`.

    The cluster is found by its discovery file, or by the URL of its dashboard.
    """
    config = yaml.safe_load((CONFIGS / "prometheus.yml").read_text())
    ray_job, door_job = config["scrape_configs"]
    # The shipped path is that of the newest cluster on a machine; others may run beside this test.
    if file:
        ray_job["file_sd_configs"][0]["files"] = [str(file)]
    else:
        del ray_job["file_sd_configs"]
        url = f"{dashboard}/api/prometheus/sd"
        ray_job["http_sd_configs"] = [{"url": url, "refresh_interval": "1s"}]
    door_job["static_configs"][0]["targets"] = [door]
    config["scrape_configs"] = [ray_job, door_job] if door else [ray_job]
    # Its patience with a target is as long as the interval, and a machine under tests is slow.
    config["global"] = {"scrape_interval": "3s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(CONFIGS / "rules.yml")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    words = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        made = Prometheus(f"http://{address}")
        until(lambda: made.get("status/buildinfo"))
        try:
            yield made
        finally:
            print("targets that Prometheus could not read:", made.faults())
    finally:
        process.terminate()
        process.wait(20)


def until(claim: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """The first true value of `claim`; who does not answer yet is asked again."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            if last := claim():
                return last
        except (OSError, urllib.error.URLError) as error:
            last = error
        time.sleep(0.5)
    raise AssertionError(f"it never came true; last: {last!r}")


def until_equal(one: Callable[[], object], other: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait until two sides say the same; the last difference is told."""
    deadline = time.monotonic() + timeout_s
    while (left := one()) != (right := other()):
        assert time.monotonic() < deadline, f"{left} != {right}"
        time.sleep(0.5)
