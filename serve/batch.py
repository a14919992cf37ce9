"""Many tasks from a file: what its lines say, what is done, and the loop that keeps the factory busy."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from cluster.graphs import shipped
from orchestrator.errors import RaysmithError, TaskError
from orchestrator.events import RunState
from orchestrator.task import Budget, Task, check_id, parse_tests
from orchestrator.tree import Tree
from serve.plain_json import dumps

_KEYS = ("id", "path", "goal", "tests", "protect", "budget_s", "graph")
_DONE_REASONS = ("attempts_exhausted", "budget_exhausted")
_LONGEST_LINE = 1_000_000
# What `errors="surrogateescape"` makes of bytes that are not UTF-8.
_ESCAPED = re.compile("[\udc80-\udcff]")
# A task's folder stands beside this file.
RESULTS = "results.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One good line. `key` names the task with this content; an edited line is another task."""

    number: int
    key: str
    task: Task
    path: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenLine:
    """A line that is no task, and why."""

    number: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A file's tasks in its order, and the lines that are none."""

    entries: tuple[Entry, ...]
    broken: tuple[BrokenLine, ...] = ()


class BatchFactory(Protocol):
    """What a batch needs of a factory."""

    def submit(self, task: Task, tree: Tree | None, *, key: str | None = None) -> str: ...

    def wait(self, run_ids: Collection[str], timeout_s: float) -> dict[str, RunState]: ...

    def result(self, run_id: str) -> dict[str, Any]: ...

    def artifact(self, digest: str) -> bytes: ...


@dataclass(slots=True, kw_only=True)
class Tally:
    """Where a batch stands. Every task is in exactly one of the four counts."""

    queued: int
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    before: int = 0
    began: float = field(default_factory=time.monotonic)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=10))

    @property
    def finished(self) -> int:
        """Tasks that have a result."""
        return self.succeeded + self.failed

    def rate_per_min(self, now: float) -> float:
        """Tasks finished per minute by this command, those done before it not counted."""
        return 60 * (self.finished - self.before) / max(now - self.began, 1e-3)

    def eta_s(self, now: float) -> float | None:
        """Seconds until the last task ends at the present rate, None before the first has."""
        rate = self.rate_per_min(now)
        return 60 * (self.queued + self.running) / rate if rate else None


def parse(text: str, *, folder: Path, pattern: Task | None = None) -> Batch:
    """The tasks of a batch file.

    Args:
        text: JSON lines, what is not UTF-8 in them as surrogate escapes; empty lines and lines
            that start with # count for nothing.
        folder: What relative paths are relative to.
        pattern: What a line does not name is as in this task: model, budget, judge.
    """
    pattern = pattern or Task(id="pattern")
    entries: list[Entry] = []
    broken: list[BrokenLine] = []
    ids: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            if _ESCAPED.search(line):
                raise TaskError("the line is not UTF-8", "save the file as UTF-8")
            entry = _entry(number, line, folder, pattern)
            if entry.task.id in ids:
                raise TaskError(
                    f"the id {entry.task.id!r} is that of line {ids[entry.task.id]} too", "rename one"
                )
        except TaskError as error:
            broken.append(BrokenLine(number=number, message=str(error)))
        else:
            ids[entry.task.id] = number
            entries.append(entry)
    return Batch(entries=_of_one_batch(entries), broken=tuple(broken))


