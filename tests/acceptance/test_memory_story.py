"""A second package that fails like the first: its model is shown what became of the first one's patch."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from openai_stand_in import Act, StandIn, say, stand_in

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]

ROOT = Path(__file__).parents[2]
CODE = "def total(items):\n    return sum(items, start=None)\n"
MENDED = "def total(items):\n    return sum(items, start=0)\n"
TESTS = "from {name}_cart import total\n\n\ndef test_total():\n    assert total([1, 2]) == 3\n"


def package(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    (made / f"{name}_cart.py").write_text(CODE)
    (made / "test_cart.py").write_text(TESTS.format(name=name))
    return made


def mend(request: dict[str, Any]) -> Act:
    name = (
        "first" if "first_cart.py" in request["messages"][0]["content"].partition("files:")[2] else "second"
    )
    return say(f"{name}_cart.py\n```python\n{MENDED}```\n")


async def raysmith(folder: Path, *words: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "raysmith", *words, "--json"),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "RAYSMITH_HOME": str(folder / "home")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 0, out.decode() + err.decode()
    told: dict[str, Any] = json.loads(out)
    return told


async def repaired(server: StandIn, folder: Path, path: Path, *settings: str) -> tuple[str, str]:
    """The run's id, and the prompt of its repair."""
    settings = ("budget.search_cpu_s=0.01", *settings)
    words = [word for setting in settings for word in ("--set", setting)]
    told = await raysmith(folder, "repair", str(path), "--model", f"{server.url}#m", *words)
    assert (told["reason"], told["repairer"]) == ("certified", "model")
    return told["run_id"], server.requests[-1]["messages"][0]["content"]


async def test_the_second_repair_of_its_kind_is_shown_the_first(tmp_path: Path) -> None:
    first, second = package(tmp_path, "first"), package(tmp_path, "second")
    async with stand_in(by=mend) as server:
        run_id, prompt = await repaired(server, tmp_path, first)
        assert "tests failed alike" not in prompt
        _, off = await repaired(server, tmp_path, second, "agents.memory=false")
        again, prompt = await repaired(server, tmp_path, second)

    assert "tests failed alike" not in off
    assert "It was certified:" in prompt and "+    return sum(items, start=0)" in prompt
    told = await raysmith(tmp_path, "context", again)
    (step,) = told["steps"]
    (manifest,) = step["contexts"]
    parts = {(part["kind"], part["name"]): part for part in manifest["shown"]}
    assert ("memory", run_id) in parts
    assert parts["file", "second_cart.py"]["why"] == "named where a test fails"
    assert parts["file", "test_cart.py"]["tokens"] > 0
    assert manifest["template"] == "repair" and manifest["left_out"] == []
