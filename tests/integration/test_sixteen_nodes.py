"""configs/gke-l4.yaml and l4-small.yaml for real, on fake nodes with one GPU each and folders of their own.

Recorded engines stand in for the models; runners, sandboxes, scheduler and store are the real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_cluster import QUIET, FakeCluster, fake_cluster
from postgres_server import PostgresServer, a_schema

from cluster.event_log import open_reader
from cluster.store_settings import StoreSettings
from orchestrator.events import Event, Kind

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]

ROOT = Path(__file__).parents[2]
LOOPS, STORIES, NODES = 40, 4, 16
GOAL = (ROOT / "examples" / "add_story" / "goal.txt").read_text().strip()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    with fake_cluster() as fake:
        monkeypatch.setenv("RAY_TMPDIR", str(fake.folder))
        yield fake
        import ray

        ray.shutdown()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with a_schema() as server:
        yield server


@pytest.fixture
def store(server: PostgresServer, fake: FakeCluster) -> Iterator[dict[str, str]]:
    yield {
        "RAYSMITH_STORE__URL": server.url(),
        "RAYSMITH_STORE__ARTIFACTS": f"file://{fake.folder}/head/artifacts",
    }
    server.end_sessions()
    server.execute(f"DROP SCHEMA {server.schema} CASCADE; CREATE SCHEMA {server.schema}")


def raysmith(fake: FakeCluster, *words: str, **environ: str) -> subprocess.Popen[str]:
    """A command on the cluster's head; what it prints is read later."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAYSMITH_")}
    environment |= {"RAY_ADDRESS": fake.address, "RAYSMITH_HOME": str(fake.folder / "head" / "raysmith")}
    return subprocess.Popen(
        [sys.executable, "-m", "raysmith", *words],
        env=environment | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(command: subprocess.Popen[str], *, code: int = 0, timeout_s: float = 900.0) -> dict[str, Any]:
    """The object that the command prints."""
    try:
        out, errors = command.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        command.kill()
        raise
    assert command.returncode == code, out + errors
    assert out.startswith("{"), out[:2000] + errors[:2000]
    answer: dict[str, Any] = json.loads(out)
    return answer


def write_batch(folder: Path, loops: int, stories: int) -> Path:
    """Small packages with a bug, and goals whose code and tests are recorded."""
    lines: list[dict[str, Any]] = []
    for number in range(loops - stories):
        task = folder / f"task{number:02}"
        task.mkdir(parents=True)
        (task / "calc.py").write_text(
            f"def total(numbers):\n    result = {number % 3 + 1}\n"
            "    for number in numbers:\n        result += number\n    return result\n"
        )
        (task / "test_calc.py").write_text(
            "from calc import total\n\n\n"
            f"def test_total():\n    assert total([1, {number}]) == {1 + number}\n"
        )
        lines.append({"id": f"l{number:02}", "path": task.name})
    lines += [{"id": f"story{number}", "goal": GOAL} for number in range(stories)]
    batch = folder / "tasks.jsonl"
    batch.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return batch


def scheduler_status() -> dict[str, Any]:
    """What the fleet's scheduler says, empty while there is none."""
    import ray

    try:
        handle = ray.get_actor("scheduler", namespace="raysmith")
        status: dict[str, Any] = ray.get(handle.status.remote(), timeout=30)
    except (ValueError, ray.exceptions.RayError):
        return {}
    return status


def until(claim: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := claim()):
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.1)
    return found


def models(status: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in status.get("replicas", ()) if row["group"] == "models"]


def events_of(settings: StoreSettings) -> dict[str, list[Event]]:
    with open_reader(settings, Path("/nowhere")) as log:
        assert log.check().problems == ()
        return {run_id: log.events(run_id) for run_id in log.run_ids()}