def _of_one_batch(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries with the batch's id and size in their inputs; the same lines are the same batch again."""
    keys = "\n".join(sorted(entry.key for entry in entries))
    inputs = {"batch": f"b-{hashlib.sha256(keys.encode()).hexdigest()[:12]}", "batch_size": len(entries)}
    return tuple(
        replace(entry, task=replace(entry.task, inputs={**entry.task.inputs, **inputs})) for entry in entries
    )


def _entry(number: int, line: str, folder: Path, pattern: Task) -> Entry:
    values = _values(line)
    path = _path(values, folder)
    goal = _text(values, "goal")
    if path is None and goal is None:
        raise TaskError("there is neither `path` nor `goal`", "say which folder, or what to build")
    name = _text(values, "id")
    if name is None:
        raise TaskError("there is no `id`", "give every task one of its own")
    if name.casefold() == RESULTS:
        raise TaskError(f"the id {name!r} is the name of the results file", "choose another")
    graph = shipped(_text(values, "graph") or ("repair" if goal is None else "story"))
    if graph.needs("candidate"):
        raise TaskError(f"graph {graph.name!r} needs a second folder", "use `raysmith verify`")
    if graph.needs("folder") and path is None:
        raise TaskError(f"graph {graph.name!r} needs a `path`", "name a folder")
    if graph.needs("goal") and not pattern.model:
        raise TaskError("a goal needs a model and none is configured", "give --model or RAYSMITH_MODEL")
    task = replace(
        pattern,
        id=check_id(name),
        graph=graph.name,
        goal=goal,
        tests=_tests(values),
        protect=_words(values, "protect"),
        budget=_budget(values, pattern.budget),
        origin=str(path) if path else "",
    )
    return Entry(number=number, key=_key(task.id, values), task=task, path=path)


def _key(name: str, values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=True)
    return f"{name}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _values(line: str) -> dict[str, Any]:
    if len(line) > _LONGEST_LINE:
        raise TaskError(f"the line has {len(line)} characters", f"write at most {_LONGEST_LINE}")
    try:
        values = json.loads(line, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"not JSON: {error}", 'write {"id": ..., "path": ...}') from error
    if not isinstance(values, dict):
        raise TaskError("not a JSON object", 'write {"id": ..., "path": ...}')
    for key in values:
        if key not in _KEYS:
            raise TaskError(f"unknown key {key!r}", _meant(key))
    return values


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys come once; with two of a kind nobody knows which was meant."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise TaskError(f"the key {twice!r} is there more than once", "keep the one that you mean")
    return made


def _meant(key: str) -> str:
    import difflib

    close = difflib.get_close_matches(key, _KEYS, n=1)
    return f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(_KEYS)}"


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise TaskError(f"`{key}` is {value!r}", "give a text")
    return value


def _path(values: Mapping[str, Any], folder: Path) -> Path | None:
    text = _text(values, "path")
    if text is None:
        return None
    try:
        path = folder / Path(text).expanduser()
        exists = "\0" not in text and path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, a folder closed to us, ~nobody
        raise TaskError(f"`path` {text[:200]!r} cannot be read: {error}"[:400], "check it") from error
    if not exists:
        raise TaskError(f"`path` {text!r} does not exist", f"paths are relative to {folder}")
    if not path.is_dir():
        raise TaskError(f"`path` {text!r} is a file", "give the folder that holds it")
    return path


