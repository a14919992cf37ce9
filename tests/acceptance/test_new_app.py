"""Applications for goals in words: from the command line, from Python, through a kill, and gone wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from openai_stand_in import Act, error, say, stand_in

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]

ROOT = Path(__file__).parents[2]
TODO = (ROOT / "examples/todo_app/goal.txt").read_text()
NOTES = (ROOT / "examples/notes_layers/goal.txt").read_text()
STAGES = ["requirements", "structure", "code", "extras", "tests", "validation", "formatting", "execution"]
RECORDED = [json.loads(line) for line in (ROOT / "actors/recordings/todo_app.jsonl").read_text().splitlines()]


def environ(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "RAYSMITH_HOME": str(folder / "state")}


def raysmith(folder: Path, *words: str | Path) -> tuple[int, Any]:
    command = [sys.executable, "-m", "raysmith", *map(str, words), "--json"]
    done = subprocess.run(
        command, env=environ(folder), cwd=ROOT, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def events(folder: Path, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = raysmith(folder, "events", run_id)[1]["events"]
    return found


def worked_on_later(found: list[dict[str, Any]]) -> set[str]:
    """The steps that were given to a replica after the run was taken up again."""
    resumed = next(number for number, each in enumerate(found) if each["type"] == "run_resumed")
    return {each["step"] for each in found[resumed:] if each["type"] == "step_dispatched"}


def stands_by_itself(folder: Path, diff: str) -> None:
    """What was built passes its tests outside of any sandbox."""
    made = folder / "made"
    made.mkdir()
    (folder / "diff").write_text(diff)
    subprocess.run(["git", "init", "-q", str(made)], check=True)
    subprocess.run(["git", "apply", str(folder / "diff")], cwd=made, check=True)
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=made, check=True)


def test_a_goal_becomes_an_application_and_goes_on_from_a_stage_under_another_policy(tmp_path: Path) -> None:
    code, result = raysmith(tmp_path, "run", TODO, "--graph", "new-app", "--model", "recorded:todo_app")

    assert (code, result["status"], result["reason"]) == (0, "succeeded", "certified"), result
    assert [each["stage"] for each in result["checkpoints"]] == STAGES
    for each in result["checkpoints"]:
        assert each["status"] == "done" and each["wall_s"] > 0 and each["ended_at"] > each["started_at"]
        assert each["artifacts"]["output"] and each["resources"]["cpu_s"] >= 0
    told = {each["stage"]: each for stage in result["checkpoints"] for each in (stage, *stage["parts"])}
    # The recorded code filters the wrong way round; its tests notice.
    assert told["tests/check"]["metrics"]["failing"] == 2 and told["tests"]["metrics"]["failing"] == 0
    assert told["tests/repair"]["status"] == "done" and told["formatting"]["metrics"]["changed"] == 1
    assert told["execution/service"]["metrics"]["asked"] == {
        "/openapi.json": 200,
        "/health": 200,
        "/tasks": 200,
    }
    assert result["quality"]["score"] > 70 and {"Dockerfile", "README.md", ".gitignore"} <= set(
        result["files"]
    )
    stands_by_itself(tmp_path, result["diff"])

    policy = "validation.policy.timeout_s=120"
    code, again = raysmith(tmp_path, "replay", result["run_id"], "--from", "validation", "--set", policy)

    assert (code, again["reason"], again["diff"]) == (0, "certified", result["diff"])
    assert {step.partition("/")[0] for step in worked_on_later(events(tmp_path, again["run_id"]))} == {
        *("validation", "formatting", "execution")
    }
    code, refused = raysmith(tmp_path, "replay", result["run_id"], "--from", "deployment")
    assert code == 2 and "deployment" in refused["error"]["message"]


def test_a_service_is_built_in_layers(tmp_path: Path) -> None:
    words = ("--graph", "clean-architecture", "--model", "recorded:notes_layers")
    code, result = raysmith(tmp_path, "run", NOTES, *words)

    assert (code, result["status"], result["reason"]) == (0, "succeeded", "certified"), result
    told = {each["stage"]: each for each in result["checkpoints"]}
    assert next(iter(told)) == "domain" and list(told)[-1] == "certificate"
    assert told["service"]["metrics"]["asked"]["/notes"] == 200 and told["layers"]["reason"] == "layered"
    assert told["tests"]["metrics"]["failing_at_first"] == 1
    assert {path.split("/")[1] for path in result["files"] if path.startswith("app/")} == {
        *("domain", "application", "infrastructure", "api")
    }
    code, refused = raysmith(tmp_path, "run", NOTES, *words, "--input", "http=perhaps")
    assert code == 2 and "`http`" in refused["error"]["message"].replace("'", "`")


SCRIPT = """
import json, sys
import raysmith

