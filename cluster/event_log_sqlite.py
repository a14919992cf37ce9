"""The event log's seam to SQLite, and the one place where SQLite's errors become ours."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, event

from cluster.event_log_driver import SELECT_EPOCH, Insert
from orchestrator.errors import StoreDamaged, StoreError, StoreOwned

_FULL = "free some space; nothing acknowledged is lost and the log goes on by itself"
# Older SQLite takes 999 parameters in a statement; a row has about 20.
_ROWS_AT_ONCE = 32
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_OF_A_STATEMENT = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class SqliteDriver:
    """A write-ahead-log database file on a local disk, opened when first used."""

    patience_s = 0.0

    def __init__(self, path: Path, *, synchronous: str = "FULL", busy_timeout_s: float = 5.0) -> None:
        self._path = path
        self._synchronous = synchronous
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None

    def begin(self) -> int | None:
        self._connected().execute("BEGIN IMMEDIATE")
        rows = self.execute(SELECT_EPOCH)
        return rows[0][0] if rows else None

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connected().execute(statement, parameters).fetchall()

    def insert(self, into: Insert, rows: Sequence[Sequence[Any]]) -> None:
        # Each statement gives the interpreter's lock away once and may wait for it; rows of one share that.
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            self._connected().execute(into.sql(len(part)), [value for row in part for value in row])

    def commit(self) -> None:
        self._connected().execute("COMMIT")

    def rollback(self) -> None:
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()

    def translate(self, error: BaseException) -> StoreError | None:
        return translate(error, self._path)

    def blames_one(self, error: BaseException) -> bool:
        about_all = isinstance(error, (sqlite3.OperationalError, OSError, StoreOwned))
        return not about_all and (
            not isinstance(error, sqlite3.DatabaseError) or type(error) in _OF_A_STATEMENT
        )

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        # The writer thread uses it; opening and closing happen on the owner's.
        connection = sqlite3.connect(
            self._path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                raise StoreError(
                    f"the file system of {self._path} cannot hold a write-ahead log",
                    "put RAYSMITH_HOME on a local disk",
                )
            connection.execute(f"PRAGMA synchronous={self._synchronous}")
            # On macOS fsync alone leaves data in the drive's cache; elsewhere these do nothing.
            connection.execute("PRAGMA fullfsync=ON")
            connection.execute("PRAGMA checkpoint_fullfsync=ON")
            connection.execute(f"PRAGMA journal_size_limit={64 * 2**20}")
        except BaseException:
            connection.close()
            raise
        return connection


class SqliteDatabase:
    """A database file; its lock is that of RAYSMITH_HOME, and its epochs are those of `cluster/owner.py`."""

    is_shared = False
    patience_s = 0.0

    def __init__(self, path: Path, *, synchronous: str = "FULL", busy_timeout_s: float = 5.0) -> None:
        self.name = str(path)
        self._path = path
        self._synchronous = synchronous
        self._busy_timeout_s = busy_timeout_s

    def driver(self, *, wait_s: float) -> SqliteDriver:  # noqa: ARG002  # the home's lock was waited for
        create_private(self._path)
        driver = SqliteDriver(self._path, synchronous=self._synchronous, busy_timeout_s=self._busy_timeout_s)
        try:
            # The write-ahead log is switched on outside of any transaction.
            driver.execute("SELECT 1")
        except sqlite3.Error as error:
            raise translate(error, self._path) or error from error
        return driver

    def reading(self) -> Engine:
        # No pool: a connection must not cross a fork, and opening one costs a fifth of a millisecond.
        return create_engine("sqlite://", poolclass=NullPool, creator=self._open_to_read)

    def migrating(self) -> Engine:
        engine = create_engine(
            "sqlite://",
            poolclass=NullPool,
            creator=lambda: sqlite3.connect(self._path, timeout=self._busy_timeout_s, isolation_level=None),
        )
        # Python's sqlite3 would commit before DDL; this makes a migration all or nothing.
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine

    def is_there(self) -> bool:
        try:
            return self._path.exists() and self._path.stat().st_size > 0
        except OSError as error:
            raise translate(error, self._path) or error from error

    def tables(self, connection: Connection) -> frozenset[str]:
        return frozenset(connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars())

    def translate(self, error: BaseException) -> StoreError | None:
        return translate(error, self._path)

    def _open_to_read(self) -> sqlite3.Connection:
        address = self._path.absolute().as_uri()
        connection = sqlite3.connect(
            f"{address}?mode=ro", uri=True, timeout=self._busy_timeout_s, check_same_thread=False
        )
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            if self._path.with_name(self._path.name + "-wal").exists():
                raise
            # A read-only folder without a log beside the database: nobody can be writing to it.
            return sqlite3.connect(f"{address}?immutable=1", uri=True, check_same_thread=False)
        return connection


def translate(error: BaseException, path: Path) -> StoreError | None:
    """`error` of SQLite or the operating system about the database at `path`, in our words."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, sqlite3.Error):
        # Extended codes keep the primary one in the low byte.
        return _by_code(getattr(error, "sqlite_errorcode", 0) & 0xFF, error, path)
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreError(f"the disk that holds {path} is full", _FULL)
        return StoreError(f"{path} cannot be used ({error})", "check the folder and the disk")
    return None


def _by_code(code: int, error: sqlite3.Error, path: Path) -> StoreError:
    if code == sqlite3.SQLITE_FULL:
        return StoreError(f"the disk that holds {path} is full", _FULL)
    if code in _LOCKED:
        return StoreError(
            f"{path} stayed locked by another process", "end what else writes to it; then try again"
        )
    if code in _DAMAGED:
        return StoreDamaged(f"{path} is damaged or not a database ({error})", "restore it from a backup")
    if code == sqlite3.SQLITE_READONLY:
        return StoreError(f"{path} cannot be written", "make it and its folder writable")
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreError(f"{path} cannot be opened", "check that its folder exists and can be written")
    return StoreError(
        f"{path} cannot be used ({error})", "check the disk; the log goes on by itself when it is well"
    )


def create_private(path: Path) -> None:
    """An empty file that only its owner can read, unless there is one.

    Never opens a file that is there: closing it would drop this process's locks on a live database.
    """
    if path.exists():
        return
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise translate(error, path) or error from error
