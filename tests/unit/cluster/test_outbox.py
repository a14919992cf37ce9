"""Effects as facts in the log: each once, from one reporter only, and from a fixed place on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.answered import Unreachable
from cluster.event_log_memory import MemoryEventLog
from cluster.live_run import used_wall_s
from cluster.outbox import Outbox, RemoteEffects, Reporting
from cluster.reporter_spec import ReporterSpec
from orchestrator.errors import StaleEpoch, StoreError, TaskError
from orchestrator.events import Kind, NewEvent, Status, fold


async def log_with_a_run(**options: Any) -> MemoryEventLog:
    log = MemoryEventLog(**options)
    await log.append([NewEvent(run_id="r-1", type=Kind.RUN_SUBMITTED, data={"task": {"id": "t"}})])
    return log


async def test_a_fact_that_is_asked_for_again_is_there_once() -> None:
    log = await log_with_a_run()
    outbox = Outbox(log, effect="slack", term="t")

    for _ in range(3):
        await outbox.record("t", "r-1", "r-1:run:root", None, {"channel": "C1", "try": 1})
    for _ in range(3):
        await outbox.record("t", "r-1", "r-1:run:root", "sent", {"channel": "C1", "ts": "1.2"})

    assert [event.type for event in log.events("r-1")][1:] == [Kind.EFFECT_INTENDED, Kind.EFFECT_DONE]
    effect = log.state("r-1").effects["r-1:run:root"]
    assert (effect.effect, effect.outcome, effect.data["ts"]) == ("slack", "sent", "1.2")


async def test_a_further_try_is_a_fact_of_its_own_and_opens_the_effect_again() -> None:
    moments = iter(range(100))
    log = await log_with_a_run(clock=lambda: f"2026-01-01T00:00:{next(moments):02d}.000000Z")
    outbox = Outbox(log, effect="slack", term="t")

    await outbox.record("t", "r-1", "k", None, {"try": 1})
    first = log.state("r-1").effects["k"]
    await outbox.record("t", "r-1", "k", None, {"try": 2})
    second = log.state("r-1").effects["k"]

    assert first.outcome is second.outcome is None
    assert first.intended_at < second.intended_at


async def test_two_that_ask_at_once_make_one_fact() -> None:
    log = await log_with_a_run()
    outbox = Outbox(log, effect="slack", term="t")

    await asyncio.gather(*(outbox.record("t", "r-1", "k", None, {"try": 1}) for _ in range(20)))

    assert len(log.events("r-1")) == 2


async def test_another_reporter_is_refused_whatever_it_asks() -> None:
    log = await log_with_a_run()
    outbox = Outbox(log, effect="slack", term="new")

    with pytest.raises(StaleEpoch):
        await outbox.record("old", "r-1", "k", None, {})
    with pytest.raises(StaleEpoch):
        await outbox.cursor("old")
    with pytest.raises(StaleEpoch):
        await outbox.advance("old", 7)

    assert len(log.events("r-1")) == 1


async def test_a_run_that_is_not_there_has_no_effects() -> None:
    outbox = Outbox(await log_with_a_run(), effect="slack", term="t")

    with pytest.raises(TaskError):
        await outbox.record("t", "r-9", "k", None, {})


async def test_telling_begins_where_the_log_ends_and_goes_on_where_it_was() -> None:
    log = await log_with_a_run()
    outbox = Outbox(log, effect="slack", term="t")
    assert await outbox.cursor("t") == 1

    await log.append([NewEvent(run_id="r-1", type=Kind.RUN_STARTED)])
    assert await Outbox(log, effect="slack", term="u").cursor("u") == 1
    await outbox.advance("t", 2)

    assert await Outbox(log, effect="slack", term="v").cursor("v") == 2
    assert await Outbox(log, effect="other", term="w").cursor("w") == 2


async def test_what_is_told_outside_neither_ends_nor_lengthens_a_run() -> None:
    moments = iter(("00:00", "00:01", "00:05", "09:00", "09:30"))
    log = await log_with_a_run(clock=lambda: f"2026-01-01T00:{next(moments)}.000000Z")
    await log.append([NewEvent(run_id="r-1", type=Kind.RUN_STARTED)])
    await log.append([NewEvent(run_id="r-1", type=Kind.ATTEMPT_STARTED, attempt=1)])
    outbox = Outbox(log, effect="slack", term="t")
    await outbox.record("t", "r-1", "k", None, {})
    await outbox.record("t", "r-1", "k", "sent", {})

    events = log.events("r-1")

    assert used_wall_s(events) == 4.0
    assert fold(events).status is Status.RUNNING
    assert fold(events).attempt == 1


class FlakyFactory:
    """Stands for the factory's actor; answers after it was away for a while."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.asked: list[tuple[Any, ...]] = []

    @property
    def outbox(self) -> FlakyFactory:
        return self

    async def remote(self, *arguments: Any) -> int:
        self.asked.append(arguments)
        if self.failures:
            raise self.failures.pop(0)
        return 7


async def test_a_reporter_waits_for_an_orchestrator_that_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.outbox.RETRY_S", 0.001)
    factory = FlakyFactory(Unreachable("away"), StoreError("disk full"), Unreachable("away"))
    effects = RemoteEffects(factory, "t")

    assert await effects.cursor() == 7
    await effects.intend("r-1", "k", {"try": 1})
    await effects.settle("r-1", "k", "sent", {"ts": "1"})

    assert factory.asked[3:] == [
        ("cursor", "t"),
        ("record", "t", "r-1", "k", None, {"try": 1}),
        ("record", "t", "r-1", "k", "sent", {"ts": "1"}),
    ]


async def test_a_reporter_that_was_replaced_stops_asking() -> None:
    effects = RemoteEffects(FlakyFactory(StaleEpoch("another")), "t")

    with pytest.raises(StaleEpoch):
        await effects.intend("r-1", "k", {})


async def test_a_factory_without_a_reporter_has_nothing_to_flush_and_answers_none() -> None:
    reporting = Reporting(None)

    assert await reporting.flush() is True
    with pytest.raises(StaleEpoch):
        await reporting.ask("cursor", "t")


def test_what_a_reporter_is_made_from_shows_no_secret() -> None:
    assert "xoxb" not in repr(ReporterSpec(build="a:b", config={"token": "xoxb-1"}))
