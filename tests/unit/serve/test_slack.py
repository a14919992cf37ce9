"""The reporter against a log in memory and a Slack of our own: every fault, and nothing doubled or lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from slack_stand_in import CHANNEL, TOKEN, SlackStandIn
from structlog.testing import capture_logs

from cluster.event_log_memory import MemoryEventLog
from cluster.outbox import Outbox
from orchestrator.errors import StaleEpoch, StoreDamaged, TaskError
from orchestrator.events import EFFECTS, Kind, NewEvent, fold
from serve.slack import SlackReporter, build_reporter, look, reporter_config
from serve.slack_settings import SlackSettings

DIFF = b"--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,3 @@\n one\n-two\n+2\n+3\n"
VERDICT = {
    "passed": ["test_a.py::test_a"],
    "certified": True,
    "judge": "in_process",
    "sandbox_level": "namespace",
}


class LocalEffects:
    """The outbox without Ray between; `before_settle` stands for a crash between answer and record."""

    def __init__(self, log: MemoryEventLog, term: str = "t") -> None:
        self.outbox = Outbox(log, effect="slack", term=term)
        self.term = term
        self.before_settle: Callable[[str], None] = lambda _key: None

    async def cursor(self) -> int:
        return await self.outbox.cursor(self.term)

    async def advance(self, position: int) -> None:
        await self.outbox.advance(self.term, position)

    async def intend(self, run_id: str, key: str, data: Mapping[str, Any]) -> None:
        await self.outbox.record(self.term, run_id, key, None, data)

    async def settle(self, run_id: str, key: str, outcome: str, data: Mapping[str, Any]) -> None:
        self.before_settle(key)
        await self.outbox.record(self.term, run_id, key, outcome, data)


class Crash(BaseException):
    """The reporter's process is gone."""


class Scene:
    """A log, a Slack and a reporter between them that can be killed and started anew."""

    def __init__(self, slack: SlackStandIn, settings: SlackSettings) -> None:
        self.slack = slack
        self.settings = settings
        self.log = MemoryEventLog()
        self.effects = LocalEffects(self.log)
        self.reporter: SlackReporter | None = None
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> SlackReporter:
        await self.effects.cursor()
        self.reporter = SlackReporter(
            self.settings, log=self.log, load=lambda _digest: DIFF, effects=self.effects
        )
        self.task = asyncio.create_task(self.reporter.run())
        return self.reporter

    async def kill(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Crash, StaleEpoch):
                await self.task

    async def told(self, timeout_s: float = 10.0) -> None:
        """Wait until there is nothing left to tell."""
        assert self.reporter is not None
        deadline = time.monotonic() + timeout_s
        while not await self.reporter.flush(max(0.1, deadline - time.monotonic())):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    async def run(
        self, run_id: str = "r-1", *, end: bool = True, name: str = "calculator", **inputs: Any
    ) -> None:
        task = {"id": name, "graph": "repair", "budget": {"attempts": 5}, "inputs": inputs}
        await self.fact(run_id, Kind.RUN_SUBMITTED, {"task": task})
        await self.fact(run_id, Kind.RUN_STARTED, {})
        await self.fact(run_id, Kind.ATTEMPT_STARTED, {"failing": ["t1", "t2"]}, attempt=1)
        if end:
            await self.end(run_id)

    async def end(self, run_id: str = "r-1", status: str = "succeeded", reason: str = "certified") -> None:
        await self.fact(run_id, Kind.VERDICT_REACHED, {"verdict": VERDICT}, attempt=1)
        data = {
            "status": status,
            "reason": reason,
            "attempts": 1,
            "verdict": VERDICT,
            "diff": "d" * 64,
            "candidates": 12,
            "wall_s": 3.25,
        }
        await self.fact(run_id, Kind.RUN_FINISHED, data)

    async def fact(self, run_id: str, kind: Kind, data: Mapping[str, Any], **envelope: Any) -> None:
        await self.log.append([NewEvent(run_id=run_id, type=kind, data=data, **envelope)])

    def effects_of(self, run_id: str = "r-1") -> list[tuple[str, str | None]]:
        return [(effect.key, effect.outcome) for effect in self.log.state(run_id).effects.values()]


