"""Engines on a real card: memory that comes back, several on one card, speculation.

The model recites what it was taught. That proves plumbing, and nothing of what a model can do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.engines.port import Message, Sampling
from actors.engines.settings import SamplingSettings, VllmSettings
from actors.engines.vllm import VllmEngine
from actors.engines.weights import _gpu_memory
from orchestrator.errors import EngineDown

pytestmark = [
    # What vLLM and torch warn of in this process is theirs.
    pytest.mark.filterwarnings("ignore"),
]

# Of a card's memory. Three times as much has to be free, and what a driver holds beside it.
SHARE = 0.25
SERVED = {"max_model_len": 4096, "max_num_seqs": 8, "enforce_eager": True, "dtype": "bfloat16"}
# A context of CUDA and what libraries keep: memory that need not come back to the last byte.
SLACK_MIB = 256.0


def engine_of(folder: Path, *, share: float = SHARE, **args: Any) -> VllmEngine:
    return VllmEngine(
        str(folder),
        settings=VllmSettings(
            args={**SERVED, "gpu_memory_utilization": share, **args},
            memory_timeout_s=60.0,
            probe_every_s=2.0,
            probe_timeout_s=30.0,
        ),
        sampling=SamplingSettings(temperature=0.0),
    )


def free_mib() -> float:
    told = _gpu_memory()
    assert told is not None
    return told[0]


def card_mib() -> float:
    told = _gpu_memory()
    assert told is not None
    return told[1]


def cores(of: int) -> list[int]:
    """Living processes of vLLM below the process `of`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = (folder / "status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            if "EngineCor" in fields["Name"] and int(fields["PPid"]) == of and fields["State"][0] != "Z":
                found.append(int(folder.name))
    return found


async def until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"it did not happen in time; {free_mib():.0f} MiB are free"
        await asyncio.sleep(0.2)


def asking(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def story(folder: Path, name: str) -> Any:
    from tiny import known

    return known(folder)[name]


async def test_a_killed_core_gives_its_memory_back_and_another_takes_it(tiny_model: Path) -> None:
    told = story(tiny_model, "/add code")
    before = free_mib()
    engine = engine_of(tiny_model, share=0.6)
    await engine.check_health()
    [core] = cores(os.getpid())
    assert before - free_mib() > 0.4 * card_mib()

    os.kill(core, signal.SIGKILL)
    # Both do not fit beside one another: the second waits until the first one's memory is back.
    reply = await engine.complete("code", asking(told.prompt))
    await engine.close()

    assert reply.text == told.reply
    assert reply.usage.gpu_s > 0
    await until(lambda: free_mib() > before - SLACK_MIB)
    assert not cores(os.getpid())


async def test_a_killed_replica_gives_its_memory_back(tiny_model: Path, tmp_path: Path) -> None:
    import ray

    before = free_mib()
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, _temp_dir=str(tmp_path), log_to_driver=False)
    try:
        held = ray.remote(num_gpus=1)(Holder).remote(str(tiny_model))
        pid = await held.loaded.remote()
        assert cores(pid)
        assert before - free_mib() > 0.4 * card_mib()

        os.kill(pid, signal.SIGKILL)

        await until(lambda: free_mib() > before - SLACK_MIB)
    finally:
        ray.shutdown()


class Holder:
    """An actor with an engine in it, as a replica has."""

    def __init__(self, folder: str) -> None:
        self._engine = engine_of(Path(folder), share=0.6)

    async def loaded(self) -> int:
        """Its process, once the engine is up."""
        await self._engine.check_health()
        return os.getpid()


async def test_engines_that_begin_at_once_start_on_one_card_one_after_another(tiny_model: Path) -> None:
    told = story(tiny_model, "/add test")
    before = free_mib()
    engines = [engine_of(tiny_model) for _ in range(3)]

    try:
        # vLLM measures memory as it starts, and fails when others take some meanwhile.
        await asyncio.gather(*(engine.check_health() for engine in engines))
        replies = await asyncio.gather(*(engine.complete("test", asking(told.prompt)) for engine in engines))
        assert len(cores(os.getpid())) == len(engines)
    finally:
        for engine in engines:
            await engine.close()

    assert {reply.text for reply in replies} == {told.reply}
    await until(lambda: free_mib() > before - SLACK_MIB)


async def test_an_engine_for_which_the_card_has_no_room_is_refused_with_sizes(tiny_model: Path) -> None:
    first = engine_of(tiny_model, share=0.6)
    second = VllmEngine(
        str(tiny_model),
        settings=VllmSettings(args={**SERVED, "gpu_memory_utilization": 0.6}, memory_timeout_s=2.0),
    )
    await first.check_health()
    try:
        with pytest.raises(EngineDown, match=r"\d+ of \d+ MiB of the GPU are free, and vLLM is to take \d+"):
            await second.check_health()
    finally:
        await first.close()


async def test_a_context_that_the_card_cannot_hold_is_told_with_what_fits(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    engine = engine_of(tiny_model, max_model_len=1_000_000, kv_cache_memory_bytes=2**28)

    with pytest.raises(
        EngineDown, match=r"does not fit: max_model_len 1000000 needs .* enough for \d+ tokens"
    ):
        await engine.check_health()


async def test_speculation_by_ngrams_drafts_what_a_repair_copies_and_changes_nothing(
    tiny_model: Path,
) -> None:
    from vllm.v1.metrics.reader import get_metrics_snapshot

    told = story(tiny_model, "/add repair")
    # Most of a repaired file stands in the prompt.
    speculation = {
        "method": "ngram",
        "num_speculative_tokens": 4,
        "prompt_lookup_max": 4,
        "prompt_lookup_min": 2,
    }
    engine = engine_of(tiny_model, speculative_config=speculation)

    try:
        reply = await engine.complete("repair", asking(told.prompt), Sampling(temperature=0.0))
        counted = {metric.name: metric.value for metric in get_metrics_snapshot() if hasattr(metric, "value")}
    finally:
        await engine.close()

    assert reply.text == told.reply
    accepted = counted["vllm:spec_decode_num_accepted_tokens"]
    assert 0 < accepted < reply.usage.completion
    # Fewer steps of the model than tokens of the reply.
    assert counted["vllm:spec_decode_num_drafts"] < reply.usage.completion
