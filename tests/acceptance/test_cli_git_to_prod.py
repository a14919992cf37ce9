"""From failing tests to a release on the sample repository, from the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]
SAMPLE = Path(__file__).parents[2] / "examples/sample_repo"


_WORKED = ("py_fixer", "fe_fixer", "test_writer", "test_checker", "security", "release")


def raysmith(home: Path, *arguments: str | Path) -> tuple[int, Any]:
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "RAYSMITH_HOME": str(home / "state")}
    command = [sys.executable, "-m", "raysmith", *map(str, arguments), "--json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=400, check=False)
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_sample_repository_goes_to_a_release(tmp_path: Path) -> None:
    arguments = ("--graph", "git-to-prod-multi", "--path", SAMPLE, "--input", "pr_number=17")
    code, result = raysmith(tmp_path, "run", *arguments)

    assert (code, result["status"], result["reason"]) == (0, "succeeded", "certified")
    assert "+    return 42\n" in result["diff"] and "line.price * line.quantity" in result["diff"]
    assert '+version = "1.4.3"\n' in result["diff"] and "(#17)\n" in result["diff"]
    added = "tests/test_answers_boundaries.py"
    assert result["files"] == ["CHANGELOG.md", "app/answers.py", "pyproject.toml", added, "web/cart.js"]
    assert len(result["verdict"]["passed"]) == 8
    _, told = raysmith(tmp_path, "events", result["run_id"])
    ended = {each["step"]: each["data"] for each in told["events"] if each["type"] == "node_ended"}
    assert [ended[name]["status"] for name in _WORKED] == ["done"] * len(_WORKED)
    assert (
        ended["test_checker"]["metrics"]["added"] >= 3 and ended["test_checker"]["metrics"]["strength"] >= 0.5
    )
    assert f"tests added in {added}" in result["diff"]
    assert ended["release"]["metrics"] == {"version": "1.4.3", "pr_number": 17}
    assert told["events"][0]["data"]["task"]["inputs"] == {"pr_number": "17"}
    code, refused = raysmith(tmp_path, "approve", result["run_id"])
    assert code == 2 and "has ended" in refused["error"]["message"]
    _apply(tmp_path, Path(result["out"]) / "patch.diff")


def _apply(folder: Path, patch: Path) -> None:
    """What was released passes its tests outside of any sandbox."""
    copy = shutil.copytree(SAMPLE, folder / "copy")
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    subprocess.run(["git", "apply", str(patch)], cwd=copy, check=True)
    python = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    for command in (python, ["node", "--test", "web/"]):
        assert subprocess.run(command, cwd=copy, capture_output=True, check=False).returncode == 0, command