def test_forty_loops_spread_over_sixteen_nodes_and_outlive_one(
    fake: FakeCluster, store: dict[str, str], tmp_path: Path
) -> None:
    import ray

    figures: dict[str, object] = {}
    began = time.monotonic()
    for number in range(NODES):
        fake.add_l4(f"l4-{number:02}")
    for number in range(4):
        fake.add_runner(f"runner-{number}")
    figures["nodes_up_s"] = round(time.monotonic() - began, 1)
    batch = write_batch(tmp_path / "in", LOOPS, STORIES)
    ray.init(fake.address, namespace="raysmith", log_to_driver=False, logging_level="ERROR")

    began = time.monotonic()
    command = raysmith(
        fake,
        *("batch", str(batch), "--json", "--config", str(ROOT / "configs" / "gke-l4.yaml")),
        *("--model", "recorded:add_story", "--set", f"fleet.0.min_replicas={NODES}"),
        **store,
    )
    samples: list[list[dict[str, Any]]] = []

    def sampled() -> dict[str, Any]:
        assert command.poll() is None, command.communicate()
        status = scheduler_status()
        samples.append(models(status))
        return status

    def all_up() -> dict[str, Any]:
        status = sampled()
        ready = [row for row in status.get("replicas", ()) if row["state"] in ("idle", "busy")]
        return status if len(ready) == NODES + 4 else {}

    before = until(all_up, 240, "sixteen model replicas and four runners")
    figures["replicas_up_s"] = round(time.monotonic() - began, 1)
    busy = until(
        lambda: [row for row in models(sampled()) if row["in_flight"]] if len(samples) > 20 else [],
        120,
        "a replica at work",
    )
    victim = busy[0]
    fake.kill(fake.name_of(victim["node"]))
    killed = time.monotonic()
    lost = until(
        lambda: (
            victim["name"] not in {row["name"] for row in models(scheduler_status())} and time.monotonic()
        ),
        30,
        "the lost replica is noticed",
    )
    figures["loss_noticed_s"] = round(lost - killed, 1)
    pending = until(
        lambda: [row for row in models(scheduler_status()) if row["state"].startswith("pending")],
        30,
        "the seventeenth replica waits for a node",
    )

    answer = told(command)
    figures["batch_s"] = round(time.monotonic() - began, 1)

    histories = events_of(StoreSettings(url=store["RAYSMITH_STORE__URL"]))
    every = [event for events in histories.values() for event in events]
    worked = Counter(e.data["replica"] for e in every if e.type is Kind.STEP_DISPATCHED)
    by_models = {name: count for name, count in worked.items() if not name.startswith("run-")}
    requeued = {(e.run_id, e.step): e.epoch for e in every if e.type is Kind.STEP_REQUEUED}
    figures["most_on_one_model"] = max(row["in_flight"] for sample in samples for row in sample)
    figures["steps_by_model"] = sorted(by_models.values())
    figures["requeued"] = len(requeued)
    # Shown by `pytest -s`.
    print(json.dumps(figures))

    # All finished, none lost, none done twice; what the dead node had went to others.
    assert Counter(line["status"] for line in answer["results"]) == {"succeeded": LOOPS}
    assert len(histories) == LOOPS
    finished = Counter(event.run_id for event in every if event.type is Kind.RUN_FINISHED)
    assert set(finished.values()) == {1}
    completed = Counter((e.run_id, e.step, e.attempt) for e in every if e.type is Kind.STEP_COMPLETED)
    assert set(completed.values()) == {1}
    had = {(work["run_id"], work["step"]) for work in victim["work"]}
    assert had
    assert had <= requeued.keys()
    assert all(epoch >= 2 for epoch in requeued.values())
    assert "pending: 1 GPU needed, 0 GPU free" in pending[0]["state"]

    # Spread: one replica to a node, none beside another, and all of them at work in turn.
    nodes = Counter(fake.name_of(row["node"]) for row in models(before))
    assert nodes == {f"l4-{number:02}": 1 for number in range(NODES)}
    runners = [row for row in before["replicas"] if row["group"] == "runners"]
    assert sorted(fake.name_of(row["node"]) for row in runners) == [f"runner-{n}" for n in range(4)]
    assert len(by_models) >= NODES - 2
    assert max(by_models.values()) <= 3 * sum(by_models.values()) / NODES
    assert all(row["in_flight"] <= row["max_in_flight"] for sample in samples for row in sample)
    where = {actor: fake.name_of(_node_of(actor)) for actor in ("orchestrator", "scheduler")}
    assert where == {"orchestrator": "head", "scheduler": "control"}

    # Nothing leaned on a shared disk: state is in the database, and in the head's folder alone.
    for name in fake.nodes:
        kept = {path.name for path in (fake.folder / name).rglob("*") if path.is_file()}
        assert "events.db" not in kept
        assert name == "head" or not any(file.startswith("owner.") for file in kept), name
        assert name == "head" or not (fake.folder / name / "artifacts").exists()


def _node_of(actor: str) -> str:
    import ray

    handle = ray.get_actor(actor, namespace="raysmith")
    found = ray._private.state.actors(handle._actor_id.hex())
    return str(found["Address"]["NodeID"])


def test_the_small_fleet_works_on_what_is_there_and_names_what_is_not(
    fake: FakeCluster, store: dict[str, str], tmp_path: Path
) -> None:
    small = ("--config", str(ROOT / "configs" / "l4-small.yaml"), "--set", "model=recorded:add_story")
    up = told(raysmith(fake, "up", "--json", *small, **store))

    def states() -> dict[str, str]:
        status = told(raysmith(fake, "status", "--json", *small, **store))
        return {row["name"]: row["state"] for row in status["fleet"]["replicas"]}

    assert up["joined"] is False
    assert states() == {
        "code-01": "pending: no node with label ray.io/accelerator-type=L4",
        "run-01": "pending: no node with label raysmith.io/pool=runners",
        "run-02": "pending: no node with label raysmith.io/pool=runners",
    }

    fake.add_l4("l4-00")
    fake.add_runner("runner-0")
    fake.add_runner("runner-1")
    done = told(raysmith(fake, "batch", str(write_batch(tmp_path / "one", 4, 1)), "--json", *small, **store))
    assert Counter(line["status"] for line in done["results"]) == {"succeeded": 4}
    assert set(states().values()) == {"idle"}

    fake.add_l4("l4-01")
    many = write_batch(tmp_path / "two", 12, 0)
    batch = raysmith(fake, "batch", str(many), "--json", "--out", str(tmp_path / "out"), *small, **store)
    assert Counter(line["status"] for line in told(batch)["results"]) == {"succeeded": 12}
    assert told(raysmith(fake, "down", "--json", *small, **store)) == {"stopped": True}


def test_a_store_on_one_node_s_disk_is_refused_setting_by_setting(
    fake: FakeCluster, store: dict[str, str], tmp_path: Path
) -> None:
    batch = write_batch(tmp_path / "in", 1, 0)

    both = told(raysmith(fake, "batch", str(batch), "--json"), code=3)["error"]
    artifacts = told(
        raysmith(fake, "batch", str(batch), "--json", RAYSMITH_STORE__URL=store["RAYSMITH_STORE__URL"]),
        code=3,
    )["error"]

    assert "this cluster has 2 nodes" in both["message"]
    assert "`store.url`" in both["message"]
    assert "`store.artifacts`" in both["message"]
    assert "postgresql://" in both["next"]
    assert "`store.url`" not in artifacts["message"] + artifacts["next"]
    assert "`store.artifacts` to a URL such as gs://" in artifacts["next"]
