"""The front of the command line: help for every command, the version, both of them fast."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

from serve.cli import app

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]
HEAVY = ("ray", "pydantic_core", "sqlalchemy", "structlog", "fastapi", "numpy", "pytest", "yaml", "asyncio")


def raysmith(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=dict(os.environ),
    )


def test_the_commands_are_those_of_the_reference() -> None:
    shown = [name for name in COMMANDS if not name.startswith("_")]
    page = (Path(__file__).parents[2] / "docs/reference/cli.md").read_text()

    assert shown == sorted(line.removeprefix("## ") for line in page.splitlines() if line.startswith("## "))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = raysmith("-m", "raysmith", command, "--help")

    assert done.returncode == 0
    assert f"raysmith {command}" in done.stdout


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option: str) -> None:
    done = raysmith("-X", "importtime", "-m", "raysmith", option)

    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "serve.cli" in imported
    assert imported.isdisjoint(HEAVY)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_answer_in_half_a_second(option: str) -> None:
    took = []
    # The fastest of five: other processes of a busy machine can only slow one down.
    for _ in range(5):
        began = time.perf_counter()
        raysmith("-m", "raysmith", option)
        took.append(time.perf_counter() - began)

    assert min(took) < 0.5


def test_the_version_is_the_packages() -> None:
    done = raysmith("-m", "raysmith", "--version")

    assert done.stdout == "raysmith 0.1.0\n"


def test_without_a_command_the_help_is_shown_and_the_usage_wrong() -> None:
    done = raysmith("-m", "raysmith")

    assert done.returncode == 2
    assert "repair" in done.stdout + done.stderr
