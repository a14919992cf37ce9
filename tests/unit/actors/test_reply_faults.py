"""Every fault of an endpoint and of a reply: bounded, a typed error or a reply all the same, and counted."""

from __future__ import annotations

from typing import Any

import pytest
from openai_stand_in import Act, error, say, stand_in
from scripted_engine import Only, block

from actors.coder import Coder
from actors.engines.faults import Key
from actors.engines.ledger import Ledger, MeteredEngine
from actors.engines.names import parse_model
from actors.engines.openai import OpenAIEngine
from actors.engines.settings import EndpointSettings
from orchestrator.errors import AgentError, EngineDown, PromptTooLong
from orchestrator.steps import EngineCall, WriteRequest, Written
from orchestrator.tree import Tree

GOOD = block("app.py", "x = 1")
JAVASCRIPT = block("app.py", "const x = () => { return 1; };\nmodule.exports = { x };")
CHINESE = "好的,下面是这个函数的实现思路:先读取输入,然后返回结果。"


async def wrote(*acts: Act, **settings: Any) -> tuple[Written | Exception, list[EngineCall]]:
    """What came of a goal, and what the run's log is told of each call."""
    told: list[EngineCall] = []

    async def report(call: EngineCall) -> None:
        told.append(call)

    endpoint = EndpointSettings(**{"longest_pause_s": 0.02, "retries": 2, "reply_kib": 64, **settings})
    async with stand_in(*acts) as server:
        name = f"{server.url}#m"
        key = Key(secret="sk-secret", source="RAYSMITH_ENDPOINT_KEY")
        engine = OpenAIEngine(parse_model(name), name=name, key=key, endpoint=endpoint)
        async with Ledger(report=report).kept():
            try:
                outcome: Written | Exception = await Coder(Only(MeteredEngine(engine))).write(  # type: ignore[arg-type]
                    WriteRequest(goal="Say one.", tree=Tree(), model="m")
                )
            except Exception as raised:
                outcome = raised
        await engine.close()
    return outcome, told


@pytest.mark.parametrize(
    ("fault", "words", "retries"),
    [
        (Act(drop=True), "cannot be reached", 2),
        (Act(status=401, body=error("no")), "answered 401", 0),
        (Act(status=429, body=error("later"), headers={"retry-after": "0"}), "answered 429", 2),
        (Act(status=429, body=error("later")), "answered 429", 2),
        (Act(status=429, body=error("later"), headers={"retry-after": "900"}), "asks to wait 900 s", 0),
        (Act(status=500, body=error("broken")), "answered 500", 2),
        (Act(hang=True), "no whole answer within", 2),
        (Act(body=b"\x00garbage\xff"), "no JSON", 2),
    ],
    ids=["down", "401", "429 told", "429", "429 for long", "500", "hangs", "garbage"],
)
async def test_a_fault_of_the_endpoint_is_one_typed_error_with_its_tries(
    fault: Act, words: str, retries: int
) -> None:
    outcome, (call,) = await wrote(fault, timeout_s=0.3 if fault.hang else 60.0)

    assert isinstance(outcome, EngineDown) and outcome.next_move
    assert words in outcome.message and words in call.error
    assert (call.usage.retries, call.replies) == (retries, ())
    assert "sk-secret" not in str(call) + str(outcome)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (say(""), "an empty reply"),
        (say("x" * 1024, finish_reason="stop"), "holds no file"),
        (Act(body=b" " * 1024, repeat=10 * 1024), "more than 64 KiB"),
        (say("the same again. " * 3000, finish_reason="length"), "holds no file"),
        (say("app.py\n```python\n" + "x = 1\n" * 8000, finish_reason="length"), "ends inside a fenced block"),
        (say(JAVASCRIPT), "is no Python"),
        (say(CHINESE), "holds no file"),
        (say(block("app.py", CHINESE)), "is no Python"),
        (say(block("../../etc/passwd.py", "x = 1")), "cannot be written"),
        (say(block("/root/.ssh/id.py", "x = 1")), "cannot be written"),
    ],
    ids=[
        *("empty", "no file", "10 MB", "endless prose", "endless file", "JavaScript", "Chinese"),
        *("Chinese in a file", "climbing path", "absolute path"),
    ],
)
async def test_a_reply_that_cannot_be_used_is_asked_for_again_and_ends_bounded(
    reply: Act, words: str
) -> None:
    mended, calls = await wrote(reply, say(GOOD))
    lasting, every = await wrote(reply)

    assert isinstance(mended, Written) and mended.files["app.py"].content == b"x = 1\n"
    assert len(calls) == 2 and mended.usage.unusable == 1
    assert isinstance(lasting, AgentError) and words in lasting.message
    assert len(every) == 3
    # Of the turn after it the log tells what was wrong, where the reply itself is not in it.
    assert all(call.replies or words in call.error for call in every)


async def test_a_prompt_larger_than_the_context_is_told_as_such() -> None:
    too_long = Act(status=400, body=error("This model's maximum context length is 16 tokens"))

    outcome, calls = await wrote(too_long)

    assert isinstance(outcome, PromptTooLong | AgentError)
    assert 1 <= len(calls) <= 4
    assert all(call.error.startswith("prompt_too_long: ") for call in calls)
