"""The vLLM engine in this process, on the real AsyncLLM: what it says, counts, refuses and survives.

The model recites what it was taught. That proves plumbing, and nothing of what a model can do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from stories import Story
from tiny import ADAPTER, SERVED, known
from told import ADAPTED, ITSELF, WHO

from actors.engines.ledger import Aborted
from actors.engines.port import Message, Sampling, Structured
from actors.engines.settings import SamplingSettings, VllmSettings
from actors.engines.vllm import VllmEngine
from actors.engines.vllm_turn import INTERVAL_TOKENS
from orchestrator.errors import EngineDown, PromptTooLong

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # What vLLM and torch warn of in this process is theirs.
    pytest.mark.filterwarnings("ignore"),
]


def engine_of(folder: Path, *, lora: dict[str, str] | None = None, **args: object) -> VllmEngine:
    return VllmEngine(
        str(folder),
        settings=VllmSettings(args={**SERVED, **args}, lora=lora or {}),
        sampling=SamplingSettings(temperature=0.0),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_model: Path) -> AsyncIterator[VllmEngine]:
    engine = engine_of(tiny_model, lora={"review": str(tiny_model / ADAPTER)})
    await engine.check_health()
    yield engine
    await engine.close()
    await until(lambda: not cores())


@pytest.fixture(scope="module")
def stories(tiny_model: Path) -> dict[str, Story]:
    return known(tiny_model)


def asking(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def cores() -> list[int]:
    """Living core processes of vLLM that this process started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = (folder / "status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            if (
                "EngineCor" in fields["Name"]
                and int(fields["PPid"]) == os.getpid()
                and fields["State"][0] != "Z"
            ):
                found.append(int(folder.name))
    return found


async def until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("role", ["code", "test", "repair"])
async def test_a_story_is_told_to_the_letter(
    engine: VllmEngine, stories: dict[str, Story], role: str
) -> None:
    reply = await engine.complete(role, asking(stories[f"/add {role}"].prompt))

    assert reply.text == stories[f"/add {role}"].reply
    assert reply.finish_reason == "stop"
    assert reply.usage.requests == 1
    # Seconds on a CPU are no GPU seconds.
    assert reply.usage.gpu_s == 0


async def test_a_role_is_asked_through_its_adapter_and_others_ask_the_model_itself(
    engine: VllmEngine,
) -> None:
    roles = ["code", "review", "test", "review"]

    replies = await asyncio.gather(*(engine.complete(role, asking(WHO)) for role in roles))

    assert [reply.text for reply in replies] == [ITSELF, ADAPTED, ITSELF, ADAPTED]


async def test_an_adapter_that_does_not_fit_the_model_is_told(tiny_model: Path) -> None:
    with pytest.raises(EngineDown, match=r"has no adapter_config\.json"):
        await engine_of(tiny_model, lora={"review": str(tiny_model)}).check_health()


async def test_the_prompt_is_the_models_own_template(engine: VllmEngine) -> None:
    inner = await engine._loaded()
    turns = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="a"),
        Message(role="assistant", content="b"),
        Message(role="user", content="c"),
    ]
    prompt = await engine._rendered(inner, turns)

    told = inner.get_tokenizer().decode(prompt["prompt_token_ids"])

    assert told == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_many_requests_are_worked_on_at_once(engine: VllmEngine, stories: dict[str, Story]) -> None:
    asked = [stories["/add code"], stories["/add test"], stories["/add repair"]] * 4

    replies = await asyncio.gather(*(engine.complete("code", asking(each.prompt)) for each in asked))

    assert [reply.text for reply in replies] == [each.reply for each in asked]


async def test_tokens_are_counted_by_the_engines_own_tokenizer(
    engine: VllmEngine, stories: dict[str, Story]
) -> None:
    measure = await engine.measure(asking(stories["/add repair"].prompt))
    first = await engine.complete("repair", asking(stories["/add repair"].prompt))
    again = await engine.complete("repair", asking(stories["/add repair"].prompt))

    assert measure.room == SERVED["max_model_len"]
    assert measure.prompt == first.usage.prompt > 300
    assert 0 < first.usage.completion < len(first.text)
    # The second time the prompt's whole blocks are in the prefix cache.
    assert 0 < again.usage.cached <= again.usage.prompt


async def test_a_bound_on_tokens_cuts_the_reply(engine: VllmEngine, stories: dict[str, Story]) -> None:
    reply = await engine.complete("code", asking(stories["/add code"].prompt), Sampling(max_tokens=5))

    assert (reply.finish_reason, reply.usage.completion) == ("length", 5)
    assert stories["/add code"].reply.startswith(reply.text)