def _words(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = values.get(key)
    given = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        raise TaskError(f"`{key}` is {value!r}", "give a text or a list of texts")
    return tuple(given)


def _tests(values: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        return parse_tests([word for given in _words(values, "tests") for word in shlex.split(given)])
    except ValueError as error:
        raise TaskError(f"`tests` cannot be split into words: {error}", "balance its quotes") from error


def _budget(values: Mapping[str, Any], budget: Budget) -> Budget:
    value = values.get("budget_s")
    if value is None:
        return budget
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise TaskError(f"`budget_s` is {value!r}", "give seconds above 0")
    return replace(budget, wall_s=float(value))


class Results:
    """`results.jsonl`: one line per task, the last one of an id counts.

    Lines are appended and synced one by one, so kill -9 loses at most a torn last line, which
    reading passes over; `compact` leaves one line per id.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, dict[str, Any]] = {}

    def load(self) -> None:
        """Read what earlier commands left.

        Raises:
            TaskError: The file cannot be read.
        """
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise TaskError(
                f"{self._path} cannot be read: {error.strerror}", "choose another --out"
            ) from error
        for line in lines:
            try:
                value = json.loads(line)
                self._lines[value["id"]] = value
            except (ValueError, KeyError, TypeError):
                continue

    def done(self, entry: Entry) -> dict[str, Any] | None:
        """The result of this very task when it need not run again."""
        known = self._lines.get(entry.task.id)
        if known is None or known.get("key") != entry.key:
            return None
        is_done = known.get("status") == "succeeded" or known.get("reason") in _DONE_REASONS
        return known if is_done else None

    def add(self, line: Mapping[str, Any]) -> None:
        """Append one task's result; it is on the disk when this returns."""
        self._lines[line["id"]] = dict(line)
        with self._path.open("ab") as out:
            if out.tell() and not _ends_with_newline(self._path):
                out.write(b"\n")
            out.write(dumps(line).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())

    def compact(self, order: Iterable[str]) -> None:
        """Leave one line per id, those of `order` last and in its order."""
        from serve.commands.running import replace_file

        wanted = list(order)
        others = [name for name in self._lines if name not in set(wanted)]
        names = [*others, *(name for name in wanted if name in self._lines)]
        text = "".join(dumps(self._lines[name]) + "\n" for name in names)
        replace_file(self._path, text.encode())


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as found:
        found.seek(-1, os.SEEK_END)
        return found.read(1) == b"\n"


class BatchRun:
    """Brings every entry to a result. Snapshots are taken when a place is free, never all at once."""

    def __init__(
        self,
        *,
        factory: BatchFactory,
        results: Results,
        out: Path,
        take: Callable[[Entry], Tree | None],
        most_in_flight: int,
        on_change: Callable[[Tally], None],
    ) -> None:
        self._factory = factory
        self._results = results
        self._out = out
        self._take = take
        self._most = most_in_flight
        self._on_change = on_change
        self._flying: dict[str, Entry] = {}
        self._told: dict[str, dict[str, Any]] = {}

    @property
    def in_flight(self) -> tuple[str, ...]:
        """Runs handed over and not finished."""
        return tuple(self._flying)

    def execute(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """Run what is not done; a result per entry, in order."""
        tally = Tally(queued=len(entries))
        waiting = deque(entry for entry in entries if not self._is_done(entry, tally))
        tally.before = tally.finished
        self._on_change(tally)
        while waiting or self._flying:
            while waiting and len(self._flying) < self._most:
                self._submit(waiting.popleft(), tally)
                self._on_change(tally)
            self._collect(tally)
        return [self._told[entry.task.id] for entry in entries]

    def _is_done(self, entry: Entry, tally: Tally) -> bool:
        known = self._results.done(entry)
        if known is None:
            return False
        tally.queued -= 1
        self._count(entry, known, tally)
        return True

    def _submit(self, entry: Entry, tally: Tally) -> None:
        tally.queued -= 1
        try:
            run_id = self._factory.submit(entry.task, self._take(entry), key=entry.key)
        except TaskError as error:
            self._store(entry, _refused(error), b"", tally)
        else:
            tally.running += 1
            self._flying[run_id] = entry

    def _collect(self, tally: Tally) -> None:
        finished = self._factory.wait(self.in_flight, 1.0) if self._flying else {}
        for run_id, state in finished.items():
            result = self._factory.result(run_id)
            digest = state.report.get("diff")
            diff = self._factory.artifact(digest) if digest else b""
            if error := state.report.get("error"):
                result["error"] = {key: error.get(key) for key in ("code", "message", "next")}
            entry = self._flying.pop(run_id)
            tally.running -= 1
            self._store(entry, result, diff, tally)
        self._on_change(tally)

    def _store(self, entry: Entry, result: Mapping[str, Any], diff: bytes, tally: Tally) -> None:
        from serve.commands.running import write_results

        folder = self._out / entry.task.id
        line = {"id": entry.task.id, **result, "out": str(folder), "key": entry.key}
        write_results(folder, line, diff)
        self._results.add(line)
        self._count(entry, line, tally)

    def _count(self, entry: Entry, line: Mapping[str, Any], tally: Tally) -> None:
        self._told[entry.task.id] = dict(line)
        if line["status"] == "succeeded":
            tally.succeeded += 1
        else:
            tally.failed += 1
        tally.last.append(f"{entry.task.id}: {line['status']} ({line['reason']})")


def _refused(error: RaysmithError) -> dict[str, Any]:
    return {
        "run_id": None,
        "status": "failed",
        "reason": error.code,
        "attempts": 0,
        "verdict": None,
        "diff": "",
        "files": [],
        "repairer": None,
        "candidates": 0,
        "tokens": {"prompt": 0, "completion": 0, "cached": 0},
        "gpu_s": 0.0,
        "cost_usd": 0.0,
        "review": [],
        "wall_s": 0.0,
        "error": {"code": error.code, "message": error.message, "next": error.next_move},
    }
