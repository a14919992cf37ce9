"""What a run tells soon, and what it waits for: the order of the log, failures, and others who tell too."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from cluster.event_log_memory import MemoryEventLog
from cluster.run_log import RunLog
from orchestrator.errors import StoreError
from orchestrator.events import Event, Kind, NewEvent, fold


class CountingLog(MemoryEventLog):
    """Counts transactions; fails those that `failing` names by number."""

    def __init__(self, failing: Sequence[int] = ()) -> None:
        super().__init__()
        self.groups: list[list[str]] = []
        self.failing = failing

    async def append(self, events: Sequence[NewEvent]) -> Sequence[Event]:
        await asyncio.sleep(0)
        self.groups.append([str(each.step) for each in events])
        if len(self.groups) in self.failing:
            raise StoreError("the disk is full")
        return self.append_blocking(events)


def started(step: str) -> NewEvent:
    return NewEvent(run_id="r-1", type=Kind.NODE_STARTED, step=step)


def opened(log: CountingLog) -> RunLog:
    submitted = log.append_blocking([NewEvent(run_id="r-1", type=Kind.RUN_SUBMITTED, data={"task": {}})])
    return RunLog(fold(submitted), log, seen=lambda _: None, on_news=lambda: None)


async def test_what_is_told_soon_is_written_with_what_is_waited_for() -> None:
    log = CountingLog()
    run = opened(log)

    run.append_soon(started("a"))
    run.append_soon(started("b"))
    await run.append(started("c"))

    assert log.groups == [["a", "b", "c"]]
    assert list(run.state.nodes) == ["a", "b", "c"]
    assert run.state == log.state("r-1")


async def test_what_is_told_soon_is_written_though_nobody_waits() -> None:
    log = CountingLog()
    run = opened(log)

    run.append_soon(started("a"))
    async with asyncio.timeout(5):
        while not log.groups:  # noqa: ASYNC110 - what is waited for is a plain value
            await asyncio.sleep(0.005)
    await run.settled()

    assert list(run.state.nodes) == ["a"]


async def test_nothing_is_written_behind_what_could_not_be() -> None:
    log = CountingLog(failing=[1])
    run = opened(log)

    run.append_soon(started("a"))
    with pytest.raises(StoreError, match="disk is full"):
        await run.append(started("b"))
    with pytest.raises(StoreError, match="disk is full"):
        await run.append(started("c"))
    with pytest.raises(StoreError, match="disk is full"):
        await run.settled()

    assert len(log.events("r-1")) == 1


async def test_one_that_does_not_fit_is_told_and_costs_the_others_nothing() -> None:
    log = CountingLog()
    run = opened(log)
    broken = NewEvent(run_id="r-1", type=Kind.NODE_STARTED, step="bad", data={"x": float("nan")})

    run.append_soon(broken)
    with pytest.raises(ValueError, match="r-1"):
        await run.append(started("a"))
    await run.append(started("b"))

    assert list(run.state.nodes) == ["a", "b"]


async def test_what_others_told_of_the_run_is_folded_in_its_place() -> None:
    log = CountingLog()
    run = opened(log)
    seen: list[int] = []
    run = RunLog(run.state, log, seen=lambda event: seen.append(event.seq), on_news=lambda: None)

    log.append_blocking([started("theirs")])
    await run.append(started("mine"))
    log.append_blocking([started("later")])
    await run.catch_up()

    assert list(run.state.nodes) == ["theirs", "mine", "later"]
    assert seen == [2, 3, 4]


async def test_a_caller_that_is_cancelled_has_told_all_the_same() -> None:
    log = CountingLog()
    run = opened(log)

    work = asyncio.create_task(run.append(started("a"), started("b")))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await run.settled()

    assert list(run.state.nodes) == ["a", "b"]