async def test_a_prompt_that_cannot_fit_is_refused_and_measured(engine: VllmEngine) -> None:
    long = asking("x y z " * 10_000)

    with pytest.raises(PromptTooLong, match="maximum context length is 8192"):
        await engine.complete("code", long)
    measure = await engine.measure(long)

    assert measure.room is not None and measure.prompt > measure.room


async def test_a_cancelled_request_is_aborted_in_the_engine(engine: VllmEngine) -> None:
    # Nothing that it was taught, so that it goes on until its tokens are spent.
    running = asyncio.create_task(engine.complete("code", asking("say it again and again")))
    inner = await engine._loaded()
    await until(lambda: inner.get_num_unfinished_requests() == 1)

    began = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: inner.get_num_unfinished_requests() == 0)

    assert time.monotonic() - began < 5


async def test_several_turns_are_drawn_in_one_request(engine: VllmEngine, stories: dict[str, Story]) -> None:
    sampling = Sampling(n=3, temperature=0.1, max_tokens=20)
    reply = await engine.complete("code", asking(stories["/add code"].prompt), sampling)
    likeliest = await engine.complete(
        "code", asking(stories["/add code"].prompt), Sampling(n=3, max_tokens=20)
    )

    assert [stories["/add code"].reply.startswith(text) for text in (reply.text, *reply.others)] == [True] * 3
    assert (reply.usage.requests, reply.usage.completion) == (1, 60)
    assert (likeliest.others, likeliest.usage.completion) == ((), 20)


@pytest.mark.parametrize(
    ("structured", "fits"),
    [
        (Structured(choice=("yes", "no")), lambda text: text in ("yes", "no")),
        (Structured(regex="[ab]{3}c"), lambda text: re.fullmatch("[ab]{3}c", text)),
        (
            Structured(
                json={
                    "type": "object",
                    "properties": {"n": {"enum": [1, 2]}},
                    "required": ["n"],
                    "additionalProperties": False,
                }
            ),
            lambda text: json.loads(text)["n"] in (1, 2),
        ),
        (Structured(grammar='root ::= "x" | "y" root'), lambda text: re.fullmatch("y*x", text)),
    ],
    ids=["choice", "regex", "json", "grammar"],
)
async def test_a_reply_has_the_form_that_is_asked_for(
    engine: VllmEngine, structured: Structured, fits: Callable[[str], object]
) -> None:
    # Nothing that it was taught: left to itself it would say something else.
    reply = await engine.complete(
        "plan", asking("anything"), Sampling(structured=structured, max_tokens=200, temperature=1.0, seed=3)
    )

    assert fits(reply.text)


