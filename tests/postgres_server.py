"""A schema of its own on whatever PostgreSQL there is, and a door to it that can be shut."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

_CANDIDATES = ("postgresql:///test", "postgresql://postgres@127.0.0.1:5432/test")


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """Where a test may write, by TCP on loopback, and the schema that it has to itself."""

    schema: str
    parameters: dict[str, Any]

    def url(self, *, port: int = 0, **more: str) -> str:
        """Its URL, through another port if wanted."""
        user = quote(self.parameters["user"], safe="")
        options = {"options": f"-csearch_path={self.schema}", **more}
        query = "&".join(f"{key}={quote(value, safe='')}" for key, value in options.items())
        name = self.parameters["dbname"]
        return f"postgresql://{user}@127.0.0.1:{port or self.parameters['port']}/{name}?{query}"

    def execute(self, statement: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """Run a statement beside whoever is being tested."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def sessions(self, application: str = "raysmith orchestrator%") -> list[int]:
        """The server's processes for sessions of the store in this schema."""
        rows = self.execute(
            "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' "
            "AND application_name LIKE %s AND objid::bigint = hashtext(%s)::bigint & 4294967295",
            (application, self.schema),
        )
        return [pid for (pid,) in rows]

    def end_sessions(self) -> int:
        """Have the server end the writers' sessions, as a restart would; how many."""
        pids = self.sessions()
        for pid in pids:
            self.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        return len(pids)


@contextlib.contextmanager
def a_schema() -> Iterator[PostgresServer]:
    """A schema that is dropped at the end; skips where there is no server."""
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed (pip install '.[postgres]')")
    parameters = _reachable(psycopg)
    server = PostgresServer(f"raysmith_test_{uuid.uuid4().hex[:12]}", parameters)
    server.execute(f"CREATE SCHEMA {server.schema}")
    try:
        yield server
    finally:
        server.end_sessions()
        server.execute(f"SET client_min_messages = error; DROP SCHEMA {server.schema} CASCADE")


def _reachable(psycopg: Any) -> dict[str, Any]:
    """TCP parameters of a server where schemas can be made: TEST_POSTGRES_URL, else this machine's."""
    named = os.environ.get("TEST_POSTGRES_URL")
    tried = []
    for url in (named,) if named else _CANDIDATES:
        try:
            with psycopg.connect(url, connect_timeout=3) as connection:
                info = connection.info
                found = {"user": info.user, "dbname": info.dbname, "port": info.port}
            psycopg.connect(host="127.0.0.1", connect_timeout=3, **found).close()
            return found
        except psycopg.Error as error:
            tried.append(" ".join(str(error).split()))
    pytest.skip(f"no PostgreSQL server to test with ({tried[-1]})")


class Door:
    """A TCP proxy before a server; shut, it breaks what goes through and refuses more, as a restart does."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._open = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._deserted: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self.port = 0
        self.swallow = b""
        self.open()

    def open(self) -> None:
        """Let connections through."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def desert(self) -> None:
        """Break the clients' side only: the server does not hear that they are gone."""
        with self._lock:
            self._deserted = [server for _, server in self._pairs]
            clients, self._pairs = [client for client, _ in self._pairs], []
        for client in clients:
            _break((client,))

    def shut(self) -> None:
        """Break every connection and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in (*pairs, self._deserted):
            _break(pair)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to_port))
            except OSError:
                return
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        is_swallowing = False
        with contextlib.suppress(OSError, ValueError):
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data and server not in self._deserted:
                        return _break((client, server))
                    if not data:
                        return None
                    if ready is client and self.swallow and self.swallow in data:
                        self.swallow = b""
                        is_swallowing = True
                    if ready is server and is_swallowing:
                        # It got the whole request, which may come in pieces; its answer reaches nobody.
                        return _break((client, server))
                    (server if ready is client else client).sendall(data)
        return None


def _break(sockets: Iterable[socket.socket]) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
