"""The real command line with a real factory: what only shows when tests are run. No repair is needed here."""

from __future__ import annotations

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

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]


def environ(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "RAYSMITH_HOME": str(folder / "home")}


def start(folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "raysmith", *map(str, arguments)],
        env=environ(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def raysmith(folder: Path, *arguments: str | Path) -> tuple[int, Any, str]:
    """Exit code, the one object on standard output, and standard error."""
    with start(folder, *arguments, "--json") as process:
        out, err = process.communicate(timeout=180)
    assert out.count("\n") == 1, out + err
    return process.returncode, json.loads(out), err


def package(folder: Path, name: str, test: str) -> Path:
    made = folder / name
    made.mkdir()
    (made / "calculator.py").write_text("def add(a, b):\n    return a + b\n")
    (made / "test_add.py").write_text(test)
    return made


GREEN = "from calculator import add\n\ndef test_add():\n    assert add(1, 2) == 3\n"
RED = "from calculator import add\n\ndef test_add():\n    assert add(1, 2) == 4\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a factory that stays up, so that each command joins it."""
    made = tmp_path_factory.mktemp("factory")
    code, told, err = raysmith(made, "up")
    assert code == 0, err
    assert told["joined"] is False
    try:
        yield made
    finally:
        assert raysmith(made, "down")[:2] == (0, {"stopped": True})


def test_a_green_folder_is_certified_and_left_alone(folder: Path) -> None:
    made = package(folder, "green", GREEN)
    before = sorted(made.rglob("*"))

    code, told, _ = raysmith(folder, "test", made)

    assert code == 0
    assert set(told) == {"run_id", "status", "reason", "verdict", "wall_s", "out"}
    assert (told["status"], told["reason"]) == ("succeeded", "certified")
    assert told["verdict"]["passed"] == ["test_add.py::test_add"]
    assert json.loads((Path(told["out"]) / "report.json").read_text()) == told
    assert sorted(made.rglob("*")) == before


def test_a_red_folder_fails_with_its_tests_named(folder: Path) -> None:
    code, told, _ = raysmith(folder, "test", package(folder, "red", RED))

    assert code == 1
    assert (told["status"], told["reason"]) == ("failed", "tests_failed")
    assert told["verdict"]["failed"] == ["test_add.py::test_add"]
    assert told["verdict"]["certified"] is False


def test_tests_that_already_pass_need_no_patch(folder: Path) -> None:
    code, told, _ = raysmith(folder, "repair", package(folder, "passing", GREEN))

    assert code == 0
    assert (told["status"], told["reason"], told["diff"], told["files"]) == (
        "succeeded",
        "already_passing",
        "",
        [],
    )


def test_tests_that_cannot_be_collected_are_told_in_pytests_words(folder: Path) -> None:
    code, told, _ = raysmith(folder, "repair", package(folder, "broken", "def test_(:\n"))

    assert code == 2
    assert set(told) == {"error"}
    assert told["error"]["code"] == "bad_input"
    assert "SyntaxError" in told["error"]["message"]
    assert "test_add.py" in told["error"]["message"]


def test_a_missing_dependency_is_named(folder: Path) -> None:
    made = package(folder, "needy", "import no_such_dependency_here\n" + GREEN)

    code, told, _ = raysmith(folder, "repair", made)

    assert code == 3
    assert "no_such_dependency_here" in told["error"]["message"]


def test_a_candidate_is_judged_by_the_tests_of_its_base(folder: Path) -> None:
    base = package(folder, "base", GREEN)
    honest = package(folder, "honest", "def test_add():\n    pass\n")
    broken = package(folder, "cheating", "def test_add():\n    pass\n")
    (broken / "calculator.py").write_text("def add(a, b):\n    return 0\n")

    assert raysmith(folder, "verify", base, honest)[0] == 0
    code, told, _ = raysmith(folder, "verify", base, broken)

    assert code == 1
    assert told["verdict"]["failed"] == ["test_add.py::test_add"]


def test_a_broken_batch_line_lets_the_others_run(folder: Path) -> None:
    package(folder, "one", GREEN)
    package(folder, "two", RED)
    tasks = folder / "tasks.jsonl"
    tasks.write_text(
        '{"id": "one", "path": "one", "graph": "test"}\n'
        '{"id": "bad", "path": "one", "graf": "test"}\n'
        '{"id": "two", "path": "two", "graph": "test"}\n'
    )

    code, told, _ = raysmith(folder, "batch", tasks)

    assert code == 2
    assert [(each["id"], each["status"]) for each in told["results"]] == [
        ("one", "succeeded"),
        ("two", "failed"),
    ]
    assert told["invalid"][0]["line"] == 2
    assert "line 2: unknown key 'graf'" in told["error"]["message"]
    kept = [json.loads(line) for line in (folder / "tasks-out/results.jsonl").read_text().splitlines()]
    assert kept == told["results"]


def test_what_was_done_can_be_read_back(folder: Path) -> None:
    _, told, _ = raysmith(folder, "test", package(folder, "again", GREEN))
    run_id = told["run_id"]

    shown = raysmith(folder, "show", run_id[:-2])[1]
    events = raysmith(folder, "events", run_id)[1]["events"]
    listed = raysmith(folder, "list")[1]["runs"]

    assert (shown["run_id"], shown["status"]) == (run_id, "succeeded")
    assert (events[0]["type"], events[-1]["type"]) == ("run_submitted", "run_finished")
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert run_id in [run["run_id"] for run in listed]


def test_a_second_up_joins_the_first_and_status_shows_the_fleet(folder: Path) -> None:
    code, told, _ = raysmith(folder, "up")
    status = raysmith(folder, "status")[1]

    assert (code, told["joined"]) == (0, True)
    assert status["running"] is True
    assert {"run-01", "run-02"} <= {replica["name"] for replica in status["fleet"]["replicas"]}


def test_ctrl_c_leaves_no_process_and_a_resumable_run(tmp_path: Path) -> None:
    sleeping = "import time\n\ndef test_sleep():\n    time.sleep(600)\n"
    process = start(tmp_path, "test", package(tmp_path, "sleepy", sleeping))
    assert process.stdout is not None
    for line in process.stdout:
        if "profile ->" in line:
            break
    time.sleep(2)

    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "raysmith resume r-" in err
    assert "Traceback" not in err
    assert _left(tmp_path) == []
    runs = raysmith(tmp_path, "list")[1]["runs"]
    assert [run["status"] for run in runs] == ["running"]


def _left(folder: Path, patience_s: float = 20.0) -> list[str]:
    """Processes that still have our RAYSMITH_HOME in their environment or sleep for our test."""
    mark = f"RAYSMITH_HOME={folder / 'home'}".encode()
    deadline = time.monotonic() + patience_s
    while True:
        found = [str(pid) for pid in Path("/proc").iterdir() if pid.name.isdigit() and _has(pid, mark)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _has(process: Path, mark: bytes) -> bool:
    try:
        return (
            mark in (process / "environ").read_bytes()
            and (process / "stat").read_text().split(") ")[-1][0] != "Z"
        )
    except OSError:
        return False
