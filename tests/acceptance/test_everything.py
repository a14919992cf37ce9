"""PostgreSQL, Ray, Serve, a job, Slack and Prometheus at once; the orchestrator is killed in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from http_door import Door, served, tar_gz
from postgres_server import a_schema
from prometheus_server import Prometheus, log_says, needs_prometheus, prometheus, until, until_equal
from ray_head import BIN, Head, alive, checkout, ray_head
from slack_stand_in import CHANNEL, TOKEN, SlackStandIn

from cluster.event_log import open_reader
from cluster.store_settings import StoreSettings
from orchestrator.events import Kind

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox, needs_prometheus]

JOB = ("--", "python", "-m", "raysmith", "batch", "tasks.jsonl")
TEST = "from scores import best\n\n\ndef test_best():\n    assert (best([3, 9, 4]), best([2])) == (9, 2)\n"
RIGHT = "def best(scores):\n    return max(scores)\n"
WRONG = (
    "def best(scores):\n    return min(scores)\n",
    "def best(scores):\n    return scores[-1]\n",
    "def best(scores):\n    return sorted(scores)[0]\n",
)


@dataclass(frozen=True, slots=True)
class Everything:
    """All that runs; `store` is how a reader reaches the event log."""

    head: Head
    door: Door
    slack: SlackStandIn
    prometheus: Prometheus
    store: StoreSettings

    def totals(self) -> Counter[str]:
        """Runs by `status: reason`, from the event log."""
        with open_reader(self.store, self.head.home) as log:
            return Counter(f"{run.status}: {run.reason}" for run in log.runs(limit=None))

    def finished(self) -> int:
        with open_reader(self.store, self.head.home) as log:
            return sum(run.finished_at is not None for run in log.runs(limit=None))

    def totals_of_the_api(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        page: str | None = "/runs?limit=10"
        with self.door.client() as client:
            while page:
                told = client.get(page).json()
                counts.update(f"{run['status']}: {run['reason']}" for run in told["runs"])
                page = told["next"]
        return counts

    def totals_of_prometheus(self) -> Counter[str]:
        found = self.prometheus.totals()["runs"]
        parts = {labels: dict(part.split("=") for part in labels.split(",")) for labels in found}
        return Counter(
            {f"{parts[each]['status']}: {parts[each]['reason']}": int(n) for each, n in found.items()}
        )

    def totals_of_slack(self) -> Counter[str]:
        ended = re.compile(r"· (succeeded|failed|cancelled): (\S+)\n")
        roots = [root.text for root in self.slack.roots if root.key.endswith(":run:root")]
        return Counter(": ".join(found.groups()) for root in roots if (found := ended.search(root)))

    def batches_in_slack(self) -> list[str]:
        roots = [root.text for root in self.slack.roots if ":batch:" in root.key]
        return sorted(re.findall(r"\d+ of \d+ runs(?= finished)", " ".join(roots)))


@pytest.fixture
def everything(tmp_path: Path) -> Iterator[Everything]:
    with contextlib.ExitStack() as stack:
        slack = stack.enter_context(SlackStandIn())
        server = stack.enter_context(a_schema())
        settings = {
            "RAYSMITH_STORE__URL": server.url(),
            "RAYSMITH_SLACK__TOKEN": TOKEN,
            "RAYSMITH_SLACK__CHANNEL": CHANNEL,
            "RAYSMITH_SLACK__BASE_URL": slack.base_url,
            # Ray exports every 10 s; a test has less patience.
            "RAY_metrics_report_interval_ms": "1000",
        }
        head = stack.enter_context(ray_head(num_cpus=4, **settings))
        door = stack.enter_context(
            served(tmp_path, RAY_ADDRESS=head.address, **settings | {"RAYSMITH_HOME": str(head.home)})
        )
        discovery = head.folder / "ray/session_latest/prom_metrics_service_discovery.json"
        seen = stack.enter_context(
            prometheus(tmp_path, file=discovery, door=door.url.removeprefix("http://"))
        )
        yield Everything(head, door, slack, seen, StoreSettings(url=server.url()))


def submit(door: Door, number: int, code: str, graph: str) -> None:
    """Hand one package over, as a patient client: the same key until it is accepted."""
    files = {"scores.py": code, "test_scores.py": TEST}
    inputs = json.dumps({"batch": "by-http", "batch_size": 20})
    while True:
        with door.client(headers={"Idempotency-Key": f"n{number}"}) as client:
            answer = client.post(
                "/runs",
                files={"archive": ("a.tgz", tar_gz(files))},
                data={"graph": graph, "name": f"http-{number}", "inputs": inputs},
            )
        if answer.status_code == 202:
            return
        assert answer.status_code == 503, answer.text
        time.sleep(float(answer.headers["Retry-After"]))


def start_job(head: Head, folder: Path, tasks: Mapping[str, str]) -> subprocess.Popen[str]:
    """`ray job submit` of a batch, from a checkout."""
    checkout(folder)
    lines = []
    for name, code in tasks.items():
        (folder / name).mkdir()
        (folder / name / "scores.py").write_text(code)
        (folder / name / "test_scores.py").write_text(TEST)
        lines.append(json.dumps({"id": name, "path": name}))
    (folder / "tasks.jsonl").write_text("\n".join(lines))
    return subprocess.Popen(
        [BIN / "ray", "job", "submit", "--address", head.dashboard, "--working-dir", ".", *JOB],
        env=head.outside(),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_log_api_prometheus_and_slack_tell_the_same_after_a_killed_orchestrator(
    everything: Everything, tmp_path: Path
) -> None:
    for number in range(20):
        # Of every five three are repaired, one is only tested, and one is red and only tested.
        code = (*WRONG, RIGHT, WRONG[0])[number % 5]
        submit(everything.door, number, code, "test" if number % 5 > 2 else "repair")
    job = start_job(everything.head, tmp_path / "checkout", {f"job-{n}": WRONG[n % 3] for n in range(5)})
    until(lambda: everything.finished() >= 5, 120)
    killed = alive(everything.head)["orchestrator"]
    os.kill(killed, signal.SIGKILL)
    at_the_kill = everything.finished()

    told, _ = job.communicate(timeout=240)
    until(lambda: everything.finished() == 25, 240)

    assert at_the_kill < 20
    assert job.returncode == 0, told
    assert "5 of 5 tasks succeeded" in told
    assert alive(everything.head)["orchestrator"] != killed
    totals = everything.totals()
    assert totals["succeeded: certified"] == 12 + 4 + 5
    assert sum(totals[word] for word in totals if word.startswith("failed")) == 4
    until_equal(everything.totals_of_the_api, lambda: totals)
    until_equal(everything.totals_of_prometheus, lambda: totals)
    until_equal(everything.prometheus.totals, lambda: log_says(everything.store, everything.head.home))
    until_equal(everything.totals_of_slack, lambda: totals)
    until_equal(everything.batches_in_slack, lambda: ["20 of 20 runs", "5 of 5 runs"])
    keys = Counter(message.key for message in everything.slack.messages)
    assert [key for key, count in keys.items() if count > 1] == []
    accepted = 'sum(raysmith_http_requests_total{route=~".*/runs",method="POST",code="202"})'
    until_equal(lambda: everything.prometheus.query(accepted), lambda: {"": 20.0})
    with open_reader(everything.store, everything.head.home) as log:
        assert log.check().problems == ()
        for run_id in log.run_ids():
            assert [event.type for event in log.events(run_id)].count(Kind.RUN_FINISHED) == 1
