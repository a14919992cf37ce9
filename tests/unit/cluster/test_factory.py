"""What the factory's actor promises beside the orchestrator that it hosts."""

from __future__ import annotations

import asyncio

import pytest

from cluster.factory import finished


async def test_work_goes_on_to_its_end_when_who_waits_is_cancelled() -> None:
    went_on = asyncio.Event()
    done: list[str] = []

    async def work() -> str:
        await went_on.wait()
        done.append("done")
        return "result"

    waiting = asyncio.create_task(finished(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    went_on.set()
    await asyncio.sleep(0.01)

    assert done == ["done"]
    assert await finished(work()) == "result"