@pytest.fixture
def slack() -> Iterator[SlackStandIn]:
    with SlackStandIn() as server:
        yield server


@pytest.fixture
def settings(slack: SlackStandIn) -> SlackSettings:
    return SlackSettings(
        token=SecretStr(TOKEN),
        channel=CHANNEL,
        base_url=slack.base_url,
        timeout_s=0.4,
        pace_s=0.0,
        edit_every_s=0.2,
        recheck_s=0.3,
    )


@pytest.fixture
async def scene(slack: SlackStandIn, settings: SlackSettings) -> AsyncIterator[Scene]:
    made = Scene(slack, settings)
    yield made
    await made.kill()


async def until(claim: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)


async def test_a_run_has_one_thread_that_tells_it_from_start_to_end(scene: Scene) -> None:
    await scene.start()
    await scene.run()
    await scene.told()

    (root,) = scene.slack.roots
    assert root.text == (
        ":white_check_mark: *calculator* · repair · succeeded: certified\n"
        "1 attempt · 12 candidates · diff +2 −1 in 1 file · 3.2 s · judge in_process, sandbox namespace"
        " · run `r-1`"
    )
    lines = [line for reply in scene.slack.replies(root) for line in reply.text.split("\n")]
    assert lines == [
        "started",
        "attempt 1: 2 tests fail",
        "1 passed; certified (judge in_process, sandbox namespace)",
        "*succeeded*: certified; diff +2 −1 in 1 file",
    ]
    assert root.blocks[0]["text"] == {"type": "mrkdwn", "text": root.text, "verbatim": True}
    assert all(outcome == "sent" for _, outcome in scene.effects_of())


async def test_the_root_is_edited_while_the_run_goes_on_but_not_often(scene: Scene) -> None:
    await scene.start()
    await scene.run(end=False)
    await until(lambda: scene.slack.roots)
    # Fewer lines than one message holds: a reporter that is late tells them all at once.
    for number in range(2, 20):
        await scene.fact("r-1", Kind.ATTEMPT_STARTED, {"failing": ["t"]}, attempt=number)
        await asyncio.sleep(0.03)
    await scene.end()
    await until(lambda: "succeeded" in scene.slack.roots[0].text)
    await scene.told()

    (root,) = scene.slack.roots
    assert any(f"attempt {number} of" in "".join(root.texts) for number in range(2, 20))
    gaps = [later - earlier for earlier, later in zip(root.edited_at, root.edited_at[1:], strict=False)]
    assert len(root.edited_at) < 12
    assert all(gap > 0.15 for gap in gaps[:-1])
    told = "\n".join(reply.text for reply in scene.slack.replies(root))
    assert [f"attempt {number}: " in told for number in range(1, 20)] == [True] * 19


async def test_what_was_there_before_slack_was_switched_on_is_not_told(scene: Scene) -> None:
    await scene.run("r-old")
    await scene.start()
    await scene.run("r-new")
    await scene.told()

    assert [root.key for root in scene.slack.roots] == ["r-new:run:root"]


async def test_a_batch_has_a_thread_of_its_own_with_counts_and_results(scene: Scene) -> None:
    await scene.start()
    await scene.run("r-1", name="one", batch="tasks-1", batch_size=3)
    await scene.run("r-2", name="two", batch="tasks-1", batch_size=3, end=False)
    await scene.told()
    thread = scene.slack.thread_of("*batch tasks-1*")
    assert "1 of 3 runs finished\n1 running · 1 succeeded · 1 not handed over yet" in thread.text

    await scene.end("r-2", "failed", "stuck")
    await scene.run("r-3", name="three", batch="tasks-1", batch_size=3)
    await scene.told()

    assert thread.text == ":x: *batch tasks-1* · 3 of 3 runs finished\n2 succeeded · 1 failed"
    lines = [line for reply in scene.slack.replies(thread) for line in reply.text.split("\n")]
    assert [line.split(" (")[0] for line in lines] == [
        ":white_check_mark: one: succeeded, certified",
        ":x: two: failed, stuck",
        ":white_check_mark: three: succeeded, certified",
    ]
    assert len(scene.slack.roots) == 4


