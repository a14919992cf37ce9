from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from event_log_conformance import *  # noqa: F403
from event_log_conformance import Log, Store
from postgres_server import PostgresServer, a_schema

from cluster.event_log import EventLog
from cluster.store_settings import StoreSettings


class PostgresStore:
    def __init__(self, server: PostgresServer, home: Path) -> None:
        self.server = server
        self.home = home
        self.last: EventLog | None = None

    def open(self) -> Log:
        self.close()
        self.last = EventLog(StoreSettings(url=self.server.url()), self.home)
        return self.last

    def close(self) -> None:
        if self.last is not None:
            self.last.close()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with a_schema() as server:
        yield server


@pytest.fixture
def store(server: PostgresServer, tmp_path: Path) -> Iterator[Store]:
    store = PostgresStore(server, tmp_path)
    yield store
    store.close()
    server.execute(f"DROP SCHEMA {server.schema} CASCADE; CREATE SCHEMA {server.schema}")
