"""One thread that owns the connection: what waits becomes one transaction, acknowledged after COMMIT."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cluster import event_log_usage, schema
from cluster.event_log_chain import Draft, Link, event_fields, event_of, link, row_of
from cluster.event_log_driver import Driver, Insert, StoreAway
from cluster.event_log_projection import RunSummary, summary_fields, summary_from
from orchestrator import failpoints
from orchestrator.errors import StoreError, StoreOwned

# Bounds how long the first append of a group waits for the last to be written.
_GROUP_BYTES = 8 * 2**20
_KEPT_TAILS = 10_000
_PAUSE_S = 0.1


def utc_now() -> str:
    """The time in the form that events carry."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


EVENTS = Insert(schema.events.name, event_fields())
# Names in these statements are those of our own schema.
RUNS = Insert(schema.runs.name, summary_fields(), key=("run_id",))
USAGE = Insert(
    schema.usage.name, event_log_usage.COLUMNS, key=event_log_usage.KEY, adding=event_log_usage.AMOUNTS
)
META = Insert(schema.meta.name, ("key", "value"), key=("key",))
_SELECT_RUN = f"SELECT {', '.join(summary_fields())} FROM runs WHERE run_id = ?"  # noqa: S608
_SELECT_TAIL = "SELECT seq, hash FROM events WHERE run_id = ? ORDER BY seq DESC LIMIT 1"
_SELECT_HASH = "SELECT hash FROM events WHERE run_id = ? AND seq = ?"
_SELECT_EVENTS = (
    f"SELECT {', '.join(event_fields())} FROM events WHERE run_id = ? AND seq > ? ORDER BY seq LIMIT 1000"  # noqa: S608
)
_SELECT_CALLS = (
    f"SELECT position, {', '.join(event_fields())} FROM events "  # noqa: S608
    "WHERE type = 'engine_called' AND position > ? ORDER BY position LIMIT 1000"
)
_SELECT_RUN_IDS = "SELECT run_id FROM events GROUP BY run_id ORDER BY MIN(position)"


def project(driver: Driver, run_id: str) -> RunSummary:
    """The row of a run that has events, from all of them."""
    summary: RunSummary | None = None
    last_seq = 0
    while rows := driver.execute(_SELECT_EVENTS, (run_id, last_seq)):
        for row in rows:
            event = event_of(row)
            summary = (summary or RunSummary(run_id=run_id, tenant=event.tenant)).after(event)
            last_seq = event.seq
    assert summary is not None
    return summary


def rebuild(driver: Driver) -> int:
    """Make what is kept beside the events anew: the list of runs, in the order in which they began,
    and what engines cost. The number of runs."""
    driver.execute("DELETE FROM runs")
    run_ids = [run_id for (run_id,) in driver.execute(_SELECT_RUN_IDS)]
    driver.insert(RUNS, [project(driver, run_id).row() for run_id in run_ids])
    # What runs cost that were pruned since stands nowhere else.
    driver.execute("DELETE FROM usage WHERE run_id IN (SELECT run_id FROM events)")
    after = 0
    while rows := driver.execute(_SELECT_CALLS, (after,)):
        driver.insert(USAGE, event_log_usage.usage_rows(event_of(row[1:]) for row in rows))
        after = rows[-1][0]
    return len(run_ids)