@pytest.mark.parametrize("what", ["root", "reply"])
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 500, "is_done_all_the_same": True},
        {"error": "internal_error", "is_done_all_the_same": True},
        {"delay_s": 0.8, "is_done_all_the_same": True},
        {"hang_up": True},
        {"hang_up": True, "is_done_all_the_same": True},
        {"retry_after_s": 1},
        {"retry_after_s": 1, "times": 4},
    ],
    ids=str,
)
async def test_a_post_that_fails_is_there_once_in_the_end(
    scene: Scene, what: str, fault: dict[str, Any]
) -> None:
    await scene.start()
    if what == "reply":
        await scene.run(end=False)
        await scene.told()
        scene.slack.fail(method="chat.postMessage", **fault)
        await scene.end()
    else:
        scene.slack.fail(method="chat.postMessage", **fault)
        await scene.run()
    await until(lambda: not scene.slack.faults, 20)
    await until(lambda: scene.reporter and not scene.reporter._is_paused, 20)
    await scene.told(15)

    keys = [message.key for message in scene.slack.messages]
    assert len(keys) == len(set(keys))
    (root,) = scene.slack.roots
    lines = [line for reply in scene.slack.replies(root) for line in reply.text.split("\n")]
    assert len(lines) == len(set(lines)) == 4
    assert "succeeded: certified" in root.text
    assert all(outcome in ("sent", "found") for _, outcome in scene.effects_of())


@pytest.mark.parametrize("fault", [{"status": 500, "times": 2}, {"retry_after_s": 1}], ids=str)
async def test_an_edit_is_simply_repeated(scene: Scene, fault: dict[str, Any]) -> None:
    await scene.start()
    await scene.run(end=False)
    await scene.told()

    scene.slack.fail(method="chat.update", **fault)
    await scene.end()
    await scene.told()

    assert "succeeded" in scene.slack.roots[0].text


@pytest.mark.parametrize("settled", ["root", "reply"])
async def test_a_crash_between_answer_and_record_doubles_and_loses_nothing(
    scene: Scene, settled: str
) -> None:
    def crash(key: str) -> None:
        if f":{settled}" in key:
            raise Crash

    scene.effects.before_settle = crash
    await scene.start()
    await scene.run()
    assert scene.task is not None
    with pytest.raises(Crash):
        await scene.task
    assert [outcome for _, outcome in scene.effects_of()][-1] is None

    scene.effects = LocalEffects(scene.log)
    await scene.start()
    await scene.told()

    keys = [message.key for message in scene.slack.messages]
    assert sorted(keys) == sorted(
        {"r-1:run:root", *(key for key, _ in scene.effects_of() if ":reply:" in key)}
    )
    assert "found" in [outcome for _, outcome in scene.effects_of()]
    told = "\n".join(reply.text for reply in scene.slack.replies(scene.slack.roots[0]))
    assert told.count("\n") == 3


async def test_an_intent_that_never_reached_slack_is_carried_out_after_a_crash(scene: Scene) -> None:
    await scene.start()
    await scene.kill()
    await scene.run()
    await scene.effects.intend("r-1", "r-1:run:root", {"channel": CHANNEL, "upto": "", "try": 1})

    await scene.start()
    await scene.told()

    assert [message.key for message in scene.slack.roots] == ["r-1:run:root"]
    assert "conversations.history" in scene.slack.methods()


async def test_a_message_is_found_among_many_others(scene: Scene) -> None:
    await scene.start()
    scene.slack.fail(method="chat.postMessage", status=500, is_done_all_the_same=True)
    await scene.run("r-1")
    await until(lambda: scene.slack.messages)
    for number in range(2, 10):
        scene.slack._post({"channel": CHANNEL, "text": f"chatter {number}"})
    await until(lambda: scene.reporter and not scene.reporter._is_paused)
    await scene.told()

    assert [message.key for message in scene.slack.roots if message.key] == ["r-1:run:root"]
    assert scene.slack.methods().count("conversations.history") >= 3


