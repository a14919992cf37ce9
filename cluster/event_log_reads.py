"""What can be asked of an event log, whatever holds it: events, folded states, lists of runs, a check."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.event_log_chain import Row, broken, event_of
from cluster.event_log_projection import RunSummary, summary_of
from cluster.event_log_usage import By, Spent, UsageRow, added_up, spent, usage_rows
from orchestrator.errors import RaysmithError, StoreDamaged, StoreError, TaskError
from orchestrator.events import Event, RunState, Status, fold

UNFINISHED = tuple(status for status in Status if not status.is_finished)
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Under these keys an event's data names artifacts; the first two name trees.
TREE_KEYS = frozenset({"tree", "candidate"})
ARTIFACT_KEYS = TREE_KEYS | {
    *("patch", "diff", "result", "artifact", "graph_version"),
    *("agents", "lessons", "answers", "measures", "replies"),
}


class Contents(Protocol):
    """What a check needs of an artifact store."""

    def get(self, digest: str) -> bytes: ...

    def has(self, digest: str) -> bool: ...

    def tree_entries(self, digest: str) -> Sequence[tuple[str, Any, str]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """How much a check looked at, and everything that was wrong, in words with its place."""

    runs: int
    events: int
    artifacts: int
    problems: tuple[str, ...]


class LogReads(ABC):
    """Reads of a store: no lock, whole appends only. A store that is not there has no runs."""

    @property
    @abstractmethod
    def exists(self) -> bool:
        """Whether anything was ever written here."""

    @abstractmethod
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
        """Runs that match every filter given, the newest first.

        Raises:
            StoreError: The store cannot be read; so do all other reads.
        """

    @abstractmethod
    def run(self, run_id: str) -> RunSummary | None:
        """The row of one run, None when it is not there."""

    @abstractmethod
    def count(self, *, status: Collection[Status] | None = None, tenant: str | None = None) -> int:
        """How many runs there are, or how many of these."""

    @abstractmethod
    def run_ids(self, prefix: str = "") -> list[str]:
        """Every run whose id starts so and that has an event, in the order in which they began."""

    @abstractmethod
    def tally(self) -> dict[tuple[Status, str | None], int]:
        """How many runs stand at each status, for each reason."""

    def usage(
        self, by: By = By.TENANT, *, tenant: str | None = None, run_id: str | None = None, since: str = ""
    ) -> list[Spent]:
        """What engines cost, added up by tenant, run, step, engine or day, sorted by these.

        Args:
            since: The first day that counts, in UTC, as 2026-01-31; a day is that of the call's end.
        """
        return [spent(row, by) for row in self._usage_of(by, tenant, run_id, since)]

    @abstractmethod
    def _usage_of(self, by: By, tenant: str | None, run_id: str | None, since: str) -> Sequence[UsageRow]:
        """As `added_up` gives them."""

    @abstractmethod
    def feed(self, after: int, limit: int = 1000) -> list[tuple[int, Event]]:
        """All runs' events behind position `after`, in the order in which they were committed."""

    @abstractmethod
    def end(self) -> int:
        """The position of the last event, 0 for none."""

    @abstractmethod
    def batch(self, batch_id: str) -> list[RunSummary]:
        """The runs whose task's inputs name this batch, in the order in which they began."""

    @abstractmethod
    def meta(self, key: str) -> str | None:
        """What `set_meta` last wrote under `key`."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what reading holds."""

    @abstractmethod
    def _rows_of(self, run_id: str, after_seq: int = 0, limit: int | None = None) -> Iterator[Row]:
        """A run's rows of the events table, in order, data as text."""

    def events(self, run_id: str, after_seq: int = 0, limit: int | None = None) -> list[Event]:
        """The run's events after number `after_seq`, in order; none for a run that is not there.

        Raises:
            StoreDamaged: An event's data cannot be read.
        """
        return [event_of(row) for row in self._rows_of(run_id, after_seq, limit)]

    def state(self, run_id: str) -> RunState:
        """What the run's events fold to.

        Raises:
            TaskError: There is no such run.
            StoreDamaged: Its events do not hang together.
            StoreError: A newer Raysmith wrote one of them.
        """
        events = (event_of(row) for row in self._rows_of(run_id))
        first = next(events, None)
        if first is None:
            raise self._no_run(run_id)
        return fold(_chain(first, events))

    def unfinished(self) -> list[str]:
        """Ids of the runs that a restarted orchestrator carries on, the oldest first."""
        return [run.run_id for run in self.runs(status=UNFINISHED, limit=None)][::-1]

    def find_by_key(self, key: str, tenant: str | None = None) -> str | None:
        """The newest run that was submitted under `key`, if any was."""
        found = self.runs(key=key, tenant=tenant, limit=1)
        return found[0].run_id if found else None

    def find_run(self, text: str) -> str:
        """The id of the one run whose id is `text` or starts with it.

        Raises:
            TaskError: None does, or several do.
        """
        found = self.run_ids(text) if text else []
        if text in found:
            return text
        if not found:
            raise self._no_run(text)
        if len(found) > 1:
            shown = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
            raise TaskError(f"{text!r} may be any of {len(found)} runs: {shown}", "write more of the id")
        return found[0]

    def check(self, run_id: str | None = None, artifacts: Contents | None = None) -> CheckReport:
        """Verify one run, or all: sequence, hashes, chain, fold, its row in lists, its artifacts.

        Without `artifacts` those are not looked at. It goes on after a problem.
        """
        check = _Check(artifacts)
        run_ids = self.run_ids() if run_id is None else [run_id]
        for each in run_ids:
            before = self.run(each)
            rows = list(self._rows_of(each))
            spent_on = self._usage_of(By.STEP, None, each, "")
            check.run(each, rows, before, self.run(each), spent_on)
        listed = self.runs(limit=None) if run_id is None else []
        known = set(self.run_ids()) if run_id is None else set()
        check.problems += [
            f"run {run.run_id} is listed but its first event is absent"
            for run in listed
            if run.run_id not in known
        ]
        return CheckReport(
            runs=len(run_ids), events=check.events, artifacts=len(check.seen), problems=tuple(check.problems)
        )

    def _no_run(self, text: str) -> TaskError:
        if not self.exists:
            return TaskError(
                f"there is no run {text!r}: no runs yet", "submit a task first, or check RAYSMITH_HOME"
            )
        return TaskError(f"there is no run {text!r}", "list the runs to see their ids")


