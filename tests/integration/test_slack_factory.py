"""The reporter in a real factory: killed between post and record, with its orchestrator, restarted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slack_stand_in import CHANNEL, TOKEN, SlackStandIn

from cluster.event_log import open_reader
from cluster.store_settings import StoreSettings
from orchestrator.events import EFFECTS

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]

TEST = "from calculator import add\n\ndef test_add():\n    assert add(1, 2) == 3\n"


class Factory:
    """A home whose factory reports to a Slack of our own."""

    def __init__(self, folder: Path, slack: SlackStandIn) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.slack = slack
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "RAYSMITH_HOME": str(self.home),
            "RAY_AUTH_MODE": "disabled",
            "RAYSMITH_SLACK__TOKEN": TOKEN,
            "RAYSMITH_SLACK__CHANNEL": CHANNEL,
            "RAYSMITH_SLACK__BASE_URL": slack.base_url,
            "RAYSMITH_SLACK__TIMEOUT_S": "2",
            "RAYSMITH_SLACK__PACE_S": "0",
        }
        for name, code in (("green", "a + b"), ("red", "a - b")):
            made = folder / name
            made.mkdir()
            (made / "calculator.py").write_text(f"def add(a, b):\n    return {code}\n")
            (made / "test_add.py").write_text(TEST)

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "raysmith", *map(str, words), "--json"],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def raysmith(self, *words: str | Path) -> Any:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=180)
        assert out.count("\n") == 1, out + err
        told = json.loads(out)
        assert "code" not in (told.get("error") or {}), out + err
        return told

    def logs(self) -> str:
        """Everything that was logged below the home."""
        return "".join(file.read_text() for file in sorted((self.home / "logs").glob("*.log*")))

    def orchestrator_pid(self) -> int:
        return int(json.loads((self.home / "owner.json").read_text())["pid"])

    def told(self, run_id: str) -> bool:
        """Whether Slack shows the run's end, and the log that it was told."""
        with open_reader(StoreSettings(), self.home) as log:
            effects = log.state(run_id).effects.values()
        roots = [root for root in self.slack.roots if root.key == f"{run_id}:run:root"]
        is_settled = bool(effects) and all(effect.outcome for effect in effects)
        if not is_settled or len(roots) != 1 or "succeeded" not in roots[0].text:
            return False
        return any("*succeeded*" in reply.text for reply in self.slack.replies(roots[0]))


def until(claim: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.2)


def owner_of(port: int) -> int:
    """The process that holds a connection from this local port."""
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    (inode,) = {line.split()[9] for line in table if line.split()[1].endswith(f":{port:04X}")} - {"0"}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == f"socket:[{inode}]":
                return int(link.parts[2])
        except OSError:
            continue
    raise AssertionError(f"nobody holds port {port}")


def assert_each_message_once(slack: SlackStandIn) -> None:
    keys = [message.key for message in slack.messages]
    assert len(keys) == len(set(keys))
    for root in slack.roots:
        lines = [line for reply in slack.replies(root) for line in reply.text.split("\n")]
        ends = [line for line in lines if line.startswith("*succeeded*")]
        assert lines.count("started") == (1 if ":run:" in root.key else 0)
        assert len(ends) == (1 if ":run:" in root.key else 0)


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    with SlackStandIn() as slack:
        made = Factory(tmp_path_factory.mktemp("slack"), slack)
        made.raysmith("up")
        try:
            yield made
        finally:
            made.raysmith("down")


@pytest.mark.parametrize("what", [":run:root", ":run:reply:"])
def test_a_reporter_killed_between_post_and_record_doubles_and_loses_nothing(
    factory: Factory, what: str
) -> None:
    killed: list[int] = []

    def kill(given: dict[str, Any]) -> None:
        if not killed and what in given["metadata"]["event_payload"]["key"]:
            killed.append(owner_of(given["_port"]))
            os.kill(killed[0], signal.SIGKILL)

    factory.slack.fail(method="chat.postMessage", times=3, is_done_all_the_same=True, then=kill)
    result = factory.raysmith("test", factory.folder / "green")
    until(lambda: factory.told(result["run_id"]))
    factory.slack.heal()

    assert killed
    assert killed[0] != factory.orchestrator_pid()
    assert_each_message_once(factory.slack)
    with open_reader(StoreSettings(), factory.home) as log:
        outcomes = [effect.outcome for effect in log.state(result["run_id"]).effects.values()]
    assert "found" in outcomes


