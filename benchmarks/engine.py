"""What the engine costs that agents use, beside vLLM's bare AsyncLLM: the same prompts, in turn, in one run.

Both sides ask the very same AsyncLLM, so that weights, cache and batching are the same; a round is 16
requests at once that differ from round to round, and the sides change places every round. `throughput_ratio`
is tokens per second through the engine with its ledger over those of AsyncLLM alone, the median over pairs of
rounds; the call through Ray is not in it. `cancel_ms` is from cancelling a request to its end, the median.

    .venv-vllm/bin/python benchmarks/engine.py --model /models/any --json

Any folder with a model serves; what it says is not looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

import structlog

from actors.engines.ledger import Ledger, MeteredEngine
from actors.engines.port import Message, Sampling
from actors.engines.settings import SamplingSettings, VllmSettings
from actors.engines.vllm import VllmEngine

AT_ONCE = 16


def prompts(number: int) -> list[list[Message]]:
    """Conversations of one round, which share a beginning and then differ."""
    begin = "Change this project so that its tests pass.\n" + "def add(a, b): return a - b\n" * 20
    return [[Message(role="user", content=f"{begin}# {number} {each}")] for each in range(AT_ONCE)]


async def bare(llm: Any, asked: Sequence[Sequence[Message]], tokens: int) -> float:
    """Tokens per second of AsyncLLM by itself."""
    from vllm.renderers import ChatParams
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    async def one(messages: Sequence[Message]) -> int:
        turns = [{"role": each.role, "content": each.content} for each in messages]
        kwargs = ChatParams(chat_template_kwargs={"add_generation_prompt": True})
        _, (prompt,) = await llm.renderer.render_chat_async([turns], kwargs)
        params = SamplingParams(
            max_tokens=tokens, temperature=1.0, seed=1, output_kind=RequestOutputKind.FINAL_ONLY
        )
        made = 0
        async for output in llm.generate(prompt, params, uuid.uuid4().hex):
            made = len(output.outputs[0].token_ids)
        return made

    began = time.perf_counter()
    made = await asyncio.gather(*(one(messages) for messages in asked))
    return sum(made) / (time.perf_counter() - began)


async def metered(engine: MeteredEngine, asked: Sequence[Sequence[Message]], tokens: int) -> float:
    """Tokens per second as agents have them."""
    sampling = Sampling(max_tokens=tokens, temperature=1.0, seed=1)
    began = time.perf_counter()
    async with Ledger().kept():
        replies = await asyncio.gather(*(engine.complete("code", messages, sampling) for messages in asked))
    return sum(reply.usage.completion for reply in replies) / (time.perf_counter() - began)


async def cancelled_ms(engine: MeteredEngine, llm: Any, number: int) -> float:
    """Milliseconds from a cancellation until the engine works on nothing."""
    task = asyncio.create_task(engine.complete("code", prompts(number)[0], Sampling(max_tokens=2000)))
    while not llm.get_num_unfinished_requests():  # noqa: ASYNC110 - vLLM has no event for it
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    began = time.perf_counter()
    task.cancel()
    await asyncio.wait({task})
    while llm.get_num_unfinished_requests():  # noqa: ASYNC110 - vLLM has no event for it
        await asyncio.sleep(0.001)
    return (time.perf_counter() - began) * 1000


async def measure(model: str, args: dict[str, Any], rounds: int, tokens: int) -> dict[str, Any]:
    """All figures."""
    inner = VllmEngine(model, settings=VllmSettings(args=args), sampling=SamplingSettings())
    engine = MeteredEngine(inner)
    await engine.check_health()
    llm = await inner._loaded()
    await bare(llm, prompts(-1), tokens)
    pairs = []
    for number in range(rounds):
        if number % 2:
            ours = await metered(engine, prompts(2 * number), tokens)
            theirs = await bare(llm, prompts(2 * number + 1), tokens)
        else:
            theirs = await bare(llm, prompts(2 * number), tokens)
            ours = await metered(engine, prompts(2 * number + 1), tokens)
        pairs.append((ours, theirs))
    waits = [await cancelled_ms(engine, llm, 10_000 + number) for number in range(9)]
    await engine.close()
    return {
        "throughput_ratio": round(statistics.median(ours / theirs for ours, theirs in pairs), 3),
        "tokens_per_s": round(statistics.median(ours for ours, _ in pairs), 1),
        "bare_tokens_per_s": round(statistics.median(theirs for _, theirs in pairs), 1),
        "cancel_ms": round(statistics.median(waits), 1),
        "cancel_ms_worst": round(max(waits), 1),
        "rounds": rounds,
        "requests_at_once": AT_ONCE,
        "tokens": tokens,
        "model": model.rstrip("/").rpartition("/")[2],
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }


def main() -> None:
    """Print the figures as a table or as JSON; without vLLM or a model say so and end well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="", help="folder of weights")
    parser.add_argument("--args", default="{}", help="vLLM's engine arguments as JSON")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    # vLLM writes its log to standard output.
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    from actors.engines.vllm import is_installed

    if not given.model or not is_installed():
        why = "vLLM is not installed here (make setup-vllm)" if given.model else "no --model FOLDER is given"
        print(json.dumps({"skipped": why}) if given.json else f"skipped: {why}")
        return
    figures = asyncio.run(measure(given.model, json.loads(given.args), given.rounds, given.tokens))
    if given.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:20} {value}")


if __name__ == "__main__":
    main()
