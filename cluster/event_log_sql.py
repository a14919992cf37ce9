"""Reads of the event log's database: no lock, from any process, also while another one writes."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Row, func, select, text
from sqlalchemy.exc import DBAPIError

from cluster import schema
from cluster.event_log_chain import Row as EventRow
from cluster.event_log_chain import batch_of_text, canonical_text, event_fields, event_of
from cluster.event_log_driver import Database, StoreAway
from cluster.event_log_projection import RunSummary, clean_text, summary_fields, summary_from
from cluster.event_log_reads import LogReads
from cluster.event_log_usage import AMOUNTS, GROUPS, By, UsageRow
from orchestrator.errors import StoreDamaged, StoreError
from orchestrator.events import Event, Status

_CHUNK = 2000
_PAUSE_S = 0.1
_REVISION = text("SELECT version_num FROM alembic_version")
_EVENT_COLUMNS = [schema.events.c[name] for name in event_fields()]
_RUN_COLUMNS = [schema.runs.c[name] for name in summary_fields()]


class SqlReads(LogReads):
    """Reads of a database. They never create, migrate or lock one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._engine = database.reading()
        self._opened_by = os.getpid()
        self._checked = False

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    def broken_pages(self) -> list[str]:
        if self.dialect != "sqlite":
            return []
        try:
            rows = self._select(text("PRAGMA integrity_check(20)"))
        except StoreDamaged as error:
            return [error.message]
        return [str(row[0]) for row in rows if row[0] != "ok"]

    def select(self, query: Any) -> Sequence[Row[Any]]:
        """The rows of a statement, none where nothing was ever written."""
        return self._select(query)

    @property
    def exists(self) -> bool:
        if not self._database.is_there():
            return False
        with self._connected() as connection:
            return self._is_made(connection)

    def runs(
        self,
        *,
        status: Collection[Status] | None = None,
        tenant: str | None = None,
        task_id: str | None = None,
        key: str | None = None,
        life: str | None = None,
        limit: int | None = 100,
        offset: int = 0,
    ) -> list[RunSummary]:
        table = schema.runs.c
        query = select(*_RUN_COLUMNS).order_by(table.number.desc()).limit(limit).offset(offset)
        if status is not None:
            query = query.where(table.status.in_([str(each) for each in status]))
        for column, value in (
            (table.tenant, tenant),
            (table.task_id, task_id),
            (table.key, key),
            (table.life, life),
        ):
            if value is not None:
                query = query.where(column == clean_text(value))
        return [summary_from(row) for row in self._select(query)]

    def run(self, run_id: str) -> RunSummary | None:
        rows = self._select(select(*_RUN_COLUMNS).where(schema.runs.c.run_id == clean_text(run_id)))
        return summary_from(rows[0]) if rows else None

    def count(self, *, status: Collection[Status] | None = None, tenant: str | None = None) -> int:
        query = select(func.count().label("count")).select_from(schema.runs)
        if status is not None:
            query = query.where(schema.runs.c.status.in_([str(each) for each in status]))
        if tenant is not None:
            query = query.where(schema.runs.c.tenant == clean_text(tenant))
        return sum(count for (count,) in self._select(query))

    def run_ids(self, prefix: str = "") -> list[str]:
        table = schema.events.c
        query = select(table.run_id).where(table.seq == 1).order_by(table.position)
        if prefix:
            query = query.where(table.run_id.startswith(clean_text(prefix), autoescape=True))
        # SQLite's LIKE takes "R-1" for "r-1".
        return [run_id for (run_id,) in self._select(query) if run_id.startswith(prefix)]

    def tally(self) -> dict[tuple[Status, str | None], int]:
        table = schema.runs.c
        query = select(table.status, table.reason, func.count()).group_by(table.status, table.reason)
        rows: Any = self._select(query)
        return {(Status(status), reason): number for status, reason, number in rows}

    def usage_of(self, by: By, tenant: str | None, run_id: str | None, since: str) -> Sequence[UsageRow]:
        table = schema.usage.c
        groups = [table[name] for name in GROUPS[by]]
        query = select(*groups, *(func.sum(table[name]) for name in AMOUNTS)).group_by(*groups)
        for column, value in ((table.tenant, tenant), (table.run_id, run_id)):
            if value is not None:
                query = query.where(column == clean_text(value))
        return sorted(tuple(row) for row in self._select(query.where(table.day >= since)))

    def feed(self, after: int, limit: int = 1000) -> list[tuple[int, Event]]:
        table = schema.events.c
        query = select(table.position, *_EVENT_COLUMNS).where(table.position > after)
        rows = self._select(query.order_by(table.position).limit(limit))
        return [(row[0], event_of(row[1:])) for row in rows]

    def end(self) -> int:
        return sum(last or 0 for (last,) in self._select(select(func.max(schema.events.c.position))))

    def batch(self, batch_id: str) -> list[RunSummary]:
        first, runs = schema.events.c, schema.runs.c
        named = f'"batch":{canonical_text(batch_id)}'
        query = (
            select(*_RUN_COLUMNS, first.data)
            .join(schema.events, (first.run_id == runs.run_id) & (first.seq == 1))
            .where(first.data.contains(named, autoescape=True))
            .order_by(runs.number)
        )
        return [summary_from(row[:-1]) for row in self._select(query) if batch_of_text(row[-1]) == batch_id]

    def epoch_taken(self) -> int:
        """The highest epoch that ever opened the store, 0 for none."""
        return sum(epoch for (epoch,) in self._select(select(schema.owner.c.epoch)))

    def meta(self, key: str) -> str | None:
        rows = self._select(select(schema.meta.c.value).where(schema.meta.c.key == key))
        return str(rows[0][0]) if rows else None

    def close(self) -> None:
        # Not in a fork: its connections are the parent's.
        self._engine.dispose(close=os.getpid() == self._opened_by)

    def rows_of(self, run_id: str, after_seq: int = 0, limit: int | None = None) -> Iterator[EventRow]:
        table = schema.events.c
        left = limit
        while left is None or left > 0:
            size = _CHUNK if left is None else min(left, _CHUNK)
            query = (
                select(*_EVENT_COLUMNS)
                .where(table.run_id == clean_text(run_id), table.seq > after_seq)
                .order_by(table.seq)
                .limit(size)
            )
            rows = self._select(query)
            yield from rows
            if len(rows) < size:
                return
            after_seq = rows[-1].seq
            left = None if left is None else left - len(rows)

    def _select(self, query: Any) -> Sequence[Row[Any]]:
        if not self._database.is_there():
            return []
        give_up = time.monotonic() + self._database.patience_s
        while True:
            try:
                with self._connected() as connection:
                    return connection.execute(query).all() if self._is_made(connection) else []
            except StoreAway:
                if time.monotonic() > give_up:
                    raise
            time.sleep(_PAUSE_S)

    def _is_made(self, connection: Connection) -> bool:
        """Whether the tables are there: an owner may be making them at this moment."""
        if not self._checked:
            revision = revision_of(self._database, connection)
            if revision is None:
                return False
            if revision != schema.HEAD:
                raise wrong_revision(revision, self._database.name)
            self._checked = True
        return True

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        if os.getpid() != self._opened_by:
            self._engine.dispose(close=False)
            self._engine, self._opened_by = self._database.reading(), os.getpid()
        try:
            with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            cause = error.orig or error
            raise self._database.translate(cause) or error from cause
        except StoreError:
            raise
        except Exception as error:
            # What a driver raises before SQLAlchemy can wrap it.
            raise self._database.translate(error) or error from error


def revision_of(database: Database, connection: Connection) -> str | None:
    """The schema's revision, None when the database is empty.

    Raises:
        StoreError: It holds something else, or the schema of another Raysmith that cannot be upgraded.
    """
    tables = database.tables(connection)
    rows = connection.execute(_REVISION).scalars().all() if "alembic_version" in tables else []
    if not tables:
        return None
    revision = str(rows[0]) if rows else None
    if revision not in schema.REVISIONS:
        raise wrong_revision(revision, database.name)
    return revision


def wrong_revision(revision: str | None, name: str) -> StoreError:
    """What to say of a store at another revision than this code's."""
    if revision is None:
        return StoreError(
            f"{name} is not an event log of Raysmith",
            "name another `store.url`, or move what is there away",
        )
    if revision in schema.REVISIONS:
        return StoreError(
            f"{name} is at schema {revision}, older than this Raysmith's {schema.HEAD}",
            "start the factory once; it migrates the store",
        )
    return StoreError(
        f"{name} is at schema {revision}, written by a newer Raysmith than this one ({schema.HEAD})",
        "upgrade Raysmith, or use another RAYSMITH_HOME",
    )