def test_an_orchestrator_killed_between_post_and_record_doubles_and_loses_nothing(factory: Factory) -> None:
    killed: list[int] = []

    def kill(_given: dict[str, Any]) -> None:
        if not killed:
            killed.append(factory.orchestrator_pid())
            os.kill(killed[0], signal.SIGKILL)

    factory.slack.fail(method="chat.postMessage", is_done_all_the_same=True, then=kill)
    result = factory.raysmith("repair", factory.folder / "red")
    assert result["status"] == "succeeded"
    until(lambda: factory.told(result["run_id"]))

    assert killed
    assert factory.orchestrator_pid() != killed[0]
    assert_each_message_once(factory.slack)


def test_slack_down_slows_no_run_and_a_restarted_factory_tells_what_was_missed(factory: Factory) -> None:
    factory.slack.down()
    before = len(factory.slack.messages)
    result = factory.raysmith("test", factory.folder / "green")
    assert result["wall_s"] < 60
    began = time.monotonic()
    factory.raysmith("down")
    assert time.monotonic() - began < 30
    assert len(factory.slack.messages) == before

    factory.slack.up()
    factory.raysmith("up")
    until(lambda: factory.told(result["run_id"]))

    assert len(factory.slack.messages) == before + 2
    assert_each_message_once(factory.slack)


def test_a_batch_and_its_runs_are_told_with_the_log_s_totals(factory: Factory) -> None:
    file = factory.folder / "tasks.jsonl"
    lines = [{"id": f"b-{number}", "path": "green", "graph": "test"} for number in range(3)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    results = factory.raysmith("batch", file)["results"]
    run_ids = [result["run_id"] for result in results]
    until(lambda: all(factory.told(run_id) for run_id in run_ids))
    until(lambda: any("3 of 3 runs finished" in root.text for root in factory.slack.roots))

    thread = factory.slack.thread_of("*batch ")
    assert thread.text.endswith("· 3 of 3 runs finished\n3 succeeded")
    assert (
        "\n".join(reply.text for reply in factory.slack.replies(thread)).count(": succeeded, certified") == 3
    )
    assert_each_message_once(factory.slack)


def test_the_token_is_in_no_log_and_no_event(factory: Factory) -> None:
    with open_reader(StoreSettings(), factory.home) as log:
        events = log.feed(0, 100_000)

    assert any(event.type in EFFECTS for _, event in events)
    assert TOKEN not in str(events)
    assert TOKEN not in factory.logs()


def test_a_command_that_ends_its_factory_waits_for_slack_but_not_while_it_is_away(tmp_path: Path) -> None:
    with SlackStandIn() as slack:
        made = Factory(tmp_path, slack)
        made.environ["RAYSMITH_SLACK__FLUSH_S"] = "30"

        slack.fail(status=500, times=10_000)
        missed = made.raysmith("test", made.folder / "green")
        assert slack.messages == []
        slack.heal()
        told = made.raysmith("test", made.folder / "green")

        assert made.told(told["run_id"])
        assert made.told(missed["run_id"])
        assert_each_message_once(slack)


def test_a_wrong_token_stops_no_run_and_the_doctor_says_so(tmp_path: Path) -> None:
    with SlackStandIn(token="xoxb-another-0123456789") as slack:
        made = Factory(tmp_path, slack)

        assert made.raysmith("test", made.folder / "green")["status"] == "succeeded"
        with made.start("doctor") as process:
            out, _ = process.communicate(timeout=120)

        (check,) = [each for each in json.loads(out)["checks"] if each["name"] == "slack"]
        assert (check["ok"], "invalid_auth" in check["found"]) == (None, True)
        assert made.logs().count("slack_is_away") == 1
        assert TOKEN not in made.logs() + out
        assert slack.messages == []
