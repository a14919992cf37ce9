"""The event log as the factory uses it: one writer per store, readers wherever they are.

Written by `cluster/writer.py`, read by `cluster/event_log_sql.py`, stored as `cluster/schema.py` says.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy.exc import DBAPIError

from cluster import migrations, schema
from cluster.event_log_chain import draft
from cluster.event_log_check import CheckReport
from cluster.event_log_driver import Database, Driver
from cluster.event_log_projection import RunSummary
from cluster.event_log_sql import SqlReads, revision_of
from cluster.event_log_sqlite import SqliteDatabase
from cluster.store_settings import StoreSettings
from cluster.writer import META, Job, Writer, rebuild, utc_now
from orchestrator.errors import StoreError, StoreOwned
from orchestrator.events import Event, NewEvent


class EventReader(SqlReads):
    """A store opened for reading: it never creates, migrates or locks one."""

    def __init__(self, settings: StoreSettings, home: Path) -> None:
        super().__init__(database_of(settings, home))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class EventLog(EventReader):
    """A store opened for writing. Every event acknowledged survives kill -9, and power loss at FULL.

    Opening it creates the store or migrates it, and takes its epoch: from then on the commits of
    whoever had a lower one fail.
    """

    def __init__(
        self,
        settings: StoreSettings,
        home: Path,
        *,
        epoch: int | None = None,
        clock: Callable[[], str] = utc_now,
        wait_s: float = 10.0,
    ) -> None:
        """Open for writing.

        Args:
            epoch: Of the `Ownership` under which it is opened; None takes the next one. In a database
                that other homes may open too, at least the next one is taken.
            clock: Gives the time that events carry.
            wait_s: How long to wait for a dying owner of such a database.

        Raises:
            StoreError: The store cannot be opened, or a newer Raysmith wrote it.
            StoreOwned: A newcomer holds a higher epoch, or an owner in another home lives.
        """
        super().__init__(settings, home)
        driver = self._database.driver(wait_s=wait_s)
        try:
            self.epoch = _migrate_and_take(self._database, epoch)
        except BaseException:
            driver.close()
            raise
        self._event_bytes = settings.event_mib * 2**20
        self._pid = os.getpid()
        self._writer = Writer(driver, epoch=self.epoch, queue_bytes=settings.queue_mib * 2**20, clock=clock)

    async def append(self, events: Sequence[NewEvent]) -> Sequence[Event]:
        """Commit `events` in order and return them with seq and hash; all or none.

        Cancelling it before its transaction began writes nothing; later, everything.

        Raises:
            ValueError: An event does not fit the log; nothing was queued.
            StoreError: Nothing of it was committed. The log goes on when the cause is gone.
        """
        loop = asyncio.get_running_loop()
        job = self._job(events, loop=loop, future=loop.create_future())
        while job.drafts and not self._writer.offer(job):
            await asyncio.to_thread(self._writer.wait_for_room, job)
        committed: Sequence[Event] = await job.future if job.drafts else ()
        return committed

    def append_blocking(self, events: Sequence[NewEvent]) -> Sequence[Event]:
        """`append` for a thread that has no event loop."""
        job = self._job(events)
        committed: Sequence[Event] = self._await(job) if job.drafts else ()
        return committed

    async def set_meta(self, key: str, value: str) -> None:
        """Keep `value` under `key`, in place of what was there; it is committed when this returns.

        Raises:
            StoreError: Nothing was changed.
        """
        await self.do(lambda driver: driver.insert(META, [(key, value)]))

    async def do(self, work: Callable[[Driver], Any]) -> Any:
        """What `work` returns, done in a transaction that is committed when this returns.

        Raises:
            StoreError: Nothing was changed.
        """
        loop = asyncio.get_running_loop()
        job = self._job((), work=work, loop=loop, future=loop.create_future())
        while not self._writer.offer(job):
            await asyncio.to_thread(self._writer.wait_for_room, job)
        return await job.future

    def do_blocking(self, work: Callable[[Driver], Any]) -> Any:
        """`do` for a thread that has no event loop."""
        return self._await(self._job((), work=work))

    def rebuild_projection(self) -> int:
        """Make the list of runs anew from the events; the number of runs.

        Raises:
            StoreError: Nothing was changed.
        """
        count: int = self._await(self._job((), work=rebuild))
        return count

    def close(self) -> None:
        """Commit what waits, then end; a second call does nothing."""
        if os.getpid() == self._pid:
            self._writer.close()
        super().close()

    def _job(self, events: Iterable[NewEvent], **rest: Any) -> Job:
        if os.getpid() != self._pid:
            raise StoreError("this event log was opened by the parent process", "open one after the fork")
        return Job(drafts=[draft(new, self._event_bytes) for new in events], **rest)

    def _await(self, job: Job) -> Any:
        while not self._writer.offer(job):
            self._writer.wait_for_room(job)
        return job.future.result()


def open_log(settings: StoreSettings, home: Path, *, epoch: int | None = None) -> EventLog:
    """The store of `home` for writing; see `EventLog`."""
    return EventLog(settings, home, epoch=epoch)


def open_reader(settings: StoreSettings, home: Path) -> EventReader:
    """The store of `home` for reading, whether it is there or not; see `EventReader`."""
    return EventReader(settings, home)


def stored_epoch(settings: StoreSettings, home: Path) -> int:
    """The highest epoch that ever opened the store, 0 for none; an `Ownership` starts above it."""
    with open_reader(settings, home) as reader:
        return reader.epoch_taken()


def database_of(settings: StoreSettings, home: Path) -> Database:
    """Where the settings say that the store is.

    Raises:
        StoreError: The URL is not one that this release can open.
    """
    if settings.is_postgres:
        from cluster.event_log_postgres import PostgresDatabase

        return PostgresDatabase(
            settings.url, synchronous=settings.synchronous, busy_timeout_s=settings.busy_timeout_s
        )
    return SqliteDatabase(
        settings.database(home), synchronous=settings.synchronous, busy_timeout_s=settings.busy_timeout_s
    )


def _migrate_and_take(database: Database, epoch: int | None) -> int:
    """Migrate the database and take its epoch, in one transaction."""
    engine = database.migrating()
    try:
        with engine.begin() as connection:
            revision = revision_of(database, connection)
            if revision != schema.HEAD:
                migrations.upgrade(connection)
            taken = _take_epoch(connection, epoch, is_shared=database.is_shared)
            if revision is None:
                connection.execute(
                    schema.meta.insert(),
                    [
                        {"key": "store_id", "value": uuid.uuid4().hex},
                        {"key": "created_at", "value": utc_now()},
                    ],
                )
        return taken
    except StoreError:
        raise
    except Exception as error:
        cause = (error.orig or error) if isinstance(error, DBAPIError) else error
        raise database.translate(cause) or error from cause
    finally:
        engine.dispose()


def _take_epoch(connection: Any, epoch: int | None, *, is_shared: bool) -> int:
    row = connection.execute(schema.owner.select()).first()
    stored = row.epoch if row else 0
    taken = max(stored + 1, epoch or 0) if epoch is None or is_shared else epoch
    if taken < stored:
        raise StoreOwned(
            f"the store is at epoch {stored}, but this orchestrator's is {taken}",
            "let this process end; the newer one carries on every run",
        )
    values = {"epoch": taken, "taken_at": utc_now()}
    if row is None:
        connection.execute(schema.owner.insert().values(id=1, **values))
    else:
        connection.execute(schema.owner.update().values(**values))
    return taken


__all__ = ["CheckReport", "EventLog", "EventReader", "RunSummary", "open_log", "open_reader", "stored_epoch"]
