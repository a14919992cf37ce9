"""The event log's seam to PostgreSQL, and the one place where its errors become ours.

Whoever writes holds an advisory lock for as long as its session lives: so two orchestrators on two
machines never write in turn, and once a lost session is gone it is certain what it committed.
No password ever reaches a message.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event

from cluster.event_log_driver import SELECT_EPOCH, Insert, StoreAway
from orchestrator.errors import StoreError, StoreOwned

if TYPE_CHECKING:
    import psycopg

# Of an advisory lock's two numbers the first, "rays" and "raym" in ASCII; the second is the schema's.
_OWNS, _MIGRATES = 0x72617973, 0x7261796D
_SCHEMA = "hashtext(current_schema())"
_TRY_LOCK = f"SELECT pg_try_advisory_lock({_OWNS}, {_SCHEMA})"
_HOLDER = f"""
SELECT pid, application_name, host(client_addr)
FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = {_OWNS}
AND objid::bigint = {_SCHEMA}::bigint & 4294967295
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""  # noqa: S608  # numbers and names of our own
_TABLES = "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = current_schema()"
_FACTS = "SELECT current_setting('server_version'), current_setting('fsync'), current_schema()"
# FOR UPDATE: a newcomer's epoch waits for this transaction, and this one for a newcomer's.
_BEGIN = f"BEGIN; {SELECT_EPOCH} FOR UPDATE"
# A new session of ours ends the one that was lost, and waits for its end this long.
_GHOST_S = 5.0
_POLL_S = 0.05
_ROWS_AT_ONCE = 32
# A dead network is noticed within seconds on both sides; the URL may say otherwise.
_DEFAULTS = {
    "client_encoding": "UTF8",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_SESSION = (
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; "
    "SET default_transaction_isolation = 'read committed'; SET client_min_messages = error; "
    "SET lock_timeout = {lock_ms}; "
)
# At FULL whatever waits for a disk stays as the server has it; only not waiting is not FULL.
_SYNCHRONOUS = {
    "FULL": "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'",
    "NORMAL": "SET synchronous_commit = off",
}
_FULL = "free some space on its server; nothing acknowledged is lost and the log goes on by itself"
# By the beginning of the SQLSTATE: the connection broke, the server ends, starts or is full.
_AWAY = ("08", "57P01", "57P02", "57P03", "57P05", "53300")
_PASSING = ("starting up", "shutting down", "recovery", "too many", "remaining connection slots")
_TOLD = (
    ("53100", "has no space left", _FULL),
    ("53", "is short of memory", "raise the limits of its server"),
    ("55P03", "stayed locked by another session", "end what else writes to it; then try again"),
    ("25006", "is read-only", "name the primary server in `store.url`, not a standby"),
    ("42501", "may not be written by this role", "let the role own the schema"),
    ("3F000", "has no schema to make tables in", "create the schema that `search_path` names"),
)


@dataclass(frozen=True, slots=True)
class Server:
    """Where `store.url` points: libpq's parameters, and how messages call it."""

    parameters: Mapping[str, Any] = field(repr=False)
    name: str

    @classmethod
    def named_by(cls, url: str) -> Server:
        """Read a `postgresql://` URL.

        Raises:
            StoreError: It is no such URL, or psycopg is not installed.
        """
        try:
            from psycopg import ProgrammingError, conninfo
        except ImportError as error:
            raise StoreError(
                "`store.url` names PostgreSQL, and psycopg is not installed",
                "pip install 'raysmith[postgres]'",
            ) from error
        try:
            found = conninfo.conninfo_to_dict(url)
        except ProgrammingError:
            found = {"dbname": "@"}
        host, port, database = (str(found.get(name, "")) for name in ("host", "port", "dbname"))
        # A password with a slash or an @ in it ends up in other fields, which messages show.
        if "@" in database + host or (port and not port.replace(",", "").isdecimal()):
            raise StoreError(
                "`store.url` is not a PostgreSQL URL",
                "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE; in a password / is %2F, @ %40, % %25",
            ) from None
        where = f"{host or found.get('hostaddr') or 'the local socket'}{port and f':{port}'}"
        name = f"PostgreSQL database {database or '(the default)'} at {where}"
        return cls({**_DEFAULTS, **found}, name)

    def connect(self, application: str, *, autocommit: bool = True, **parameters: Any) -> psycopg.Connection:
        """A session.

        Raises:
            StoreError: There is none to be had.
        """
        import psycopg

        asked = {"application_name": application[:63], **parameters, **self.parameters}
        try:
            connection = psycopg.connect(autocommit=autocommit, **asked)
        except psycopg.Error as error:
            raise self.translate(error) or error from None
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            connection.close()
            raise StoreError(f"{self.name} is encoded in {encoding}", "create it with ENCODING 'UTF8'")
        return connection

    def translate(self, error: BaseException) -> StoreError | None:
        """`error` of psycopg or the operating system about this database, in our words."""
        import psycopg

        if isinstance(error, StoreError):
            return error
        if isinstance(error, psycopg.Error):
            return self._by_state(error)
        if isinstance(error, OSError):
            return StoreError(f"{self.name} cannot be used ({error})", "check its server")
        return None

    def _by_state(self, error: psycopg.Error) -> StoreError:
        from psycopg import InterfaceError, OperationalError

        text, state = self._clean(str(error)), error.sqlstate or ""
        # Without a SQLSTATE it is libpq that speaks: of a broken connection, or of one that was refused.
        refused = "FATAL:" in text and not any(each in text for each in _PASSING)
        broken = not state and isinstance(error, OperationalError | InterfaceError) and not refused
        if broken or state.startswith(_AWAY):
            return StoreAway(
                f"{self.name} cannot be reached ({text})",
                "check its server; the log goes on by itself when it answers again",
            )
        for start, what, next_move in _TOLD:
            if state.startswith(start):
                return StoreError(f"{self.name} {what} ({text})", next_move)
        return StoreError(f"{self.name} cannot be used ({text})", "check `store.url` and the server")

    def _clean(self, text: str) -> str:
        secret = str(self.parameters.get("password") or "")
        return " ".join((text.replace(secret, "…") if secret else text).split())[:500]


class PostgresDriver:
    """The one session that writes. Connecting takes the owner's lock, and losing the session frees it."""

    def __init__(self, server: Server, *, synchronous: str, patience_s: float) -> None:
        self.patience_s = patience_s
        self._server = server
        self._setup = _SESSION.format(lock_ms=int(patience_s * 1000)) + _SYNCHRONOUS[synchronous]
        self._connection: psycopg.Connection | None = None
        self._pipeline: AbstractContextManager[Any] | None = None
        # The server's process behind our session; a lost one may outlive its connection.
        self._backend = 0

    def open(self, wait_s: float) -> None:
        """Connect and become the owner; see `Database.driver`."""
        self._connection = self._connect(wait_s)

    def begin(self) -> int | None:
        cursor = self._connected().execute(_BEGIN)
        cursor.nextset()
        row = cursor.fetchone()
        return int(row[0]) if row else None

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        self._answered()
        cursor = self._connected().execute(_marked(statement), parameters)
        return cursor.fetchall() if cursor.description else []

    def insert(self, into: Insert, rows: Sequence[Sequence[Any]]) -> None:
        # Sent without waiting for an answer, up to COMMIT; what is wrong with one of them comes out there.
        connection = self._connected()
        if self._pipeline is None:
            self._pipeline = connection.pipeline()
            self._pipeline.__enter__()
        # The same few statements each time, so that the server keeps their plans.
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            connection.execute(_marked(into.sql(len(part))), [value for row in part for value in row])

    def commit(self) -> None:
        self._connected().execute("COMMIT")
        self._answered()

    def rollback(self) -> None:
        import psycopg
        from psycopg.pq import TransactionStatus

        connection = self._connection
        with suppress(psycopg.Error):  # that is why it is rolled back
            self._answered()
        try:
            if connection and connection.info.transaction_status is not TransactionStatus.IDLE:
                connection.execute("ROLLBACK")
        except psycopg.Error:
            self.close()

    def translate(self, error: BaseException) -> StoreError | None:
        return self._server.translate(error)

    def blames_one(self, error: BaseException) -> bool:
        import psycopg

        if isinstance(error, psycopg.Error):
            return isinstance(error, psycopg.IntegrityError | psycopg.DataError | psycopg.ProgrammingError)
        return not isinstance(error, OSError | StoreError)

    def close(self) -> None:
        connection, self._connection, self._pipeline = self._connection, None, None
        if connection is not None:
            connection.close()

    def _answered(self) -> None:
        """Wait for the answers to all that was sent."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.__exit__(None, None, None)

    def _connected(self) -> psycopg.Connection:
        if self._connection is None:
            self._connection = self._connect(0.0)
        return self._connection

    def _connect(self, wait_s: float) -> psycopg.Connection:
        import psycopg

        connection = self._server.connect(
            f"raysmith orchestrator {os.getpid()}@{socket.gethostname()}", target_session_attrs="read-write"
        )
        try:
            connection.execute(self._setup)
            self._lock(connection, wait_s)
        except psycopg.Error as error:
            connection.close()
            raise self._server.translate(error) or error from error
        except BaseException:
            connection.close()
            raise
        self._backend = connection.info.backend_pid
        return connection

    def _lock(self, connection: psycopg.Connection, wait_s: float) -> None:
        began = time.monotonic()
        while not _first(connection, _TRY_LOCK)[0]:
            if _first(connection, "SELECT current_schema()")[0] is None:
                raise StoreError(
                    f"{self._server.name} has no schema to make tables in",
                    "create the schema that `search_path` names",
                )
            holder = connection.execute(_HOLDER).fetchone()
            is_ghost = holder is not None and holder[0] == self._backend
            if is_ghost:
                # What it was doing when it was lost may still be under way; its end decides that.
                connection.execute("SELECT pg_terminate_backend(%s)", (self._backend,))
            if time.monotonic() - began > (_GHOST_S if is_ghost else wait_s):
                raise _owned(self._server, holder, wait_s)
            time.sleep(_POLL_S)


class PostgresDatabase:
    """A database or a schema of one, of its own; what it needs of a URL is libpq's business."""

    is_shared = True

    def __init__(self, url: str, *, synchronous: str = "FULL", busy_timeout_s: float = 5.0) -> None:
        self._server = Server.named_by(url)
        self.name = self._server.name
        self.patience_s = busy_timeout_s
        self._synchronous = synchronous

    def driver(self, *, wait_s: float) -> PostgresDriver:
        driver = PostgresDriver(self._server, synchronous=self._synchronous, patience_s=self.patience_s)
        driver.open(wait_s)
        return driver

    def reading(self) -> Engine:
        # A session costs the server a process and some milliseconds.
        return create_engine(
            "postgresql+psycopg://",
            poolclass=QueuePool,
            pool_size=4,
            max_overflow=4,
            pool_pre_ping=True,
            creator=lambda: self._server.connect("raysmith reader"),
        )

    def migrating(self) -> Engine:
        engine = create_engine(
            "postgresql+psycopg://",
            poolclass=NullPool,
            creator=lambda: self._server.connect(
                "raysmith migration", autocommit=False, target_session_attrs="read-write"
            ),
        )

        @event.listens_for(engine, "begin")
        def one_at_a_time(connection: Connection) -> None:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(self.patience_s * 1000)}")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATES}, {_SCHEMA})")

        return engine

    def is_there(self) -> bool:
        return True

    def tables(self, connection: Connection) -> frozenset[str]:
        return frozenset(connection.exec_driver_sql(_TABLES).scalars())

    def translate(self, error: BaseException) -> StoreError | None:
        return self._server.translate(error)

    def facts(self) -> dict[str, str]:
        """What an operator wants to know: the server's version, its durability, who writes.

        Raises:
            StoreError: It cannot be asked.
        """
        import psycopg

        try:
            with self._server.connect("raysmith doctor") as connection:
                holder = connection.execute(_HOLDER).fetchone()
                version, fsync, place = _first(connection, _FACTS)
        except psycopg.Error as error:
            raise self.translate(error) or error from error
        return {
            "version": version.split()[0],
            "fsync": fsync,
            "schema": place or "",
            "owner": _who(holder) if holder else "",
        }


def _marked(statement: str) -> str:
    # psycopg's mark; no statement of ours has a question mark or a percent sign in it.
    return statement.replace("?", "%s")


def _first(connection: psycopg.Connection, statement: str) -> tuple[Any, ...]:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row


def _who(holder: Sequence[Any]) -> str:
    pid, application, address = holder
    return f"{application or 'a session'} (server process {pid}{f', from {address}' if address else ''})"


def _owned(server: Server, holder: Sequence[Any] | None, wait_s: float) -> StoreOwned:
    who = _who(holder) if holder else "another session"
    return StoreOwned(
        f"{server.name} is held by {who}" + (f" after {wait_s:g} s" if wait_s else ""),
        "join that factory's Ray cluster (RAY_ADDRESS), end it, or name another `store.url`",
    )
