"""Whether a log is whole: what is wrong, where, what is lost with it and what still loads. It does no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.event_log_chain import Row, broken, event_of
from cluster.event_log_projection import RunSummary, summary_of
from cluster.event_log_usage import By, UsageRow, added_up, usage_rows
from orchestrator.errors import RaysmithError, StoreDamaged, StoreError
from orchestrator.events import Event, Kind, fold

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

    def tree_entries(self, digest: str) -> Sequence[tuple[str, Any, str]]: ...


class Log(Protocol):
    """What a check needs of a log."""

    def run(self, run_id: str) -> RunSummary | None: ...

    def rows_of(self, run_id: str) -> Iterator[Row]: ...

    def usage_of(self, by: By, tenant: str | None, run_id: str | None, since: str) -> Sequence[UsageRow]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A run whose events do not all load.

    Attributes:
        seq: The first event that cannot be used.
        problem: What is wrong with it, in words.
        loads: How many events before it still load.
        lost: How many from it on do not count any more, those cut off the end included.
    """

    run_id: str
    seq: int
    problem: str
    loads: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """How much a check looked at, and everything that was wrong, in words with its place."""

    runs: int
    events: int
    artifacts: int
    problems: tuple[str, ...]
    damaged: tuple[Damage, ...] = ()


@dataclass(kw_only=True)
class _Read:
    """What was read of a run: `events` load, `seq` and `problem` are of the first that does not."""

    events: list[Event] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    rows: int = 0
    last_seq: int = 0
    seq: int = 0


class Check:
    """Adds up what is found of run after run."""

    def __init__(self, artifacts: Contents | None) -> None:
        self._artifacts = artifacts
        self._events = 0
        self._seen: dict[str, str | None] = {}
        self._problems: list[str] = []
        self._damaged: list[Damage] = []

    def report(self, runs: int) -> CheckReport:
        """What was found."""
        return CheckReport(
            runs=runs,
            events=self._events,
            artifacts=len(self._seen),
            problems=tuple(self._problems),
            damaged=tuple(self._damaged),
        )

    def found_broken(self, pages: Iterable[str]) -> None:
        """The database's own word about its files."""
        self._problems += [f"the database: {each}" for each in pages]

    def listed_only(self, run_ids: Iterable[str]) -> None:
        """Runs that lists show and that have no events."""
        for run_id in run_ids:
            problem = f"run {run_id} is listed but its first event is absent"
            self._problems.append(problem)
            self._damaged.append(Damage(run_id=run_id, seq=1, problem=problem, loads=0, lost=1))

    def run(self, run_id: str, log: Log) -> None:
        """Check one run. Its summary is read before and after its rows: appends may come between."""
        before = log.run(run_id)
        read = _read(log.rows_of(run_id))
        self._events += read.rows
        costs, after = log.usage_of(By.STEP, None, run_id, ""), log.run(run_id)
        known = max(read.last_seq, before.last_seq if before else 0)
        if not read.problems and known > len(read.events):
            read.seq = len(read.events) + 1
            read.problems.append(
                f"run {run_id} was cut off: it ends at event {len(read.events)}, and {known} were written"
            )
        if not read.problems:
            _fold(read)
        self._problems += read.problems
        if read.problems:
            lost = max(known, read.rows) - (read.seq - 1)
            self._damaged.append(
                Damage(run_id=run_id, seq=read.seq, problem=read.problems[0], loads=read.seq - 1, lost=lost)
            )
        else:
            self._projection(run_id, read.events, before, after)
            self._usage(run_id, read.events, after, costs)
        for event in read.events:
            self._contents(event)

    def _projection(
        self, run_id: str, events: Sequence[Event], before: RunSummary | None, after: RunSummary | None
    ) -> None:
        expected = summary_of(fold(events[: before.last_seq] if before else events))
        if before != expected or after is None or after.last_seq < len(events):
            self._problems.append(f"run {run_id} is listed otherwise than its events say")

    def _usage(
        self, run_id: str, events: Sequence[Event], after: RunSummary | None, spent_on: Sequence[UsageRow]
    ) -> None:
        is_whole = after is not None and after.last_seq == len(events)
        expected = added_up(usage_rows(events), By.STEP)
        if is_whole and sorted(map(tuple, spent_on)) != expected:
            self._problems.append(f"run {run_id} is said to have cost otherwise than its events say")

    def _contents(self, event: Event) -> None:
        if self._artifacts is None:
            return
        where = f"event {event.seq} of run {event.run_id}"
        for key, digest in named_by(event):
            if digest in self._seen:
                continue
            if (problem := self._fault(digest)) is not None:
                self._problems.append(f"{where}: {problem}")
            elif key in TREE_KEYS:
                self._tree(where, digest)

    def _tree(self, where: str, digest: str) -> None:
        assert self._artifacts is not None
        try:
            entries = self._artifacts.tree_entries(digest)
        except RaysmithError as error:
            self._problems.append(f"{where}: {error.message}")
            return
        for path, _, content in entries:
            if content not in self._seen and (problem := self._fault(content)) is not None:
                self._problems.append(f"{where}: {path!r} of tree {digest}: {problem}")

    def _fault(self, digest: str) -> str | None:
        """What is wrong with an artifact; looked at once."""
        assert self._artifacts is not None
        try:
            self._artifacts.get(digest)
        except RaysmithError as error:
            self._seen[digest] = error.message
        else:
            self._seen[digest] = None
        return self._seen[digest]


def _read(rows: Iterator[Row]) -> _Read:
    """The events up to the first that is not what was written; the rest is looked at for its chain only."""
    read, prev_hash = _Read(), ""
    try:
        for row in rows:
            read.rows += 1
            problem = broken(row, read.last_seq, prev_hash)
            if problem is not None:
                read.problems.append(problem)
            event = event_of(row)
            read.last_seq, prev_hash = event.seq, event.hash
            if not read.problems:
                read.events.append(event)
    except StoreDamaged as error:
        read.problems.append(error.message)
    read.seq = len(read.events) + 1
    return read


def _fold(read: _Read) -> None:
    """Leave out what this Raysmith cannot fold, and name it."""
    try:
        fold(read.events)
    except StoreError as error:
        read.problems.append(error.message)
        read.seq = _foldable(read.events) + 1
        del read.events[read.seq - 1 :]


def _foldable(events: Sequence[Event]) -> int:
    """How many of the first events fold."""
    low, high = 0, len(events)
    while low < high:
        middle = (low + high + 1) // 2
        try:
            fold(events[:middle])
            low = middle
        except StoreError:
            high = middle - 1
    return low


def named_by(event: Event) -> Iterator[tuple[str, str]]:
    """Every artifact that an event names, with the key it stands under."""
    yield from _named(event.data)
    if event.type is Kind.ENGINE_CALLED:
        for message in event.data.get("messages", ()):
            yield "messages", str(message[1])


def _named(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _named(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner, key)
    elif key in ARTIFACT_KEYS and isinstance(value, str) and _DIGEST.fullmatch(value):
        yield key, value
