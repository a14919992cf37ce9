"""`make run`'s second half: both acts end certified, and their patches are where the demo says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.sandbox
def test_the_demo_writes_a_story_and_repairs_a_package(tmp_path: Path) -> None:
    examples = {path: path.read_bytes() for path in (ROOT / "examples").rglob("*") if path.is_file()}
    # From another folder, so that `out` lands there.
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RAYSMITH_HOME": str(tmp_path / "home")}

    done = subprocess.run(
        [sys.executable, str(ROOT / "raysmith.py"), "demo", "--json"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    story, repaired = told["results"]
    assert (story["reason"], repaired["reason"]) == ("certified", "certified")
    assert story["files"] == ["app.py", "test_app.py"]
    assert len(repaired["files"]) >= 3
    assert told["dashboard"].startswith("http://")
    assert (tmp_path / "out/story/patch.diff").read_text() == story["diff"]
    assert {path: path.read_bytes() for path in examples} == examples
