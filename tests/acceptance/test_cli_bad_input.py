"""What the real command line says of bad input: one clear message, the right exit code, nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LATIN = b"x = '\xe9'\n"


class Cli:
    """Runs `python -m raysmith` with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "RAYSMITH_HOME": str(self.home),
            "COLUMNS": "100",
        }

    def __call__(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "raysmith", *map(str, arguments)],
            env={**self.environ, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def refused(self, *arguments: str | Path, code: int = 2, **variables: str) -> dict[str, Any]:
        """The error that a command gives, the same for people and with `--json`."""
        shown, told = self(*arguments, **variables), self(*arguments, "--json", **variables)
        assert (shown.returncode, told.returncode) == (code, code), shown.stderr + told.stdout
        assert "Traceback" not in shown.stderr + told.stderr
        assert shown.stdout == ""
        found = json.loads(told.stdout)
        assert set(found["error"]) == {"code", "message", "next"}
        assert found["error"]["message"].split("\n")[0] in shown.stderr
        assert found["error"]["next"].split("\n")[0] in shown.stderr
        return dict(found["error"])


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "code.py").write_text("def add(a, b):\n    return a - b\n")
    (folder / "test_code.py").write_text(
        "from code import add\n\ndef test_add():\n    assert add(1, 2) == 3\n"
    )
    return folder


def test_a_path_that_does_not_exist(cli: Cli, package: Path) -> None:
    error = cli.refused("repair", package.with_name("packages"))

    assert error == {
        "code": "bad_input",
        "message": f"{package.with_name('packages')} does not exist",
        "next": f"did you mean {package}?",
    }


def test_a_path_that_is_a_file(cli: Cli, package: Path) -> None:
    assert cli.refused("repair", package / "code.py")["message"] == f"{package / 'code.py'} is a file"


def test_a_folder_without_python_files(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/readme.md").write_text("hello")

    assert "holds no Python file" in cli.refused("test", tmp_path / "notes")["message"]


def test_a_folder_without_tests(cli: Cli, package: Path) -> None:
    (package / "test_code.py").unlink()

    error = cli.refused("repair", package)

    assert "holds no test file" in error["message"]
    assert "--tests" in error["next"]


def test_a_file_that_is_not_utf8(cli: Cli, package: Path) -> None:
    (package / "old.py").write_bytes(LATIN)

    error = cli.refused("repair", package)

    assert error["message"].startswith("old.py cannot be decoded")
    assert (package / "old.py").read_bytes() == LATIN


def test_a_symlink_that_leaves_the_folder(cli: Cli, package: Path) -> None:
    (package / "secrets").symlink_to("/etc")

    assert "secrets -> '/etc' leaves the folder" in cli.refused("repair", package)["message"]


def test_a_folder_larger_than_the_limit(cli: Cli, package: Path) -> None:
    (package / "data.bin").write_bytes(bytes(2 * 2**20))

    error = cli.refused("repair", package, RAYSMITH_SNAPSHOT__MAX_MIB="1")

    assert "more than 1 MiB (stopped at data.bin" in error["message"]
    assert "`snapshot.max_mib`" in error["next"]


def test_an_unknown_configuration_key(cli: Cli, package: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("sandbox:\n  timeout: 5\n")

    error = cli.refused("repair", package, "--config", file)

    assert error["message"] == f"`sandbox.timeout` is not a setting (in {file})"
    assert error["next"] == "did you mean `sandbox.timeout_s`?"


def test_a_wrong_setting(cli: Cli, package: Path) -> None:
    error = cli.refused("repair", package, "--set", "budget.attempts=many")

    assert error["message"] == "`budget.attempts` is 'many' (in --set budget.attempts)"


@pytest.mark.parametrize(
    "arguments",
    [
        ("repair",),
        ("repair", "a", "b"),
        ("repair", "a", "--bogus"),
        ("repair", "a", "--budget-s", "soon"),
        ("repair", "a", "--budget-s", "-1"),
        ("reapir", "a"),
        ("list", "--status", "done"),
    ],
)
def test_wrong_usage_is_an_error_object_too(cli: Cli, arguments: tuple[str, ...]) -> None:
    error = cli.refused(*arguments)

    assert error["code"] == "usage"
    assert error["next"].startswith("see raysmith")


def test_tests_that_are_no_selection(cli: Cli, package: Path) -> None:
    assert (
        "'--pdb' is not an option that selects tests"
        in cli.refused("repair", package, "--tests=--pdb")["message"]
    )
    assert "'test_x.py' is not in" in cli.refused("repair", package, "--tests", "test_x.py")["message"]


def test_a_goal_without_a_model(cli: Cli) -> None:
    error = cli.refused("run", "build a shop", code=3)

    assert error["code"] == "no_model"
    assert "--model" in error["next"]
    assert "RAYSMITH_MODEL" in error["next"]


def test_a_run_of_nothing_and_of_an_unknown_graph(cli: Cli, package: Path) -> None:
    assert "neither a GOAL nor a --path" in cli.refused("run")["message"]
    assert "no graph is called 'fix'" in cli.refused("run", "--path", package, "--graph", "fix")["message"]


def test_a_batch_file_that_is_absent_or_holds_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")

    assert "cannot be read" in cli.refused("batch", tmp_path / "absent.jsonl")["message"]
    assert "holds no task" in cli.refused("batch", tmp_path / "empty.jsonl")["message"]


def test_a_broken_batch_line_with_strict_runs_nothing(cli: Cli, package: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"id": "a", "path": "package"}\n{"id": "b", "pth": "package"}\n')

    error = cli("batch", file, "--strict", "--json")

    assert error.returncode == 2
    message = json.loads(error.stdout)["error"]["message"]
    assert "line 2: unknown key 'pth'; did you mean `path`?" in message
    assert not (tmp_path / "tasks-out").exists()


def test_a_run_that_is_not_there(cli: Cli) -> None:
    for command in ("show", "events", "diff", "context", "cancel"):
        assert "there is no run 'r-1'" in cli.refused(command, "r-1")["message"]


def test_a_home_that_cannot_be_used(cli: Cli, package: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")

    done = cli("repair", package, "--json", RAYSMITH_HOME=str(tmp_path / "taken"))

    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["code"] == "store"


def test_a_message_with_odd_bytes_is_told_without_steering_the_terminal(cli: Cli, tmp_path: Path) -> None:
    done = cli("repair", tmp_path / "a\x1b[31m\udcff")

    assert done.returncode == 2
    assert "\\x1b[31m" in done.stderr
    assert "\x1b" not in done.stderr


def test_reading_commands_on_an_empty_home(cli: Cli) -> None:
    listed, status, resumed = (cli(command, "--json") for command in ("list", "status", "resume"))

    assert json.loads(listed.stdout) == {"runs": []}
    assert json.loads(status.stdout)["running"] is False
    assert json.loads(resumed.stdout) == {"results": []}
    assert not (cli.home / "events.db").exists()
