"""An event log in memory: the durable one's answers, for tests and to measure what durability costs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice

from cluster.event_log_chain import Draft, Link, Row, batch_of, draft, link, row_of
from cluster.event_log_projection import RunSummary, clean_text
from cluster.event_log_reads import LogReads
from cluster.event_log_usage import By, UsageRow, added_up, usage_rows
from cluster.store_settings import StoreSettings
from cluster.writer import utc_now
from orchestrator.errors import StoreError
from orchestrator.events import Event, NewEvent, Status


class MemoryEventLog(LogReads):
    """Keeps events as long as this object lives."""

    def __init__(self, settings: StoreSettings | None = None, *, clock: Callable[[], str] = utc_now) -> None:
        self.epoch = 1
        self._event_bytes = (settings or StoreSettings()).event_mib * 2**20
        self._clock = clock
        self._links: dict[str, list[Link]] = {}
        self._all: list[Event] = []
        self._meta: dict[str, str] = {}
        self._summaries: dict[str, RunSummary] = {}
        self._lock = threading.Lock()
        self._closed = False

    @property
    def exists(self) -> bool:
        return bool(self._links)

    async def append(self, events: Sequence[NewEvent]) -> Sequence[Event]:
        """Keep `events` in order and return them with seq and hash; all or none.

        Raises:
            ValueError: An event does not fit the log.
            StoreError: The log is closed.
        """
        return self.append_blocking(events)

    def append_blocking(self, events: Sequence[NewEvent]) -> Sequence[Event]:
        """`append` for a thread that has no event loop."""
        drafts = [draft(new, self._event_bytes) for new in events]
        with self._lock:
            if self._closed:
                raise StoreError("the event log is closed", "open it again")
            at = self._clock()
            return tuple(self._keep(new, at) for new in drafts)

    def rebuild_projection(self) -> int:
        """Make the list of runs anew from the events; the number of runs."""
        with self._lock:
            self._summaries = {run_id: _project(links) for run_id, links in self._links.items()}
            return len(self._summaries)

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
        with self._lock:
            found = [
                run
                for run in reversed(self._summaries.values())
                if (status is None or run.status in status)
                and tenant in (None, run.tenant)
                and clean_text(task_id) in (None, run.task_id)
                and clean_text(key) in (None, run.key)
                and clean_text(life) in (None, run.life)
            ]
        return found[offset : None if limit is None else offset + limit]

    def run(self, run_id: str) -> RunSummary | None:
        with self._lock:
            return self._summaries.get(run_id)

    def count(self, *, status: Collection[Status] | None = None, tenant: str | None = None) -> int:
        return len(self.runs(status=status, tenant=tenant, limit=None))

    def run_ids(self, prefix: str = "") -> list[str]:
        with self._lock:
            return [run_id for run_id in self._links if run_id.startswith(prefix)]

    def tally(self) -> dict[tuple[Status, str | None], int]:
        with self._lock:
            return dict(Counter((run.status, run.reason) for run in self._summaries.values()))

    def usage_of(self, by: By, tenant: str | None, run_id: str | None, since: str) -> Sequence[UsageRow]:
        with self._lock:
            events = [
                event
                for event in self._all
                if tenant in (None, event.tenant)
                and run_id in (None, event.run_id)
                and event.at[:10] >= since
            ]
        return added_up(usage_rows(events), by)

    def feed(self, after: int, limit: int = 1000) -> list[tuple[int, Event]]:
        with self._lock:
            return list(enumerate(self._all[after : after + limit], after + 1))

    def end(self) -> int:
        return len(self._all)

    def batch(self, batch_id: str) -> list[RunSummary]:
        with self._lock:
            first = {run_id: links[0].event for run_id, links in self._links.items()}
            return [
                self._summaries[name] for name, event in first.items() if batch_of(event.data) == batch_id
            ]

    def meta(self, key: str) -> str | None:
        return self._meta.get(key)

    async def set_meta(self, key: str, value: str) -> None:
        """Keep `value` under `key`, in place of what was there."""
        self._meta[key] = value

    def close(self) -> None:
        self._closed = True

    def _keep(self, new: Draft, at: str) -> Event:
        run_id = new.event.run_id
        links = self._links.setdefault(run_id, [])
        prev_hash = links[-1].event.hash if links else ""
        linked = link(new, seq=len(links) + 1, at=at, prev_hash=prev_hash)
        summary = self._summaries.get(run_id) or RunSummary(run_id=run_id, tenant=new.event.tenant)
        self._summaries[run_id] = summary.after(linked.event)
        links.append(linked)
        self._all.append(linked.event)
        return linked.event

    def rows_of(self, run_id: str, after_seq: int = 0, limit: int | None = None) -> Iterator[Row]:
        with self._lock:
            links = list(islice(self._links.get(run_id, ()), after_seq, None))[:limit]
        return map(row_of, links)


def _project(links: Sequence[Link]) -> RunSummary:
    first = links[0].event
    summary = RunSummary(run_id=first.run_id, tenant=first.tenant)
    for each in links:
        summary = summary.after(each.event)
    return summary
