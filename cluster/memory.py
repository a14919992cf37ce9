"""Lessons in the store, found again by full text: FTS5 in SQLite, tsvector in PostgreSQL.

They follow from finished runs and are hints only: a store that cannot keep or find one stops nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import text

from cluster.event_log import EventLog
from cluster.event_log_driver import Driver, Insert
from cluster.event_log_projection import clean_text
from cluster.writer import utc_now
from orchestrator.errors import StoreError
from orchestrator.lessons import Lesson, closest

log = structlog.get_logger()

# Older lessons than these are forgotten.
KEPT = 5000
# Read from the index before the closest of them are chosen.
_READ = 30

_INSERT = Insert("lessons", ("terms", "tenant", "run_id", "at", "outcome", "signature", "patch", "notes"))
_FIELDS = ("signature", "outcome", "patch", "notes", "run_id")
_COLUMNS = ", ".join(_FIELDS)
_FIND = {
    "sqlite": text(
        f"SELECT {_COLUMNS} FROM lessons WHERE lessons MATCH :terms AND tenant = :tenant "  # noqa: S608
        "ORDER BY bm25(lessons), rowid DESC LIMIT :most"
    ),
    "postgresql": text(
        f"SELECT {_COLUMNS} FROM lessons, to_tsquery('simple', :terms) AS asked "  # noqa: S608
        "WHERE search @@ asked AND tenant = :tenant "
        "ORDER BY ts_rank(search, asked) DESC, number DESC LIMIT :most"
    ),
}
_FORGET = {
    "sqlite": f"DELETE FROM lessons WHERE rowid <= (SELECT max(rowid) FROM lessons) - {KEPT}",  # noqa: S608
    "postgresql": f"DELETE FROM lessons WHERE number <= (SELECT max(number) FROM lessons) - {KEPT}",  # noqa: S608
}
_JOINED = {"sqlite": " OR ", "postgresql": " | "}


class StoreMemory:
    """Implements `orchestrator.ports.Memory` on an open event log. No tenant sees another's lessons."""

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._dialect = event_log.dialect

    async def recall(self, terms: Sequence[str], *, tenant: str) -> list[Lesson]:
        """The tenant's lessons that are closest to `terms`, none where the store cannot say."""
        if not terms:
            return []
        try:
            found = await asyncio.to_thread(self._find, terms, tenant)
        except Exception as error:
            # A hint less; also where SQLite was built without full text.
            log.warning("memory_not_read", error=str(error))
            return []
        return closest(terms, found)

    async def learn(self, lesson: Lesson, *, tenant: str, is_again: bool = True) -> None:
        """Keep the lesson, in place of an earlier one of the same run where it `is_again` at its end."""
        values = (" ".join(lesson.terms), tenant, lesson.run_id, utc_now(), lesson.outcome)
        row = tuple(clean_text(value) for value in (*values, lesson.signature, lesson.patch, lesson.notes))

        def work(driver: Driver) -> None:
            if is_again:
                # SQLite's full text looks through every lesson for it, and all runs' events wait behind that.
                driver.execute("DELETE FROM lessons WHERE run_id = ?", (lesson.run_id,))
            driver.insert(_INSERT, [row])
            driver.execute(_FORGET[self._dialect])

        try:
            await self._log.do(work)
        except StoreError as error:
            log.warning("memory_not_written", run=lesson.run_id, error=str(error))

    def _find(self, terms: Sequence[str], tenant: str) -> list[Lesson]:
        query = _FIND[self._dialect].bindparams(
            terms=_JOINED[self._dialect].join(terms), tenant=clean_text(tenant), most=_READ
        )
        rows: Any = self._log.select(query)
        return [
            Lesson(signature=row[0], outcome=row[1], patch=row[2], notes=row[3], run_id=row[4])
            for row in rows
        ]
