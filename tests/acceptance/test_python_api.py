"""`import raysmith` against a real factory, by the example that a reader runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]

ROOT = Path(__file__).parents[2]

BATCH = """
import json, sys
from pathlib import Path
import raysmith

folder = Path(sys.argv[1])
tasks = [{"id": name, "path": str(folder / name), "graph": "test"} for name in ("green", "red")]
with raysmith.connect() as factory:
    results = factory.batch(tasks)
    run = factory.get(results[0].run_id)
    kinds = [event.type for event in run.events()]
    try:
        with raysmith.connect():
            pass
    except raysmith.TaskError as error:
        refused = error.message
print(json.dumps([[each.id, each.status, each.reason, each.out] for each in results] + [kinds, refused]))
"""


def environ(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "RAYSMITH_HOME": str(folder / "home")}


def python(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env=environ(folder),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_example_repairs_applies_and_does_two_things_at_once(tmp_path: Path) -> None:
    done = python(tmp_path, "examples/programmatic.py")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "attempt_started" in done.stdout and "run_finished" in done.stdout
    assert "applied: shop/" in done.stdout
    assert done.stdout.count("succeeded, certified") == 3
    assert "24 passed" in done.stdout
    assert "refused:" in done.stdout and "nowhere does not exist" in done.stdout


def test_a_batch_from_objects_and_one_factory_at_a_time(tmp_path: Path) -> None:
    for name, sum_ in (("green", 3), ("red", 4)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test_add.py").write_text(f"def test_add():\n    assert 1 + 2 == {sum_}\n")
    (tmp_path / "batch.py").write_text(BATCH)

    done = python(tmp_path, tmp_path / "batch.py", tmp_path)

    assert done.returncode == 0, done.stderr
    green, red, kinds, refused = json.loads(done.stdout.splitlines()[-1])
    assert green[:3] == ["green", "succeeded", "certified"]
    assert red[:3] == ["red", "failed", "tests_failed"]
    assert Path(green[3], "report.json").exists()
    assert kinds[0] == "run_submitted" and kinds[-1] == "run_finished"
    assert refused == "this process is connected to Ray already"
