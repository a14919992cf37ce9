"""Tasks made from a command's arguments, and the folder of a run's results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from orchestrator.errors import EngineMissing, TaskError
from orchestrator.task import check_id
from serve.commands.door import Door
from serve.commands.running import replace_file, write_results
from serve.config import load
from serve.render import Screen
from serve.tasks import name_of, need_goal_and_model, selection, take, task_for

RESULT = {"run_id": "r-1", "status": "succeeded", "reason": "certified"}


@pytest.fixture
def door(tmp_path: Path) -> Door:
    loaded = load(
        settings=["budget.attempts=2", "model=recorded:x"], environ={"RAYSMITH_HOME": str(tmp_path)}
    )
    return Door(loaded=loaded, screen=Screen(as_json=True))


def test_results_are_a_report_and_a_patch(tmp_path: Path) -> None:
    patch = write_results(tmp_path / "deep/out", RESULT, b"--- a/x\n")

    assert patch == tmp_path / "deep/out/patch.diff"
    assert patch.read_bytes() == b"--- a/x\n"
    assert json.loads((tmp_path / "deep/out/report.json").read_text()) == RESULT


def test_a_result_without_a_patch_leaves_no_old_one(tmp_path: Path) -> None:
    write_results(tmp_path, RESULT, b"--- a/x\n")

    assert write_results(tmp_path, RESULT, b"") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")

    with pytest.raises(TaskError, match=r"results cannot be written to .*taken"):
        write_results(tmp_path / "taken/out", RESULT, b"")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")

    replace_file(tmp_path / "f", b"new")

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("f", "new")]


def test_a_task_carries_what_the_command_was_given(door: Door, tmp_path: Path) -> None:
    task = task_for(
        door.config,
        tmp_path,
        graph="repair",
        tests=["tests -k 'a or b'", "more"],
        protect=["*.lock"],
        python=sys.executable,
    )

    assert task.tests == ("tests", "-k", "a or b", "more")
    assert task.protect == ("*.lock",)
    assert task.python == sys.executable
    assert task.budget.attempts == 2
    assert task.model == "recorded:x"
    assert task.origin == str(tmp_path)


def test_a_python_that_is_none_is_refused(door: Door, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="is not an executable"):
        task_for(door.config, tmp_path, graph="repair", python=str(tmp_path / "python"))


@pytest.mark.parametrize("name", ["shop", "my shop", "..", "-x", "né", "a..b", "x" * 300, "..."])
def test_every_folder_name_gives_a_name_for_its_task(name: str) -> None:
    made = name_of(Path("/x") / name)

    assert check_id(made) == made


def test_unbalanced_quotes_in_tests_are_told() -> None:
    with pytest.raises(TaskError, match="balance its quotes"):
        selection(["-k 'a"])


def test_a_goal_needs_words_and_a_model() -> None:
    with pytest.raises(TaskError):
        need_goal_and_model("  ", "recorded:x")
    with pytest.raises(EngineMissing, match="RAYSMITH_MODEL"):
        need_goal_and_model("build", "")


def test_the_configured_limits_count_for_a_snapshot(tmp_path: Path) -> None:
    loaded = load(settings=["snapshot.max_files=1"], environ={"RAYSMITH_HOME": str(tmp_path / "home")})
    door = Door(loaded=loaded, screen=Screen(as_json=True))
    (tmp_path / "p").mkdir()
    for name in ("a.py", "test_a.py"):
        (tmp_path / "p" / name).write_text("")

    with pytest.raises(TaskError, match="more than 1 files"):
        take(door.config, tmp_path / "p", None, door.note)
