from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from event_log_conformance import *  # noqa: F403
from event_log_conformance import Log, Store

from cluster.event_log import EventLog
from cluster.event_log_memory import MemoryEventLog
from cluster.store_settings import StoreSettings


class MemoryStore:
    def __init__(self) -> None:
        self.log = MemoryEventLog()

    def open(self) -> Log:
        return self.log


class SqliteStore:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.last: EventLog | None = None

    def open(self) -> Log:
        self.close()
        self.last = EventLog(StoreSettings(), self.home)
        return self.last

    def close(self) -> None:
        if self.last is not None:
            self.last.close()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    store = SqliteStore(tmp_path)
    yield store
    store.close()
