"""A goal becomes a repository of many files whose own tests certify it: a real endpoint, a real factory."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from openai_stand_in import Act, StandIn, error, say, stand_in

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]

ROOT = Path(__file__).parents[2]
GOAL = (ROOT / "examples/notes_story/goal.txt").read_text()
RECORDED = {
    entry["role"]: entry["reply"]
    for entry in map(json.loads, (ROOT / "actors/recordings/notes_story.jsonl").read_text().splitlines())
}
# A model forgets that case does not count: the tests show it, and somebody has to mend it.
FORGETFUL = ("if wanted in note.text.casefold()]", "if wanted in note.text]")


class Model:
    """Plans on its second try, writes the sources first and the rest when it is asked again."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, request: dict[str, Any]) -> Act:
        messages = request["messages"]
        prompt, is_first = messages[0]["content"], len(messages) == 1
        role = next(role for start, role in STARTS.items() if prompt.startswith(start))
        self.asked.append(role)
        if role == "plan" and is_first:
            return say("I would start with a plan.")
        if role == "code":
            only = self.asked.count("code") == 1
            return say(files_of(RECORDED["code"].replace(*FORGETFUL), sources=only))
        if role == "repair":
            return say(files_of(RECORDED["code"], sources=True, named="notes/store.py"))
        return say(RECORDED[role]) if role in RECORDED else Act(status=500, body=error("nothing to say"))


STARTS = {
    "Plan the repository": "plan",
    "Write files of a repository": "code",
    "Write pytest tests": "test",
    "Change this project": "repair",
    "Review this change": "review",
}


def files_of(reply: str, *, sources: bool, named: str = "") -> str:
    """The blocks of `reply` that are sources of the package, or the others."""
    blocks = re.findall(r"^(\S+)\n(`{3,})\n(.*?)\n\2$", reply, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 10
    chosen = [each for each in blocks if each[0].startswith("notes/") is sources and named in each[0]]
    return "\n\n".join(f"{path}\n{fence}\n{text}\n{fence}" for path, fence, text in chosen)


async def run(server: StandIn, folder: Path, *settings: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "raysmith", "run", GOAL, "--model", f"{server.url}#m", "--json"]
    words += [word for setting in settings for word in ("--set", setting)]
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "RAYSMITH_HOME": str(folder / "home")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 0, out.decode() + err.decode()
    result: dict[str, Any] = json.loads(out)
    return result


async def test_a_planned_repository_is_written_repaired_reviewed_and_certified(tmp_path: Path) -> None:
    model = Model()
    async with stand_in(by=model) as server:
        result = await run(server, tmp_path, "agents.review=true")

    assert (result["status"], result["reason"]) == ("succeeded", "certified")
    assert len(result["verdict"]["passed"]) == 7 and result["verdict"]["certified"]
    assert {"README.md", "Dockerfile", ".gitignore", ".github/workflows/ci.yml"} <= set(result["files"])
    assert len(result["files"]) == 11
    assert model.asked[:5] == ["plan", "plan", "code", "code", "test"]
    assert model.asked[-1] == "review" and result["review"][0]["path"] == "notes/store.py"
    # What was written is a repository that stands by itself.
    await asyncio.to_thread(stands_by_itself, tmp_path, result["diff"])


def stands_by_itself(folder: Path, diff: str) -> None:
    made = folder / "made"
    made.mkdir()
    (folder / "diff").write_text(diff)
    subprocess.run(["git", "init", "-q", str(made)], check=True)
    subprocess.run(["git", "apply", str(folder / "diff")], cwd=made, check=True)
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=made, check=True)