def _chain(first: Event, rest: Iterator[Event]) -> Iterator[Event]:
    yield first
    yield from rest


class _Check:
    def __init__(self, artifacts: Contents | None) -> None:
        self._artifacts = artifacts
        self.events = 0
        self.seen: set[str] = set()
        self.problems: list[str] = []

    def run(
        self,
        run_id: str,
        rows: Sequence[Row],
        before: RunSummary | None,
        after: RunSummary | None,
        spent_on: Sequence[UsageRow],
    ) -> None:
        """Check one run. Its summary was read before and after its rows: appends may come between."""
        events: list[Event] = []
        known = len(self.problems)
        last_seq, prev_hash = 0, ""
        self.events += len(rows)
        for row in rows:
            if problem := broken(row, last_seq, prev_hash):
                self.problems.append(problem)
            try:
                event = event_of(row)
            except StoreDamaged as error:
                self.problems.append(error.message)
                break
            last_seq, prev_hash = event.seq, event.hash
            events.append(event)
        if len(self.problems) == known:
            self._projection(run_id, events, before, after)
            self._usage(run_id, events, after, spent_on)
        for event in events:
            self._contents(event)

    def _projection(
        self, run_id: str, events: Sequence[Event], before: RunSummary | None, after: RunSummary | None
    ) -> None:
        told = events[: before.last_seq] if before else events
        try:
            expected = summary_of(fold(told))
        except StoreError as error:
            self.problems.append(error.message)
            return
        if before != expected or after is None or after.last_seq < len(events):
            self.problems.append(f"run {run_id} is listed otherwise than its events say")

    def _usage(
        self, run_id: str, events: Sequence[Event], after: RunSummary | None, spent_on: Sequence[UsageRow]
    ) -> None:
        is_whole = after is not None and after.last_seq == len(events)
        expected = added_up(usage_rows(events), By.STEP)
        if is_whole and sorted(map(tuple, spent_on)) != expected:
            self.problems.append(f"run {run_id} is said to have cost otherwise than its events say")

    def _contents(self, event: Event) -> None:
        if self._artifacts is None:
            return
        for key, digest in _named(event.data):
            if digest in self.seen:
                continue
            self.seen.add(digest)
            try:
                self._artifacts.get(digest)
                entries = self._artifacts.tree_entries(digest) if key in TREE_KEYS else []
            except RaysmithError as error:
                self.problems.append(f"event {event.seq} of run {event.run_id}: {error.message}")
                continue
            self.problems += [
                f"event {event.seq} of run {event.run_id}: {path!r} of tree {digest} ({content}) is absent"
                for path, _, content in entries
                if not self._artifacts.has(content)
            ]


def _named(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every artifact that event data names, with the key it stands under."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _named(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner, key)
    elif key in ARTIFACT_KEYS and isinstance(value, str) and _DIGEST.fullmatch(value):
        yield key, value