async def test_a_reply_is_drawn_in_increments_that_are_counted_when_it_is_cut_short(
    engine: VllmEngine, stories: dict[str, Story]
) -> None:
    inner = await engine._loaded()
    seen: list[int] = []
    generate = inner.generate

    async def watched(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for output in generate(*args, **kwargs):
            seen.append(sum(len(each.token_ids) for each in output.outputs))
            yield output

    inner.generate = watched
    try:
        whole = await engine.complete("code", asking(stories["/add code"].prompt))
        increments, seen[:] = list(seen), []
        running = asyncio.create_task(engine.complete("code", asking(stories["/add code"].prompt)))
        await until(lambda: sum(seen) > INTERVAL_TOKENS)
        running.cancel()
        with pytest.raises(Aborted) as aborted:
            await running
    finally:
        inner.generate = generate

    assert whole.text == stories["/add code"].reply
    assert sum(increments) == whole.usage.completion and len(increments) > 3
    assert max(increments) >= INTERVAL_TOKENS
    assert INTERVAL_TOKENS < aborted.value.usage.completion <= whole.usage.completion
    assert aborted.value.usage.prompt == whole.usage.prompt


async def test_an_endless_reply_is_cut_and_aborted_long_before_its_bound(engine: VllmEngine) -> None:
    # A grammar that never lets it end.
    endless = Structured(grammar='root ::= "over and " root')

    reply = await engine.complete("code", asking("go on"), Sampling(structured=endless))

    assert reply.finish_reason == "repetition"
    assert reply.text == "over and "
    assert 2000 / len("over and ") <= reply.usage.completion < 3000
    inner = await engine._loaded()
    await until(lambda: inner.get_num_unfinished_requests() == 0)


async def test_of_several_turns_those_that_end_come_first(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_sampling", SamplingSettings(temperature=1.0, repetition_characters=150))
    either = Structured(grammar='root ::= "yes" | "no " on\non ::= "no " on')

    replies = [
        await engine.complete("code", asking("go on"), Sampling(n=4, seed=seed, structured=either))
        for seed in range(4)
    ]

    texts = [{reply.text, *reply.others} for reply in replies]
    assert set.union(*texts) == {"yes", "no "}
    for reply, drawn in zip(replies, texts, strict=True):
        assert reply.finish_reason == ("stop" if "yes" in drawn else "repetition")
        assert reply.text == ("yes" if "yes" in drawn else "no ")


async def test_a_prompts_beginning_is_read_from_the_prefix_cache(engine: VllmEngine) -> None:
    begin = "\n".join(f"line {number} of a file that every turn shows" for number in range(40))
    turns = asking(begin)
    first = await engine.complete("repair", turns, Sampling(max_tokens=8))
    turns += [Message(role="assistant", content=first.text), Message(role="user", content="Go on.")]

    second = await engine.complete("repair", turns, Sampling(max_tokens=8))
    other = await engine.complete("repair", asking("Another task. " + begin), Sampling(max_tokens=8))

    assert first.usage.cached == 0
    # All of it but the last block, which is not full.
    assert first.usage.prompt - 128 <= second.usage.cached <= first.usage.prompt
    assert other.usage.cached == 0


async def test_a_hung_core_is_found_ended_and_started_again(
    tiny_model: Path, stories: dict[str, Story]
) -> None:
    engine = VllmEngine(
        str(tiny_model),
        settings=VllmSettings(args=SERVED, probe_every_s=1.0, probe_timeout_s=2.0),
        sampling=SamplingSettings(temperature=0.0),
    )
    others = set(cores())
    await engine.check_health()
    (core,) = set(cores()) - others
    os.kill(core, signal.SIGSTOP)

    reply = await engine.complete("code", asking(stories["/add code"].prompt))
    await engine.close()

    assert reply.text == stories["/add code"].reply
    assert core not in cores()
    await until(lambda: set(cores()) <= others)


async def test_an_engine_whose_core_was_killed_is_started_again(
    engine: VllmEngine, stories: dict[str, Story]
) -> None:
    before = cores()
    os.kill(before[0], signal.SIGKILL)

    reply = await engine.complete("code", asking(stories["/add code"].prompt))

    assert reply.text == stories["/add code"].reply
    assert cores() and not set(cores()) & set(before)


async def test_a_context_that_the_cache_cannot_hold_is_told_with_sizes_and_what_fits(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")

    with pytest.raises(EngineDown) as told:
        await engine_of(tiny_model, max_model_len=1_200_000).check_health()

    assert re.search(
        r"does not fit: max_model_len 1200000 needs 1\.14 GiB of KV cache, and 1\.0 GiB are there, "
        r"enough for \d+ tokens",
        told.value.message,
    )
    assert re.search(r"set vllm\.args\.max_model_len to \d+ ", told.value.next_move)


async def test_a_name_that_no_cache_holds_is_told_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineDown, match="is not in the cache") as told:
        await VllmEngine("Nobody/Nothing-7B").check_health()

    assert "hf download Nobody/Nothing-7B" in told.value.next_move


async def test_an_argument_that_vllm_does_not_have_is_named(tiny_model: Path) -> None:
    with pytest.raises(EngineDown, match="max_modle_len"):
        await engine_of(tiny_model, max_modle_len=5).check_health()


async def test_an_argument_that_cannot_be_is_told(tiny_model: Path) -> None:
    with pytest.raises(EngineDown, match=r"shorter context than is asked for.*max_model_len"):
        await engine_of(tiny_model, max_model_len=10**9).check_health()


async def test_weights_that_do_not_fit_are_told_with_sizes(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.engines.weights.weights_mib", lambda _folder: 10.0**7)

    with pytest.raises(EngineDown, match=r"does not fit: its weights take 10000000 MiB, and of the \d+ MiB"):
        await engine_of(tiny_model).check_health()


async def test_loading_ends_at_its_time_limit_and_leaves_nothing(tiny_model: Path) -> None:
    others = set(cores())
    engine = VllmEngine(
        str(tiny_model), settings=VllmSettings(args=SERVED, start_timeout_s=0.5), sampling=SamplingSettings()
    )

    with pytest.raises(EngineDown, match=r"was not loaded within 0\.5 s"):
        await engine.check_health()

    # It comes up late, and is ended then.
    await until(lambda: set(cores()) != others, within_s=90)
    await until(lambda: set(cores()) == others, within_s=90)
