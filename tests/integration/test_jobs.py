"""Batches as jobs of a cluster that `ray start --head` made, with and without Ray's token."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_head import BIN, Head, alive, checkout, ray_head

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]

BATCH = ("--working-dir", ".", "--", "python", "-m", "raysmith", "batch", "tasks.jsonl")
CODE = """def total(numbers):
    result = {wrong}
    for number in numbers:
        result += number
    return result
"""
TEST = "from calc import total\n\n\ndef test_total():\n    assert total([1, 2, 3]) == {right}\n"


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # What Ray keeps of packages that nobody uses: nothing, instead of 10 GB.
    with ray_head(RAY_RUNTIME_ENV_WORKING_DIR_CACHE_SIZE_GB="0") as head:
        yield head


def write_batch(folder: Path, count: int = 2, *, mended: bool = True) -> Path:
    lines = []
    for number in range(count):
        task = folder / "t" / f"task{number}"
        task.mkdir(parents=True)
        (task / "calc.py").write_text(CODE.format(wrong=number + 1))
        (task / "test_calc.py").write_text(TEST.format(right=6))
        # Neither may travel, nor break the job.
        (task / ".venv").mkdir()
        (task / ".venv" / "huge").write_bytes(b"x" * 1000)
        lines.append({"id": f"job{number}", "path": f"t/task{number}"})
    if not mended:
        task = folder / "t" / "hopeless"
        task.mkdir()
        (task / "calc.py").write_text("def total(numbers):\n    return 0\n")
        (task / "test_calc.py").write_text("def test_nothing_helps():\n    assert False\n")
        lines.append({"id": "hopeless", "path": "t/hopeless", "budget_s": 20})
    batch = folder / "tasks.jsonl"
    batch.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return batch


def ray_job(head: Head, what: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "ray", "job", what, "--address", head.dashboard, *words],
        env=head.outside(),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def submit(head: Head, batch: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raysmith", "submit", str(batch), "--address", head.dashboard, *words],
        env=head.outside(**environ),
        cwd=batch.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def status(head: Head, job_id: str) -> str:
    for _ in range(600):
        told = ray_job(head, "status", job_id).stdout
        for word in ("SUCCEEDED", "FAILED", "STOPPED", "succeeded", "failed", "stopped"):
            if word in told:
                return word.upper()
        time.sleep(0.2)
    raise AssertionError(f"job {job_id} did not end: {told}")


def test_a_job_runs_the_code_and_the_tasks_of_its_working_directory(head: Head, tmp_path: Path) -> None:
    folder = checkout(tmp_path / "checkout")
    write_batch(folder)

    done = ray_job(head, "submit", *BATCH, cwd=folder)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "the code of the working directory" in done.stdout
    assert "started a factory that stays" in done.stdout
    assert "queue 2, running 0" in done.stdout
    assert "2 of 2 tasks succeeded" in done.stdout
    assert "succeeded" in done.stdout.splitlines()[-2] + done.stdout.splitlines()[-3]

    # Nobody uses the package on the node any more, so Ray removes it; whoever starts anew fetches it.
    before = alive(head)
    for pid in before.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    again = submit(head, write_batch(tmp_path / "second"))

    assert again.returncode == 0, again.stdout + again.stderr
    assert "joined the factory" in again.stdout
    assert alive(head)["orchestrator"] != before["orchestrator"]


def test_submit_brings_the_results_home(head: Head, tmp_path: Path) -> None:
    batch = write_batch(tmp_path)

    done = submit(head, batch, "--json")

    told = json.loads(done.stdout)
    assert (done.returncode, told["status"], told["exit_code"]) == (0, "SUCCEEDED", 0)
    assert [line["status"] for line in told["results"]] == ["succeeded", "succeeded"]
    for number in range(2):
        folder = tmp_path / "tasks-out" / f"job{number}"
        assert f"-    result = {number + 1}" in (folder / "patch.diff").read_text()
        assert json.loads((folder / "report.json").read_text())["out"] == str(folder)
    lines = (tmp_path / "tasks-out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["job0", "job1"]


def test_a_job_that_failed_says_why(head: Head, tmp_path: Path) -> None:
    batch = write_batch(tmp_path, 1, mended=False)

    failed = submit(head, batch)
    with batch.open("a") as lines:
        lines.write('{"id": "broken"}\n')
    broken = submit(head, batch, "--json")

    assert failed.returncode == 1
    assert "FAILED" in failed.stdout
    assert "failed with exit code 1" in failed.stdout
    assert "1 of 2 tasks succeeded" in failed.stdout
    assert "hopeless: failed" in failed.stdout
    told = json.loads(broken.stdout)
    assert (broken.returncode, told["status"], told["exit_code"]) == (2, "FAILED", 2)
    assert "exit code 2" in told["message"]
    assert {line["id"]: line["status"] for line in told["results"]} == {
        "job0": "succeeded",
        "hopeless": "failed",
    }


def test_a_job_goes_on_without_who_submitted_it(head: Head, tmp_path: Path) -> None:
    batch = write_batch(tmp_path, 4)
    command = [sys.executable, "-m", "raysmith", "submit", str(batch), "--address", head.dashboard]

    ids = {}
    for number in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(
            command, env=head.outside(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            ids[number] = process.stdout.readline().split()[1]
            while "queue 4" not in process.stdout.readline():
                assert process.poll() is None
            process.send_signal(number)
            _, told = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "the job goes on" in told
    assert f"ray job logs --follow --address {head.dashboard} {ids[signal.SIGINT]}" in told
    assert f"ray job stop --address {head.dashboard} {ids[signal.SIGINT]}" in told
    assert [status(head, job_id) for job_id in ids.values()] == ["SUCCEEDED", "SUCCEEDED"]


def test_a_job_can_be_left_at_once(head: Head, tmp_path: Path) -> None:
    done = submit(head, write_batch(tmp_path, 1), "--no-wait", "--json")

    told: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 0
    assert told["status"] in ("PENDING", "RUNNING")
    assert status(head, told["job_id"]) == "SUCCEEDED"
    assert not (tmp_path / "tasks-out").exists()


def test_up_and_down_hold_the_factory_of_a_cluster(head: Head) -> None:
    def raysmith(*words: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "raysmith", *words, "--json"],
            env=dict(head.environ) | {"RAY_ADDRESS": head.address},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    raysmith("down")
    assert raysmith("down") == {"stopped": False}
    assert raysmith("up")["joined"] is False
    assert raysmith("up")["joined"] is True
    assert raysmith("status")["running"] is True
    assert raysmith("down") == {"stopped": True}
    assert raysmith("status")["running"] is False
    assert "orchestrator" not in alive(head)
    assert "scheduler" not in alive(head)


def test_a_cluster_that_asks_for_a_token(tmp_path: Path) -> None:
    with ray_head(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 64) as head:
        batch = write_batch(tmp_path, 1)
        without = submit(head, batch, "--json", RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="")
        wrong = submit(head, batch, "--json", RAY_AUTH_TOKEN="b" * 64)
        right = submit(head, batch, "--json")

        for refused in (without, wrong):
            error = json.loads(refused.stdout)["error"]
            assert refused.returncode == 3
            assert "asks for a token" in error["message"]
            assert "RAY_AUTH_TOKEN" in error["next"]
        assert right.returncode == 0, right.stdout + right.stderr
        assert json.loads(right.stdout)["status"] == "SUCCEEDED"

        folder = checkout(tmp_path / "checkout")
        write_batch(folder, 1)
        by_ray = ray_job(head, "submit", *BATCH, cwd=folder)

        assert by_ray.returncode == 0, by_ray.stdout + by_ray.stderr
        assert "a" * 64 not in by_ray.stdout + by_ray.stderr + right.stdout + right.stderr
