"""The README shows commands that exist and the flow table of the code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import orchestrator

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()


def test_every_command_of_the_readme_is_a_command() -> None:
    shown = set(re.findall(r"^raysmith (\w+)", README, re.MULTILINE))
    helped = subprocess.run(
        [ROOT / ".venv" / "bin" / "raysmith", "--help"]
        if (ROOT / ".venv").exists()
        else ["raysmith", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert len(shown) > 5
    assert all(re.search(rf"\b{command}\b", helped) for command in shown)


def test_every_make_target_of_the_readme_is_a_target() -> None:
    makefile = (ROOT / "Makefile").read_text()

    targets = set(re.findall(r"^make (\w+)|`make (\w+)`", README, re.MULTILINE))

    assert targets and all(f"\n{first or second}:" in makefile for first, second in targets)


def test_the_flow_table_is_that_of_the_code() -> None:
    table = [line for line in (orchestrator.__doc__ or "").splitlines() if line.startswith("| ")]

    assert table and all(row in README for row in table)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)

    assert links and all((ROOT / link).exists() for link in links)
