"""What the command line makes of errors; the commands themselves are started for real in tests/acceptance."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from event_log_conformance import call

from cluster.event_log import open_log
from cluster.store_settings import StoreSettings
from orchestrator.errors import EngineMissing, TaskError
from serve import cli
from serve.commands import past
from serve.commands.door import Ended, Interrupted


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSMITH_HOME", str(tmp_path / "home"))


def break_list(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def broken(**_options: object) -> None:
        raise error

    monkeypatch.setattr(past, "open_door", broken)


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (TaskError("bad", "mend it"), 2, "bad_input"),
        (EngineMissing("none", "give one"), 3, "no_model"),
        (Ended("no sandbox", "install it", "sandbox", 3), 3, "sandbox"),
        (Interrupted("raysmith resume r-1"), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("odd"), 1, "internal"),
    ],
)
def test_every_error_becomes_one_object_and_its_code(
    error: BaseException,
    code: int,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    break_list(monkeypatch, error)

    assert cli.run(["list", "--json"]) == code

    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["error"]["code"] == word
    assert set(told["error"]) == {"code", "message", "next"}
    assert captured.err == ""


def test_a_crash_is_one_line_and_its_traceback_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    break_list(monkeypatch, ValueError("odd"))

    assert cli.run(["list"]) == 1

    log = tmp_path / "home/logs/raysmith.log"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"raysmith: this should not have happened: ValueError: odd\n  next: the traceback is in {log}\n"
    )
    assert "Traceback" in json.loads(log.read_text())["exception"]


def test_an_interrupted_run_names_the_command_that_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_list(monkeypatch, Interrupted("raysmith resume r-1"))

    assert cli.run(["list"]) == 130

    assert capsys.readouterr().err == "raysmith: interrupted; nothing is lost\n  next: raysmith resume r-1\n"


def test_a_message_of_many_lines_keeps_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_list(monkeypatch, TaskError("tests cannot be collected:\nE   SyntaxError", "mend them"))

    cli.run(["list"])

    assert capsys.readouterr().err.splitlines() == [
        "raysmith: tests cannot be collected:",
        "E   SyntaxError",
        "  next: mend them",
    ]


def test_what_engines_cost_is_told_by_tenant_run_and_day(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    with open_log(StoreSettings(), tmp_path / "home") as log:
        log.append_blocking([call("r-11", tenant="web"), call("r-22"), call("r-22", cost_usd=0.00034)])

    def told(*options: str) -> dict[str, Any]:
        assert cli.run(["usage", "--json", *options]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    assert {each["tenant"]: each["cost_usd"] for each in told()["usage"]} == {"web": 0.1, "default": 0.10034}
    assert told("--tenant", "web")["total"]["tokens"] == {"prompt": 10, "completion": 2, "cached": 4}
    assert [each["run_id"] for each in told("--by", "step", "--run", "r-2")["usage"]] == ["r-22"]
    assert told("--since", "2999-01-01")["usage"] == []
    assert cli.run(["usage", "--since", "tomorrow"]) == 2
    assert "'tomorrow' is no day" in capsys.readouterr().err
    assert cli.run(["usage", "--by", "run"]) == 0
    assert re.search(r"^web +r-11 +1 +0 +10 +2 +4 +0\.1 +0\.1000$", capsys.readouterr().out, re.MULTILINE)