async def test_an_outage_is_caught_up_without_a_flood(scene: Scene) -> None:
    await scene.start()
    scene.slack.down()
    for number in range(1, 6):
        await scene.run(f"r-{number}", name=f"task-{number}", end=False)
    await until(lambda: scene.reporter and scene.reporter._is_paused)
    for number in range(1, 6):
        for attempt in range(2, 20):
            await scene.fact(f"r-{number}", Kind.ATTEMPT_STARTED, {"failing": ["t"]}, attempt=attempt)
        await scene.end(f"r-{number}")
    assert scene.slack.calls == []

    scene.slack.up()
    await until(lambda: scene.reporter and not scene.reporter._is_paused and not scene.reporter._trouble)
    await scene.told()

    assert len(scene.slack.roots) == 5
    # One that was under way when Slack went may need an edit; the others start with their last state.
    assert [len(scene.slack.replies(root)) for root in scene.slack.roots] == [1] * 5
    assert all("succeeded" in root.text for root in scene.slack.roots)
    assert scene.slack.methods().count("chat.update") <= 1


async def test_while_slack_is_down_it_is_asked_ever_more_rarely_and_told_of_once(scene: Scene) -> None:
    await scene.start()
    scene.slack.fail(status=500, times=10_000)
    with capture_logs() as logs:
        await scene.run()
        await asyncio.sleep(4.0)

    tries = [at for at, method, _ in scene.slack.calls if method in ("chat.postMessage", "auth.test")]
    assert len(tries) <= 10
    assert len([line for line in logs if line["event"] == "slack_is_away"]) <= 2
    assert TOKEN not in str(logs)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"token": SecretStr("xoxb-wrong-000000")}, "invalid_auth"),
        ({"channel": "C0000000000"}, "channel_not_found"),
        ({"channel": ""}, "no channel"),
        ({"token_file": "/nowhere/token"}, "token unreadable"),
    ],
)
async def test_a_wrong_token_or_channel_is_one_line_and_no_storm(
    scene: Scene, change: dict[str, Any], told: str
) -> None:
    scene.settings = replace(scene.settings, recheck_s=1.0, **change)
    with capture_logs() as logs:
        await scene.start()
        for number in range(5):
            await scene.run(f"r-{number}")
        await asyncio.sleep(0.8)

    lines = [line for line in logs if line["log_level"] in ("warning", "error")]
    assert len(lines) == 1
    assert told in lines[0]["reason"]
    assert "xoxb-" not in str(logs)
    assert len(scene.slack.calls) <= 2
    assert "chat.postMessage" not in scene.slack.methods()
    assert scene.reporter is not None
    assert await scene.reporter.flush(5.0) is False


