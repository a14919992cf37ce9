"""PostgreSQL as the store of a whole factory, by its commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_server import Door, PostgresServer, a_schema

from cluster.event_log import open_reader
from cluster.store_settings import StoreSettings
from orchestrator.events import Kind

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with a_schema() as server:
        yield server


def start(url: str, home: Path, *words: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAYSMITH_")}
    return subprocess.Popen(
        [sys.executable, "-m", "raysmith", *words],
        env=environment | {"RAYSMITH_HOME": str(home), "RAYSMITH_STORE__URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def raysmith(url: str, home: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the object printed, and all text."""
    process = start(url, home, *words, "--json")
    out, errors = process.communicate(timeout=240)
    return process.returncode, json.loads(out), out + errors


def write_batch(folder: Path, count: int) -> Path:
    lines = []
    for number in range(count):
        task = folder / f"task{number}"
        task.mkdir(parents=True)
        (task / "calc.py").write_text(f"def last(items):\n    return items[{number % 2}]\n")
        (task / "test_calc.py").write_text(
            "from calc import last\n\n\ndef test_last():\n    assert last([1, 2, 3]) == 3\n"
        )
        lines.append(json.dumps({"id": f"t{number}", "path": task.name}))
    batch = folder / "tasks.jsonl"
    batch.write_text("\n".join(lines))
    return batch


def test_a_factory_s_runs_are_in_the_database(server: PostgresServer, tmp_path: Path) -> None:
    url = server.url(password="hunter2")
    home = tmp_path / "home"
    batch = write_batch(tmp_path / "in", 3)

    code, told, text = raysmith(url, home, "batch", str(batch))
    listed = raysmith(url, tmp_path / "another", "list")[1]["runs"]
    shown = raysmith(url, home, "show", listed[0]["run_id"])
    examined = raysmith(url, home, "doctor")
    owner = "".join(path.read_text(errors="replace") for path in home.rglob("*") if path.is_file())

    assert (code, [line["status"] for line in told["results"]]) == (0, ["succeeded"] * 3)
    assert len(listed) == 3
    assert not (home / "events.db").exists()
    store = next(check for check in examined[1]["checks"] if check["name"] == "store")
    assert store["ok"] is True
    assert "PostgreSQL database" in store["found"]
    assert "3 runs" in store["found"]
    assert not any("hunter2" in each for each in (text, shown[2], examined[2], owner))


def test_a_second_home_does_not_write_beside_the_first(server: PostgresServer, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    package = write_batch(tmp_path / "in", 1).parent / "task0"
    raysmith(server.url(), first, "up")
    try:
        code, told, _ = raysmith(server.url(), second, "repair", str(package))
        at_home, _, _ = raysmith(server.url(), first, "repair", str(package))
    finally:
        raysmith(server.url(), first, "down")
    after, _, _ = raysmith(server.url(), second, "repair", str(package))

    assert code == 3
    assert told["error"]["code"] == "store_owned"
    assert "held by raysmith orchestrator" in told["error"]["message"]
    assert "RAY_ADDRESS" in told["error"]["next"]
    assert (at_home, after) == (0, 0)


def test_a_batch_outlives_restarts_of_its_database(server: PostgresServer, tmp_path: Path) -> None:
    door = Door(server.parameters["port"])
    home = tmp_path / "home"
    batch = start(server.url(port=door.port), home, "batch", str(write_batch(tmp_path / "in", 8)), "--json")
    settings = StoreSettings(url=server.url())

    def until(runs_finished: int) -> None:
        with open_reader(settings, home) as log:
            while sum(run.finished_at is not None for run in log.runs()) < runs_finished:
                assert batch.poll() is None, batch.communicate()
                time.sleep(0.1)

    for finished in (1, 3):
        until(finished)
        server.end_sessions()
        door.shut()
        time.sleep(1.5)
        door.open()
    out, errors = batch.communicate(timeout=240)
    door.shut()

    assert batch.returncode == 0, out + errors
    with open_reader(settings, home) as log:
        assert log.check().problems == ()
        assert len(log.runs()) == 8
        for run_id in log.run_ids():
            kinds = [event.type for event in log.events(run_id)]
            assert kinds.count(Kind.RUN_FINISHED) == 1


def test_a_database_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    url = "postgresql://raysmith:hunter2@127.0.0.1:1/raysmith"
    package = write_batch(tmp_path / "in", 1).parent / "task0"

    code, told, text = raysmith(url, tmp_path / "home", "repair", str(package))
    doctor = raysmith(url, tmp_path / "home", "doctor")

    assert code == 3
    assert told["error"]["code"] == "store"
    assert "PostgreSQL database raysmith at 127.0.0.1:1 cannot be reached" in told["error"]["message"]
    store = next(check for check in doctor[1]["checks"] if check["name"] == "store")
    assert (doctor[0], store["ok"]) == (3, False)
    assert "cannot be reached" in store["found"]
    assert "hunter2" not in text + doctor[2]
