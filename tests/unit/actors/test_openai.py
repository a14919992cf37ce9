"""The endpoint engine against a real HTTP server that plays each fault."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from openai_stand_in import USAGE, Act, StandIn, completion, error, say, stand_in

from actors.engines.answers import BadAnswer, read_answer
from actors.engines.faults import Key
from actors.engines.names import parse_model
from actors.engines.openai import OpenAIEngine
from actors.engines.pauses import pause_s, retry_after_s
from actors.engines.port import Message, Sampling, Structured, Unusable
from actors.engines.settings import EndpointSettings, SamplingSettings
from orchestrator.errors import AgentError, EngineDown, PromptTooLong, RaysmithError

ASK = [Message(role="user", content="write")]
SECRET = "sk-very-secret-0123456789"
FAST = {"longest_pause_s": 0.02, "timeout_s": 60.0, "connect_timeout_s": 30.0}


@asynccontextmanager
async def asking(
    server: StandIn, *, key: str | None = SECRET, sampling: SamplingSettings | None = None, **settings: Any
) -> AsyncIterator[OpenAIEngine]:
    model = f"{server.url}#m"
    engine = OpenAIEngine(
        parse_model(model),
        name=model,
        key=Key(secret=key, source="RAYSMITH_ENDPOINT_KEY") if key else None,
        endpoint=EndpointSettings(**{**FAST, **settings}),
        sampling=sampling,
    )
    try:
        yield engine
    finally:
        await engine.close()


async def test_a_reply_comes_with_its_usage() -> None:
    async with stand_in(say("hello")) as server, asking(server) as engine:
        reply = await engine.complete("code", ASK)

    assert (reply.text, reply.finish_reason) == ("hello", "stop")
    assert (reply.usage.prompt, reply.usage.completion, reply.usage.cached) == (100, 20, 64)
    assert (reply.usage.requests, reply.usage.retries, reply.usage.cost_usd) == (1, 0, 0.0)


async def test_a_reply_that_never_ended_to_repeat_itself_is_told_as_such_and_cut() -> None:
    row = "a.py\n```\nx = 1\n```\n" + "And once more.\n" * 500
    async with stand_in(say(row, finish_reason="length")) as server, asking(server) as engine:
        reply = await engine.complete("code", ASK)

    assert reply.finish_reason == "repetition"
    assert reply.text == "a.py\n```\nx = 1\n```\nAnd once more."
    # It was paid for in full.
    assert reply.usage.completion == 20


async def test_a_request_holds_the_messages_and_how_to_draw() -> None:
    sampling = SamplingSettings(temperature=0.5, top_p=None, max_tokens=1000)
    async with stand_in(say("x")) as server, asking(server, sampling=sampling) as engine:
        await engine.complete("code", ASK, Sampling(max_tokens=50, seed=7))
        await engine.complete("code", ASK, Sampling(max_tokens=5000))

    first, second = server.requests
    assert first["messages"] == [{"role": "user", "content": "write"}]
    assert (first["model"], first["temperature"], first["max_tokens"], first["seed"]) == ("m", 0.5, 50, 7)
    assert "top_p" not in first
    assert second["max_tokens"] == 1000


async def test_openai_itself_is_asked_in_its_new_words() -> None:
    engine = OpenAIEngine(parse_model("openai:gpt"), name="openai:gpt", key=None)

    request = engine._request(ASK, Sampling())

    assert request["max_completion_tokens"] == 8192
    assert "max_tokens" not in request


async def test_configured_prices_make_the_cost() -> None:
    prices = {"prompt_usd": 1.0, "cached_usd": 0.5, "completion_usd": 10.0}
    async with stand_in(say("x")) as server, asking(server, **prices) as engine:
        reply = await engine.complete("code", ASK)

    assert reply.usage.cost_usd == pytest.approx((36 * 1 + 64 * 0.5 + 20 * 10) / 1e6)


async def test_the_endpoints_own_cost_counts_where_no_price_is_configured() -> None:
    async with stand_in(say("x", usage={"prompt_tokens": 5, "cost": 0.25})) as server:
        async with asking(server) as engine:
            reply = await engine.complete("code", ASK)

    assert reply.usage.cost_usd == 0.25


@pytest.mark.parametrize(
    "fault",
    [
        Act(status=429, body=error("slow down"), headers={"retry-after": "0"}),
        Act(status=429, body=error("slow down")),
        Act(status=500, body=error("broken")),
        Act(status=503, body=b"<html>busy</html>"),
        Act(status=529),
        Act(drop=True),
        Act(body=b"<html>a proxy</html>"),
        Act(body=b""),
        Act(body=b"[1, 2]"),
        Act(body=b'{"error": {"code": 502, "message": "upstream"}}'),
    ],
    ids=["429-told", "429", "500", "503-html", "529", "dropped", "html", "nothing", "list", "error-in-200"],
)
async def test_a_passing_fault_is_asked_again_and_counted(fault: Act) -> None:
    async with stand_in(fault, fault, say("hello")) as server, asking(server) as engine:
        reply = await engine.complete("code", ASK)

    assert reply.text == "hello"
    assert (reply.usage.retries, len(server.requests)) == (2, 3)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Act(status=429, body=error("slow down")), "answered 429: slow down"),
        (Act(status=500, body=error("broken")), "answered 500: broken"),
        (Act(body=b"<html>"), "answered with 6 bytes that are no JSON"),
        (Act(drop=True), "cannot be reached: "),
    ],
    ids=["429", "500", "html", "dropped"],
)
async def test_a_lasting_fault_ends_in_an_error_after_bounded_tries(fault: Act, words: str) -> None:
    async with stand_in(fault) as server, asking(server, retries=3) as engine:
        with pytest.raises(EngineDown) as told:
            await engine.complete("code", ASK)

    assert words in told.value.message and told.value.next_move
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("status", "words", "next_move"),
    [
        (401, "bad key", "check the key in RAYSMITH_ENDPOINT_KEY"),
        (402, "no credit", "top up the account, or use another model"),
        (403, "not you", "check what the key in RAYSMITH_ENDPOINT_KEY may do"),
        (404, "no model", "check the address and that it serves 'm'"),
        (422, "odd", "check the model's name and sampling"),
    ],
)
async def test_a_refusal_is_told_at_once(status: int, words: str, next_move: str) -> None:
    async with stand_in(Act(status=status, body=error(words))) as server, asking(server) as engine:
        with pytest.raises(EngineDown) as told:
            await engine.complete("code", ASK)

    assert told.value.message.endswith(f"answered {status}: {words}")
    assert told.value.next_move == next_move
    assert len(server.requests) == 1


async def test_retry_after_is_waited_for() -> None:
    busy = Act(status=429, body=error("later"), headers={"retry-after": "0.2"})
    async with stand_in(busy, say("hello")) as server, asking(server, longest_pause_s=1.0) as engine:
        began = asyncio.get_running_loop().time()
        await engine.complete("code", ASK)
        waited_s = asyncio.get_running_loop().time() - began

    assert waited_s >= 0.2


async def test_an_endpoint_that_wants_to_be_left_alone_for_long_is_down() -> None:
    busy = Act(status=429, body=error("quota"), headers={"retry-after": "3600"})
    async with stand_in(busy) as server, asking(server) as engine:
        with pytest.raises(EngineDown, match="asks to wait 3600 s"):
            await engine.complete("code", ASK)

    assert len(server.requests) == 1


async def test_a_hanging_connection_ends_at_its_time_limit() -> None:
    async with stand_in(Act(hang=True)) as server, asking(server, timeout_s=0.2, retries=1) as engine:
        with pytest.raises(EngineDown, match=r"gave no whole answer within 0\.2 s"):
            await engine.complete("code", ASK)

    assert len(server.requests) == 2


async def test_nobody_there_is_told_with_the_address() -> None:
    async with stand_in(say("x")) as server:
        url = server.url
    engine = OpenAIEngine(
        parse_model(f"{url}#m"), name="m", key=None, endpoint=EndpointSettings(**FAST, retries=1)
    )

    with pytest.raises(EngineDown) as told:
        await engine.complete("code", ASK)
    await engine.close()

    assert url in told.value.message
    assert told.value.next_move == "start it, or mend the address in --model"


@pytest.mark.parametrize(
    "body",
    [
        completion(""),
        completion("  \n"),
        completion(None),
        completion(7),
        b'{"choices": []}',
        b'{"choices": [null]}',
        b'{"choices": [{"message": null}]}',
    ],
)
async def test_an_empty_reply_is_for_the_agent_to_ask_again(body: bytes) -> None:
    async with stand_in(Act(body=body)) as server, asking(server) as engine:
        with pytest.raises(AgentError, match="an empty reply"):
            await engine.complete("code", ASK)

    assert len(server.requests) == 1


async def test_a_huge_reply_is_not_read_to_its_end() -> None:
    async with stand_in(Act(body=b"x" * 1024, repeat=10 * 1024)) as server:
        async with asking(server, reply_kib=64) as engine:
            with pytest.raises(AgentError, match="more than 64 KiB"):
                await engine.complete("code", ASK)


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 2048 tokens. However, you requested 9000 tokens",
        "prompt is too long: 210000 tokens > 200000 maximum",
    ],
)
async def test_a_prompt_that_does_not_fit_is_told_apart(words: str) -> None:
    async with stand_in(Act(status=400, body=error(words))) as server, asking(server) as engine:
        with pytest.raises(PromptTooLong):
            await engine.complete("code", ASK)


async def test_a_cancelled_request_is_dropped_at_the_endpoint() -> None:
    async with stand_in(Act(hang=True)) as server, asking(server) as engine:
        asking_ = asyncio.create_task(engine.complete("code", ASK))
        await server.asked.wait()
        asking_.cancel()

        with pytest.raises(asyncio.CancelledError):
            await asking_
        await asyncio.wait_for(server.hung_up.wait(), 30)


async def test_the_key_is_sent_and_never_shown(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = Act(status=401, body=error(f"Incorrect API key provided: {SECRET}"))
    busy = Act(status=500, body=error(f"who is {SECRET}?"))
    async with stand_in(busy, echo) as server, asking(server) as engine:
        with pytest.raises(RaysmithError) as told:
            await engine.complete("code", ASK)

    printed = capsys.readouterr()
    assert server.headers[0]["authorization"] == f"Bearer {SECRET}"
    assert "[key]" in told.value.message
    for shown in (str(told.value), repr(told.value), repr(engine._key), caplog.text, *printed):
        assert SECRET not in shown


async def test_an_endpoint_without_a_key_gets_none_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OPENAI_API_KEY", "OPENROUTER_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, SECRET)

    async with stand_in(say("x")) as server, asking(server, key=None) as engine:
        await engine.complete("code", ASK)

    assert SECRET not in str(server.headers)


async def test_a_provider_without_its_key_says_where_it_belongs() -> None:
    engine = OpenAIEngine(parse_model("openrouter:a/b"), name="openrouter:a/b", key=None)

    with pytest.raises(EngineDown, match="OPENROUTER_API_KEY"):
        await engine.complete("code", ASK)


async def test_the_room_is_what_a_vllm_server_tells() -> None:
    async with stand_in(say("x")) as server:
        server.models = [{"id": "other", "max_model_len": 5}, {"id": "m", "max_model_len": 2048}]
        async with asking(server) as engine:
            measure = await engine.measure([Message(role="user", content="x" * 300)])

    assert (measure.room, measure.prompt) == (2048, 116)


async def test_the_configured_room_goes_before_what_is_told() -> None:
    async with stand_in(say("x")) as server, asking(server, context_tokens=999) as engine:
        assert (await engine.measure(ASK)).room == 999


async def test_health_is_an_answer() -> None:
    async with stand_in(say("x")) as server, asking(server) as engine:
        await engine.check_health()
    with pytest.raises(EngineDown):
        await engine.check_health()
    await engine.close()


@pytest.mark.parametrize(
    "body",
    [b"\xff", b"{", b"null", b"7", b'"x"', b'{"choices": 3}', b"[" * 100_000, b'{"choices": {"0": 1}}'],
)
def test_any_other_body_is_no_completion(body: bytes) -> None:
    with pytest.raises(BadAnswer) as told:
        read_answer(body)

    assert told.value.is_protocol


def test_odd_usage_counts_as_none() -> None:
    odd = {"prompt_tokens": "many", "completion_tokens": -3, "prompt_tokens_details": 4, "cost": float("nan")}

    usage = read_answer(completion("x", usage=odd)).usage

    assert (usage.prompt, usage.completion, usage.cached, usage.cost_usd) == (0, 0, 0, 0.0)


def test_a_reply_in_parts_is_put_together() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]

    assert read_answer(completion(parts)).text == "ab"


def test_pauses_double_within_their_bound_and_vary() -> None:
    shortest = [pause_s(tries, None, 10.0, 0.0) for tries in range(1, 8)]
    longest = [pause_s(tries, None, 10.0, 0.999) for tries in range(1, 8)]

    assert shortest == [0.25, 0.5, 1, 2, 4, 5, 5]
    assert all(low < high <= 10 for low, high in zip(shortest, longest, strict=True))
    assert pause_s(1, 30.0, 60.0, 0.5) == pytest.approx(31.5)


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    date = format_datetime(now + timedelta(seconds=90), usegmt=True)

    assert retry_after_s("2.5", 0) == 2.5
    assert retry_after_s(date, now.timestamp()) == 90
    assert retry_after_s("-4", 0) == 0
    assert [retry_after_s(value, 0) for value in (None, "soon", "nan", "")] == [None] * 4


def many(*texts: str) -> bytes:
    choices = [{"index": i, "message": {"content": text}} for i, text in enumerate(texts)]
    return json.dumps({"choices": choices, "usage": USAGE}).encode()


async def test_several_turns_are_drawn_in_one_request() -> None:
    async with stand_in(Act(body=many("", "b", "c"))) as server, asking(server) as engine:
        reply = await engine.complete("code", ASK, Sampling(n=3))

    assert [request["n"] for request in server.requests] == [3]
    assert (reply.text, reply.others, reply.usage.completion) == ("b", ("c",), 20)


@pytest.mark.parametrize(
    ("structured", "sent"),
    [
        (
            Structured(json={"type": "object"}),
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "reply", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        (Structured(choice=("a", "b")), {"structured_outputs": {"choice": ["a", "b"]}}),
        (Structured(regex="a+"), {"structured_outputs": {"regex": "a+"}}),
        (Structured(grammar='root ::= "a"'), {"structured_outputs": {"grammar": 'root ::= "a"'}}),
    ],
)
async def test_a_structured_reply_is_asked_for_in_the_servers_words(
    structured: Structured, sent: dict[str, Any]
) -> None:
    async with stand_in(say("x")) as server, asking(server) as engine:
        await engine.complete("code", ASK, Sampling(structured=structured))

    assert {name: server.requests[0].get(name) for name in sent} == sent


async def test_what_an_endpoint_does_not_take_is_left_out_from_then_on() -> None:
    def act(request: dict[str, Any]) -> Act:
        if "response_format" in request:
            return Act(status=400, body=error("response_format json_schema is not supported"))
        if "n" in request:
            return Act(status=422, body=error("parameter n must be 1"))
        return say("hello")

    async with stand_in(by=act) as server, asking(server) as engine:
        wanted = Sampling(n=2, structured=Structured(json={"type": "object"}))
        first = await engine.complete("code", ASK, wanted)
        second = await engine.complete("code", ASK, wanted)

    assert (first.text, second.text, len(server.requests)) == ("hello", "hello", 4)


async def test_a_reply_that_cannot_be_used_tells_what_it_cost() -> None:
    prices = {"prompt_usd": 1.0, "cached_usd": 1.0, "completion_usd": 1.0}
    async with stand_in(say("")) as server, asking(server, **prices) as engine:
        with pytest.raises(Unusable) as told:
            await engine.complete("code", ASK)

    again = pickle.loads(pickle.dumps(told.value))
    assert again.usage == told.value.usage
    assert again.usage.cost_usd == pytest.approx(120 / 1e6)


@pytest.mark.parametrize("given", [{}, {"regex": "a", "choice": ("b",)}])
def test_a_structured_reply_has_one_form(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Structured(**given)


async def test_an_endpoint_that_keeps_failing_is_left_alone() -> None:
    async with stand_in(Act(status=500, body=error("broken"))) as server:
        async with asking(server, retries=1, breaker_failures=3) as engine:
            with pytest.raises(EngineDown, match="answered 500"):
                await engine.complete("code", ASK)
            with pytest.raises(EngineDown, match="failed 3 times in a row and is left alone for"):
                await engine.complete("code", ASK)
            with pytest.raises(EngineDown, match="left alone"):
                await engine.complete("code", ASK)

    assert len(server.requests) == 3