async def test_a_token_that_is_mended_is_taken_up_without_a_restart(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("xoxb-wrong-000000\n")
    scene.settings = replace(scene.settings, token=SecretStr(""), token_file=str(file))
    await scene.start()
    await scene.run()
    await until(lambda: scene.reporter and scene.reporter._trouble)

    file.write_text(f"{TOKEN}\n")

    await until(lambda: len(scene.slack.messages) == 2)


async def test_a_root_that_somebody_deleted_costs_its_own_thread_only(scene: Scene) -> None:
    await scene.start()
    await scene.run("r-1", end=False)
    await scene.told()
    scene.slack.messages.clear()

    await scene.end("r-1")
    await scene.run("r-2", name="other")
    await scene.told()

    assert [root.key for root in scene.slack.roots] == ["r-2:run:root"]
    assert {outcome for _, outcome in scene.effects_of("r-1")} == {"sent", "refused"}


async def test_a_run_whose_events_cannot_be_read_stops_no_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scene.log.events

    def events(run_id: str, *rest: Any) -> Any:
        if run_id == "r-1":
            raise StoreDamaged("event 2 is not JSON")
        return whole(run_id, *rest)

    monkeypatch.setattr(scene.log, "events", events)
    await scene.start()

    await scene.run("r-1")
    await scene.run("r-2")

    await until(lambda: len(scene.slack.messages) == 2)
    assert scene.slack.roots[0].key == "r-2:run:root"


async def test_a_second_reporter_ends_the_first(scene: Scene) -> None:
    await scene.start()
    assert scene.task is not None

    scene.effects.outbox = Outbox(scene.log, effect="slack", term="another")
    await scene.run()

    with pytest.raises(StaleEpoch):
        await asyncio.wait_for(scene.task, 10)
    assert scene.slack.messages == []


async def test_after_a_restart_only_what_is_new_is_told(scene: Scene) -> None:
    await scene.start()
    await scene.run("r-1")
    await scene.run("r-2", end=False)
    await scene.told()
    await scene.kill()
    before = len(scene.slack.messages)

    await scene.end("r-2")
    await scene.run("r-3")
    await scene.start()
    await scene.told()

    assert len(scene.slack.roots) == 3
    assert len(scene.slack.messages) == before + 3
    assert scene.log.meta("outbox.slack") == str(scene.log.end() - _trailing_effects(scene.log))


def _trailing_effects(log: MemoryEventLog) -> int:
    kinds = [event.type in EFFECTS for _, event in log.feed(int(log.meta("outbox.slack") or 0))]
    assert all(kinds)
    return len(kinds)


async def test_a_run_taken_up_again_goes_on_in_its_thread(scene: Scene) -> None:
    await scene.start()
    await scene.run(end=False)
    await scene.end("r-1", "failed", "budget_exhausted")
    await scene.told()
    await scene.fact("r-1", Kind.RUN_RESUMED, {})
    await scene.end("r-1")
    await scene.told()

    (root,) = scene.slack.roots
    assert ":white_check_mark:" in root.text
    assert fold(scene.log.events("r-1")).status == "succeeded"


async def test_the_configuration_crosses_as_plain_values_and_hides_the_token_in_text(
    settings: SlackSettings,
) -> None:
    config = reporter_config(settings)
    log = MemoryEventLog()

    made = build_reporter(config, log=log, load=lambda _: b"", effects=LocalEffects(log))

    assert config["token"] == TOKEN
    assert made._settings == settings
    assert TOKEN not in repr(settings)


async def test_the_doctor_looks_at_token_and_channel(slack: SlackStandIn, settings: SlackSettings) -> None:
    assert await look(settings) == f"raysmith of Stand-in in {CHANNEL}"

    with pytest.raises(TaskError, match="invalid_auth"):
        await look(replace(settings, token=SecretStr("xoxb-wrong-000000")))
    with pytest.raises(TaskError, match="channel_not_found"):
        await look(replace(settings, channel="C0000000000"))
    slack.down()
    with pytest.raises(TaskError, match="does not answer"):
        await look(settings)


async def test_an_app_that_may_not_look_messages_up_posts_none(scene: Scene) -> None:
    scene.slack.fail(method="conversations.history", error="missing_scope", times=2)
    with capture_logs() as logs:
        await scene.start()
        await scene.run()
        await until(lambda: not scene.slack.faults)
        assert scene.slack.messages == []

        await until(lambda: len(scene.slack.messages) == 2)

    (line,) = [line for line in logs if line["event"] == "slack_is_away"]
    assert "channels:history" in line["reason"]


async def test_what_waits_for_slack_stays_in_the_log_and_not_in_memory(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.slack.MOST_OPEN", 4)
    monkeypatch.setattr("serve.slack._READ", 5)
    scene.slack.down()
    reporter = await scene.start()
    for number in range(40):
        await scene.run(f"r-{number}")
    await until(lambda: reporter._is_paused)
    await asyncio.sleep(0.5)
    assert len(reporter._open) < 10

    scene.slack.up()
    await until(lambda: len(scene.slack.messages) == 80, 30)

    assert len({message.key for message in scene.slack.messages}) == 80
