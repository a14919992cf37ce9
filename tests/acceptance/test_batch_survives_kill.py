"""A batch outlives kill -9 of its driver: the same command finishes it and redoes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]

TASKS = 20
TESTS = """
from calc import total, last


def test_total():
    assert total([1, 2, {n}]) == {sum}


def test_last():
    assert last([1, {n}]) == {n}
"""
CODE = """
def total(numbers):
    result = {wrong}
    for number in numbers:
        result += number
    return result


def last(items):
    return items[-1]
"""


def write_batch(folder: Path) -> Path:
    lines = []
    for number in range(TASKS):
        task = folder / f"task{number:02}"
        task.mkdir(parents=True)
        (task / "calc.py").write_text(CODE.format(wrong=number % 3 + 1))
        (task / "test_calc.py").write_text(TESTS.format(n=number, sum=3 + number))
        lines.append(json.dumps({"id": f"t{number:02}", "path": task.name}))
    batch = folder / "tasks.jsonl"
    batch.write_text("\n".join(lines) + "\n")
    return batch


def command(batch: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "raysmith", "batch", str(batch), "--out", str(out), "--json"]


def results(out: Path) -> list[dict[str, str]]:
    file = out / "results.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def runs_submitted(home: Path) -> Counter[str]:
    """How often each task was ever submitted as a run of its own."""
    listed = subprocess.run(
        [sys.executable, "-m", "raysmith", "list", "--limit", "100", "--json"],
        env=os.environ | {"RAYSMITH_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return Counter(run["task_id"] for run in json.loads(listed.stdout)["runs"])


def test_a_killed_batch_is_finished_by_the_same_command(tmp_path: Path) -> None:
    batch, out, home = write_batch(tmp_path / "in"), tmp_path / "out", tmp_path / "home"
    environment = os.environ | {"RAYSMITH_HOME": str(home)}

    driver = subprocess.Popen(
        command(batch, out), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while len(results(out)) < 5:
        assert driver.poll() is None, "the batch ended before it could be killed"
        assert time.monotonic() < deadline, "no five results within four minutes"
        time.sleep(0.2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = results(out)

    again = subprocess.run(command(batch, out), env=environment, capture_output=True, text=True, timeout=480)

    assert again.returncode == 0, again.stderr[-2000:]
    told = json.loads(again.stdout)["results"]
    assert sorted(result["id"] for result in told) == [f"t{number:02}" for number in range(TASKS)]
    assert all(result["status"] == "succeeded" for result in told)
    assert {result["id"]: result["run_id"] for result in before}.items() <= {
        result["id"]: result["run_id"] for result in told
    }.items()
    assert Counter(result["id"] for result in results(out)) == Counter(
        f"t{number:02}" for number in range(TASKS)
    )
    assert set(runs_submitted(home).values()) == {1}
