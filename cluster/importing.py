"""A run of another store taken into this one, as it was: every event with its number, time and hash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from cluster.event_log_chain import row_of, unchanged
from cluster.event_log_driver import Driver
from cluster.event_log_usage import usage_rows
from cluster.writer import EVENTS, RUNS, USAGE, project
from orchestrator.errors import TaskError
from orchestrator.events import Event

_PIECE = 64
_SELECT_LAST = "SELECT seq, hash FROM events WHERE run_id = ? ORDER BY seq DESC LIMIT 1"


class Source(Protocol):
    """Where a run comes from, verified: `cluster.export.Export` is one."""

    events: list[Event]

    def digests(self) -> Sequence[str]: ...

    def get(self, digest: str) -> bytes: ...


class Sink(Protocol):
    """Where contents go."""

    def put_all(self, contents: Any) -> list[str]: ...


def store_contents(source: Source, sink: Sink) -> int:
    """Store all that the run's events name, before any of them is there; how many contents that were."""
    digests = source.digests()
    for start in range(0, len(digests), _PIECE):
        sink.put_all([source.get(digest) for digest in digests[start : start + _PIECE]])
    return len(digests)


def insert(driver: Driver, events: Sequence[Event]) -> bool:
    """Insert a run's events in the transaction that is open; False where it is there already, event by event.

    Raises:
        TaskError: A run of that id is there that is not this one, or is further or less far.
    """
    run_id, last = events[0].run_id, events[-1]
    rows = driver.execute(_SELECT_LAST, (run_id,))
    if rows:
        if tuple(rows[0]) == (last.seq, last.hash):
            return False
        raise TaskError(
            f"run {run_id} is in this store already, with {rows[0][0]} events where the file has {last.seq}",
            "nothing was changed; import it into another RAYSMITH_HOME",
        )
    driver.insert(EVENTS, [row_of(unchanged(event)) for event in events])
    driver.insert(RUNS, [project(driver, run_id).row()])
    driver.insert(USAGE, usage_rows(events))
    return True
