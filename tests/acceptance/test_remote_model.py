"""A goal in words, written and mended by a model behind a real HTTP endpoint that also misbehaves."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from openai_stand_in import Act, StandIn, error, say, stand_in

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]

ROOT = Path(__file__).parents[2]
GOAL = (ROOT / "examples/add_story/goal.txt").read_text()
RECORDED = [
    json.loads(line) for line in (ROOT / "actors/recordings/add_story.jsonl").read_text().splitlines()
]
SECRET = "sk-acceptance-0123456789"
MENDED = "    total = a + b\n    return {'result': round(total) if do_round else total}"


def reply_to(request: dict[str, Any]) -> str:
    """What a good model would say to the request's first message."""
    prompt = request["messages"][0]["content"]
    said = {entry["role"]: entry["reply"] for entry in RECORDED}
    if prompt.startswith("Write the code"):
        return str(said["code"])
    if prompt.startswith("Write pytest tests"):
        return str(said["test"])
    assert "test_rounds_when_asked_to" in prompt and "3.7" in prompt
    return str(said["code"]).replace('    return {"result": a + b}', MENDED)


class Moody:
    """Its first requests meet a fault each."""

    def __init__(self) -> None:
        self.faults = [
            Act(status=429, body=error("slow down"), headers={"retry-after": "0.1"}),
            Act(body=b"<html>bad gateway</html>", status=502),
            Act(drop=True),
            say(""),
            say("I would rather talk about the weather."),
        ]

    def __call__(self, request: dict[str, Any]) -> Act:
        return self.faults.pop(0) if self.faults else say(reply_to(request))


async def run_story(server: StandIn, home: Path, *settings: str) -> tuple[int, dict[str, Any], str]:
    words = [sys.executable, "-m", "raysmith", "run", GOAL, "--model", f"{server.url}#m", "--json"]
    words += [word for setting in settings for word in ("--set", setting)]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home.parent),
        "RAYSMITH_HOME": str(home),
        "RAYSMITH_ENDPOINT_KEY": SECRET,
    }
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode is not None
    return process.returncode, json.loads(out), err.decode()


def holds_secret(home: Path) -> list[Path]:
    files = [file for file in home.rglob("*") if file.is_file()]
    assert files
    return [file for file in files if SECRET.encode() in file.read_bytes()]


async def test_a_moody_endpoint_still_ends_in_a_certificate(tmp_path: Path) -> None:
    moody = Moody()
    async with stand_in(by=moody) as server:
        # The search finds this bug too; here the model is to mend it.
        code, result, err = await run_story(
            server, tmp_path / "home", "budget.search_cpu_s=0.01", "endpoint.longest_pause_s=0.2"
        )

    assert code == 0, (result, err)
    assert (result["reason"], result["repairer"]) == ("certified", "model")
    assert "round(total) if do_round else total" in result["diff"]
    # Paid for: code, tests, repair, the one about the weather and the empty one.
    assert result["tokens"] == {"prompt": 500, "completion": 100, "cached": 320}
    assert moody.faults == []
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {SECRET}"}
    assert holds_secret(tmp_path / "home") == []


async def test_an_endpoint_that_refuses_the_key_is_told_at_once(tmp_path: Path) -> None:
    refusal = Act(status=401, body=error(f"Incorrect API key provided: {SECRET}"))
    async with stand_in(refusal) as server:
        code, result, _ = await run_story(server, tmp_path / "home")

    assert (code, result["error"]["code"]) == (3, "engine")
    assert "answered 401: Incorrect API key provided: [key]" in result["error"]["message"]
    assert len(server.requests) == 1
    assert holds_secret(tmp_path / "home") == []