goal, url = sys.argv[1:]
told = {}
with raysmith.connect() as factory:
    runs = {
        name: factory.run(
            goal,
            graph="new-app",
            model=f"{url}#{name}",
            attempts=2,
            inputs={"service_timeout_s": "10" if name == "silent" else "60"},
        )
        for name in ("rambling", "hopeless", "silent", "dumb")
    }
    for name, run in runs.items():
        try:
            result = run.result()
        except raysmith.RaysmithError as error:
            told[name] = {"error": error.code}
            continue
        told[name] = {
            "success": result.success,
            "reason": result.reason,
            "files": result.files,
            "checkpoints": [(each["stage"], each["status"]) for each in result.checkpoints],
            "quality": result.quality and result.quality["score"],
            "error": result.error and result.error.code,
        }
print(json.dumps(told))
"""


def answer(request: dict[str, Any]) -> Act:
    """Models by name: one that rambles first, one whose code never passes or starts, one that is mute."""
    name, messages = request["model"], request["messages"]
    prompt, turn = messages[0]["content"], sum(each["role"] == "assistant" for each in messages)
    if name == "dumb":
        return Act(status=400, body=error("nothing to say"))
    if name == "rambling" and turn == 0:
        return say('Let me think about that for a while. {"plan": ')
    role = next(role for start, role in STARTS.items() if prompt.startswith(start))
    said = next(each["reply"] for each in RECORDED if each["role"] == role and each.get("when", "") in prompt)
    if name == "hopeless":
        # It says the same of everything, whatever fails.
        said = said.replace("/done", "/finished") if role in ("code", "repair") else said
        said = said if role != "repair" else "todo/tasks.py\n```\nclass Tasks: ...\n```"
    if name == "silent" and role == "code":
        # Tests import it, and are not kept waiting.
        waits = "import os, time\n\nif 'PORT' in os.environ:\n    time.sleep(999)\n"
        said = said.replace("app = create_app()\n", f"app = create_app()\n\n{waits}")
    return say(said)


STARTS = {
    "Say what this goal requires": "plan",
    "Plan the repository": "plan",
    "Write files of a repository": "code",
    "Write pytest tests": "test",
    "Change this project": "repair",
}


async def test_what_goes_wrong_is_told_and_what_was_written_is_kept(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)

    async with stand_in(by=answer) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, tmp_path / "script.py", TODO, server.url),
            cwd=ROOT,
            env={**environ(tmp_path), "PYTHONPATH": str(ROOT), "RAYSMITH_BUDGET__SEARCH_CPU_S": "5"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 700)

    assert process.returncode == 0, err.decode()
    told = json.loads(out)
    assert told["rambling"]["success"] and told["rambling"]["reason"] == "certified"
    assert told["rambling"]["checkpoints"] == [[name, "done"] for name in STAGES]
    assert told["rambling"]["quality"] > 70
    hopeless = told["hopeless"]
    assert not hopeless["success"]
    assert hopeless["reason"] in ("attempts_exhausted", "no_candidate", "stuck", "budget_exhausted")
    assert hopeless["checkpoints"][-1] == ["tests", "failed"] and "todo/main.py" in hopeless["files"]
    assert told["silent"]["reason"] == "service_silent" and told["silent"]["quality"] > 70
    assert (
        told["silent"]["checkpoints"][-1] == ["execution", "failed"]
        and "Dockerfile" in told["silent"]["files"]
    )
    assert not told["dumb"].get("success") and told["dumb"]["error"]


def test_a_killed_factory_goes_on_where_it_was_and_does_no_stage_again(tmp_path: Path) -> None:
    words = ["run", TODO, "--graph", "new-app", "--model", "recorded:todo_app", "--json"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "raysmith", *words],
        env=environ(tmp_path),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: "tests/check" in ended(tmp_path), driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = ended(tmp_path)

    code, told = raysmith(tmp_path, "resume")

    assert "results" in told, told
    (result,) = told["results"]
    assert (code, result["reason"]) == (0, "certified")
    found = events(tmp_path, result["run_id"])
    assert Counter(each["step"] for each in found if each["type"] == "node_ended").most_common(1)[0][1] == 1
    done = [each for each in found if each["type"] == "step_completed"]
    assert Counter((each["step"], each["attempt"]) for each in done).most_common(1)[0][1] == 1
    later = {step.rpartition("/")[0] for step in worked_on_later(found)}
    assert not later & before and "execution/certify" in later


def ended(folder: Path) -> set[str]:
    """Nodes whose end is in the log."""
    try:
        with sqlite3.connect(f"file:{folder / 'state/events.db'}?mode=ro", uri=True) as log:
            return {step for (step,) in log.execute("SELECT step FROM events WHERE type = 'node_ended'")}
    except sqlite3.OperationalError:
        return set()


def until(happened: Any, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 400
    while not happened():
        assert driver.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.05)
