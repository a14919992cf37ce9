"""What can be asked of an event log, whatever holds it: events, folded states, lists of runs, a check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence

from cluster.event_log_chain import Row, event_of
from cluster.event_log_check import Check, CheckReport, Contents
from cluster.event_log_projection import RunSummary
from cluster.event_log_usage import By, Spent, UsageRow, spent
from orchestrator.errors import StoreDamaged, TaskError
from orchestrator.events import Event, RunState, Status, fold

UNFINISHED = tuple(status for status in Status if not status.is_finished)


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
        return [spent(row, by) for row in self.usage_of(by, tenant, run_id, since)]

    @abstractmethod
    def usage_of(self, by: By, tenant: str | None, run_id: str | None, since: str) -> Sequence[UsageRow]:
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
    def rows_of(self, run_id: str, after_seq: int = 0, limit: int | None = None) -> Iterator[Row]:
        """A run's rows of the events table, in order, data as text."""

    def events(self, run_id: str, after_seq: int = 0, limit: int | None = None) -> list[Event]:
        """The run's events after number `after_seq`, in order; none for a run that is not there.

        Raises:
            StoreDamaged: An event's data cannot be read.
        """
        return [event_of(row) for row in self.rows_of(run_id, after_seq, limit)]

    def state(self, run_id: str) -> RunState:
        """What the run's events fold to.

        Raises:
            TaskError: There is no such run.
            StoreDamaged: Its events do not hang together.
            StoreError: A newer Raysmith wrote one of them.
        """
        events = (event_of(row) for row in self.rows_of(run_id))
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
        check = Check(artifacts)
        if run_id is None:
            check.found_broken(self.broken_pages())
        try:
            run_ids = self.run_ids() if run_id is None else [run_id]
        except StoreDamaged as error:
            check.found_broken([error.message])
            return check.report(0)
        for each in run_ids:
            check.run(each, self)
        if run_id is None:
            # In this order: a run that begins meanwhile is in the second.
            listed = [run.run_id for run in self.runs(limit=None)]
            known = set(self.run_ids())
            check.listed_only(run_id for run_id in listed if run_id not in known)
        return check.report(len(run_ids))

    def broken_pages(self) -> list[str]:
        """What the database itself finds wrong with its files; nothing where it cannot look."""
        return []

    def _no_run(self, text: str) -> TaskError:
        if not self.exists:
            return TaskError(
                f"there is no run {text!r}: no runs yet", "submit a task first, or check RAYSMITH_HOME"
            )
        return TaskError(f"there is no run {text!r}", "list the runs to see their ids")


def _chain(first: Event, rest: Iterator[Event]) -> Iterator[Event]:
    yield first
    yield from rest