@dataclass(slots=True)
class Job:
    """What one caller waits for: drafts to be appended, or other work on the connection."""

    drafts: Sequence[Draft] = ()
    work: Callable[[Driver], Any] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    future: Any = field(default_factory=Future)
    result: Any = None
    error: BaseException | None = None
    size: int = 0

    def __post_init__(self) -> None:
        self.size = sum(new.size for new in self.drafts)

    def settle(self) -> None:
        """Tell the caller, on the thread that its future belongs to."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


@dataclass(frozen=True, slots=True)
class _Tail:
    seq: int
    hash: str
    summary: RunSummary


class Writer:
    """Every job taken is settled exactly once, and successfully only after its COMMIT returned.

    After a failed transaction nothing is remembered: sequence numbers and hashes are read from
    the database again, so that it goes on where the acknowledged events end.
    """

    def __init__(
        self, driver: Driver, *, epoch: int, queue_bytes: int, clock: Callable[[], str] = utc_now
    ) -> None:
        self._driver = driver
        self._epoch = epoch
        self._queue_bytes = queue_bytes
        self._clock = clock
        self._queue: deque[Job] = deque()
        self._held = 0
        self._changed = threading.Condition()
        self._closing = False
        self._tails: dict[str, _Tail] = {}
        self._thread = threading.Thread(target=self._run, name="raysmith-event-log", daemon=True)
        self._thread.start()

    def offer(self, job: Job) -> bool:
        """Queue `job`, or return False when the queue is at its bound.

        Raises:
            StoreError: The writer is closing.
        """
        with self._changed:
            if self._closing:
                raise StoreError("the event log is closed", "open it again")
            if not self._has_room(job):
                return False
            self._queue.append(job)
            self._held += job.size
            self._changed.notify_all()
            return True

    def wait_for_room(self, job: Job) -> None:
        """Return when the queue may have room for `job`, or after a second."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._has_room(job), 1.0)

    def _has_room(self, job: Job) -> bool:
        return not self._held or self._held + job.size <= self._queue_bytes

    def close(self) -> None:
        """Write what waits, then end the thread and let go of the connection."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while group := self._take():
            self._write(group)
            _settle(group)
        self._driver.close()

    def _take(self) -> list[Job]:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            group: list[Job] = []
            size = 0
            while self._queue and (not group or size + self._queue[0].size <= _GROUP_BYTES):
                job = self._queue.popleft()
                size += job.size
                group.append(job)
            self._held -= size
            self._changed.notify_all()
        return group

    def _write(self, group: list[Job]) -> None:
        group = [job for job in group if not job.future.cancelled()]
        error = self._transact(group)
        # Work beside events, such as on an index of its own, must not cost other runs their events.
        has_work = len(group) > 1 and any(job.work is not None for job in group)
        if error is not None and (has_work or self._driver.blames_one(error)):
            # Alone, and with tails read anew: only what is to blame fails.
            for job in group:
                self._fail([job], self._transact([job]))
        else:
            self._fail(group, error)

    def _fail(self, group: Sequence[Job], error: Exception | None) -> None:
        for job in group:
            job.error = error and (self._driver.translate(error) or error)

    def _transact(self, group: Sequence[Job]) -> Exception | None:
        """Commit the group; what went wrong, None when it is committed.

        While the database is away it is tried again, for as long as the driver has patience.
        """
        give_up = time.monotonic() + self._driver.patience_s
        while True:
            written: dict[str, _Tail] = {}
            try:
                self._commit(group, written)
            except Exception as error:  # whatever it is, callers wait for it and the thread must live on
                self._tails.clear()
                self._driver.rollback()
                landed = self._landed(written, give_up) if written else False
                if landed:
                    return None
                if landed is None or not self._is_away(error) or not _paused(give_up):
                    return error if landed is not None else _unknown(self._driver.translate(error) or error)
            else:
                self._remember(written)
                return None

    def _commit(self, group: Sequence[Job], written: dict[str, _Tail]) -> None:
        failpoints.hit("event_log.before_append")
        self._refuse_if_fenced(self._driver.begin())
        links = [linked for job in group for linked in self._done(job, written)]
        self._driver.insert(EVENTS, [row_of(linked) for linked in links])
        self._driver.insert(RUNS, [tail.summary.row() for tail in written.values()])
        self._driver.insert(USAGE, event_log_usage.usage_rows(linked.event for linked in links))
        failpoints.hit("event_log.before_commit")
        self._driver.commit()
        failpoints.hit("event_log.after_commit")

    def _done(self, job: Job, written: dict[str, _Tail]) -> list[Link]:
        """Do the work of `job`, or chain its drafts on; the links that are to be inserted."""
        if job.work is not None:
            job.result = job.work(self._driver)
            return []
        at = self._clock()
        links: list[Link] = []
        for new in job.drafts:
            run_id = new.event.run_id
            tail = written.get(run_id) or self._tail(run_id, new.event.tenant)
            linked = link(new, seq=tail.seq + 1, at=at, prev_hash=tail.hash)
            links.append(linked)
            written[run_id] = _Tail(linked.event.seq, linked.event.hash, tail.summary.after(linked.event))
        job.result = tuple(linked.event for linked in links)
        return links

    def _tail(self, run_id: str, tenant: str) -> _Tail:
        if tail := self._tails.get(run_id):
            return tail
        rows = self._driver.execute(_SELECT_TAIL, (run_id,))
        if not rows:
            return _Tail(0, "", RunSummary(run_id=run_id, tenant=tenant))
        summaries = self._driver.execute(_SELECT_RUN, (run_id,))
        seq, digest = rows[0]
        summary = summary_from(summaries[0]) if summaries else None
        if summary is None or summary.last_seq != seq:
            summary = project(self._driver, run_id)
        return _Tail(seq, digest, summary)

    def _refuse_if_fenced(self, epoch: int | None) -> None:
        if epoch != self._epoch:
            raise StoreOwned(
                f"this orchestrator's epoch is {self._epoch}, but the store was taken over (now {epoch})",
                "let this process end; the newer one carries on every run",
            )

    def _landed(self, written: dict[str, _Tail], give_up: float) -> bool | None:
        """Whether a COMMIT that failed took effect all the same, as when the answer was lost.

        None when it cannot be asked: not acknowledged, and the next transaction finds out.
        """
        run_id, tail = next(iter(written.items()))
        while True:
            try:
                return self._driver.execute(_SELECT_HASH, (run_id, tail.seq)) == [(tail.hash,)]
            except Exception as error:
                self._driver.rollback()
                if not self._is_away(error) or not _paused(give_up):
                    return None

    def _is_away(self, error: Exception) -> bool:
        return isinstance(self._driver.translate(error), StoreAway)

    def _remember(self, written: dict[str, _Tail]) -> None:
        if len(self._tails) > _KEPT_TAILS:
            self._tails.clear()
        self._tails.update(written)
        for run_id, tail in written.items():
            if tail.summary.status.is_finished:
                del self._tails[run_id]


def _paused(give_up: float) -> bool:
    """Wait a moment; False when it is time to give up."""
    if time.monotonic() >= give_up:
        return False
    time.sleep(_PAUSE_S)
    return True


def _unknown(error: Exception) -> StoreError:
    """The answer to COMMIT was lost, and the database cannot be asked."""
    return StoreError(
        f"whether the last events were committed is not known ({error})",
        "the log finds out by itself when the database is back",
    )


def _settle(group: Sequence[Job]) -> None:
    """Tell every caller; one wake-up per event loop, not one per append."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in group:
        if job.loop is None:
            job.settle()
        else:
            by_loop.setdefault(job.loop, []).append(job)
    for loop, jobs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_all, jobs)
        except RuntimeError:  # the loop is closed: nobody waits any more
            continue


def _settle_all(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.settle()
