"""Lessons kept in a real store and found again, on SQLite and, where there is one, on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from event_log_conformance import submitted
from postgres_server import a_schema

from cluster import memory as memory_module
from cluster.event_log import EventLog, open_log
from cluster.memory import StoreMemory
from cluster.store_settings import StoreSettings
from orchestrator.lessons import CERTIFIED, REFUSED, Lesson

OPERAND = Lesson(
    signature="TypeError: unsupported operand type for Money in cart",
    outcome=CERTIFIED,
    patch="+    return Money(0)\n",
    notes="started the sum at Money(0)",
    run_id="r-1",
)
KEY = Lesson(
    signature="KeyError: 'user' in session store",
    outcome=REFUSED,
    patch="+    pass\n",
    notes="no",
    run_id="r-2",
)


@pytest.fixture(params=["sqlite", "postgres"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    with contextlib.ExitStack() as stack:
        settings = StoreSettings()
        if request.param == "postgres":
            settings = StoreSettings(url=stack.enter_context(a_schema()).url())
        yield stack.enter_context(open_log(settings, tmp_path))


async def test_a_lesson_is_found_by_a_failure_like_it(log: EventLog) -> None:
    memory = StoreMemory(log)
    for each in (OPERAND, KEY):
        await memory.learn(each, tenant="a")

    found = await memory.recall(("unsupported", "operand", "typeerror", "money", "for", "type"), tenant="a")

    assert found == [OPERAND]
    assert await memory.recall(KEY.terms, tenant="a") == [KEY]
    assert await memory.recall(("nothing", "like", "it"), tenant="a") == []
    assert await memory.recall((), tenant="a") == []


async def test_no_tenant_sees_anothers_lessons(log: EventLog) -> None:
    memory = StoreMemory(log)
    await memory.learn(OPERAND, tenant="a")

    assert await memory.recall(OPERAND.terms, tenant="b") == []


async def test_a_run_has_one_lesson_the_last(log: EventLog) -> None:
    memory = StoreMemory(log)
    await memory.learn(replace(OPERAND, outcome=REFUSED), tenant="a")
    await memory.learn(OPERAND, tenant="a")

    assert await memory.recall(OPERAND.terms, tenant="a") == [OPERAND]


async def test_a_run_s_first_lesson_looks_for_no_earlier_one(log: EventLog) -> None:
    memory = StoreMemory(log)
    await memory.learn(OPERAND, tenant="a", is_again=False)
    await memory.learn(replace(OPERAND, outcome=REFUSED), tenant="a", is_again=True)

    assert [each.outcome for each in await memory.recall(OPERAND.terms, tenant="a")] == [REFUSED]


async def test_words_that_a_query_language_knows_are_words(log: EventLog) -> None:
    memory = StoreMemory(log)
    odd = replace(OPERAND, signature="NEAR or AND not\0 \"quoted' (x* y:z) & | ! <-> naïve \ud800")
    await memory.learn(odd, tenant="t'; DROP TABLE lessons; --")

    (found,) = await memory.recall(odd.terms, tenant="t'; DROP TABLE lessons; --")

    assert set(odd.terms) <= set(found.terms) and found.patch == odd.patch


async def test_the_oldest_are_forgotten(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {name: sql.replace(str(memory_module.KEPT), "2") for name, sql in memory_module._FORGET.items()}
    monkeypatch.setattr(memory_module, "_FORGET", table)
    memory = StoreMemory(log)
    for number in range(4):
        await memory.learn(replace(OPERAND, run_id=f"r-{number}", patch=f"+{number}\n"), tenant="a")

    found = await memory.recall(OPERAND.terms, tenant="a")

    assert sorted(each.run_id for each in found) == ["r-2", "r-3"]


async def test_a_memory_that_cannot_be_read_or_written_stops_nothing(tmp_path: Path) -> None:
    with open_log(StoreSettings(), tmp_path) as log:
        connection = sqlite3.connect(tmp_path / "events.db")
        connection.execute("DROP TABLE lessons")
        connection.close()
        memory = StoreMemory(log)

        await memory.learn(OPERAND, tenant="a")

        assert await memory.recall(OPERAND.terms, tenant="a") == []
        assert [event.seq for event in log.append_blocking([submitted("r-1")])] == [1]

        # Events that wait beside the lesson share its transaction.
        _, _, events = await asyncio.gather(
            log.do(lambda _driver: time.sleep(0.3)),
            memory.learn(OPERAND, tenant="a"),
            log.append([submitted("r-2")]),
        )
        assert [event.run_id for event in events] == ["r-2"]


def test_a_store_of_the_first_release_gets_its_memory_and_keeps_its_events(tmp_path: Path) -> None:
    with open_log(StoreSettings(), tmp_path) as log:
        log.append_blocking([submitted("r-1")])
    connection = sqlite3.connect(tmp_path / "events.db")
    with connection:
        connection.execute("DROP TABLE lessons")
        connection.execute("DROP TABLE usage")
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.close()

    with open_log(StoreSettings(), tmp_path) as log:
        assert [event.run_id for event in log.events("r-1")] == ["r-1"]
        assert log.select(memory_module.text("SELECT count(*) FROM lessons"))[0][0] == 0
