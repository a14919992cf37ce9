"""Batch files, their results on disk, and the loop over a factory."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import TaskError
from orchestrator.events import RunState, Status
from orchestrator.task import Budget, Task
from orchestrator.tree import Tree
from orchestrator.verdict import JudgeKind
from serve.batch import BatchRun, Entry, Results, Tally, parse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "file.py").write_text("")
    return tmp_path


def lines(*values: dict[str, Any] | str) -> str:
    return "\n".join(value if isinstance(value, str) else json.dumps(value) for value in values)


def test_a_line_becomes_a_task(folder: Path) -> None:
    text = lines(
        "# a remark",
        "",
        {"id": "one", "path": "a", "tests": "tests -k 'x or y'", "protect": ["*.lock"], "budget_s": 5},
        {"id": "two", "goal": "build it"},
    )

    pattern = Task(
        id="-", model="recorded:x", budget=Budget(attempts=2), judge_minimum=JudgeKind.SEPARATE_PROCESS
    )

    batch = parse(text, folder=folder, pattern=pattern)

    one, two = batch.entries
    assert batch.broken == ()
    assert (one.number, one.path, one.task.graph) == (3, folder / "a", "repair")
    assert one.task.tests == ("tests", "-k", "x or y")
    assert one.task.judge_minimum is JudgeKind.SEPARATE_PROCESS
    assert one.task.protect == ("*.lock",)
    assert one.task.budget == Budget(attempts=2, wall_s=5)
    assert (two.number, two.task.goal, two.task.graph, two.task.model) == (
        4,
        "build it",
        "story",
        "recorded:x",
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"id": "x", "path": "a", "budget": 3}', "unknown key 'budget'; did you mean `budget_s`?"),
        ('{"id": "x", "path": "a", "path": "b"}', "the key 'path' is there more than once"),
        ('{"id": "x"}', "neither `path` nor `goal`"),
        ('{"path": "a"}', "there is no `id`"),
        ('{"id": "../x", "path": "a"}', "cannot name a task"),
        ('{"id": 3, "path": "a"}', "`id` is 3"),
        ('{"id": "x", "path": "absent"}', "`path` 'absent' does not exist"),
        ('{"id": "x", "path": "file.py"}', "`path` 'file.py' is a file"),
        ('{"id": "x", "path": "a", "graph": "reapir"}', "no graph is called 'reapir'"),
        ('{"id": "x", "path": "a", "graph": "verify"}', "needs a second folder"),
        ('{"id": "x", "path": "a", "budget_s": "5"}', "`budget_s` is '5'"),
        ('{"id": "x", "path": "a", "budget_s": 0}', "`budget_s` is 0"),
        ('{"id": "x", "path": "a", "budget_s": NaN}', "`budget_s` is nan"),
        ('{"id": "x", "path": "a", "tests": "--pdb"}', "'--pdb' is not an option that selects tests"),
        ('{"id": "x", "path": "a", "tests": "\'"}', "`tests` cannot be split"),
        ('{"id": "x", "path": "a", "protect": {}}', "`protect` is {}"),
        ('{"id": "x", "goal": "y"}', "a goal needs a model"),
        ('{"id": "first", "path": "b"}', "the id 'first' is that of line 1 too"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_line_is_told_by_its_number_and_the_others_stay(
    folder: Path, line: str, message: str
) -> None:
    batch = parse(lines({"id": "first", "path": "a"}, line, {"id": "last", "path": "b"}), folder=folder)

    assert [entry.task.id for entry in batch.entries] == ["first", "last"]
    assert [broken.number for broken in batch.broken] == [2]
    assert message in batch.broken[0].message


def test_the_key_follows_what_the_line_says_not_how_it_is_spelled(folder: Path) -> None:
    same = parse('{"id": "x", "path": "a"}', folder=folder).entries[0].key
    spelled = parse(' {"path":"a","id":"x"} ', folder=folder).entries[0].key
    edited = parse('{"id": "x", "path": "b"}', folder=folder).entries[0].key

    assert same == spelled != edited


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    batch = parse(text, folder=Path("/nonexistent"))

    assert batch.entries == ()
    assert len(batch.broken) <= text.count("\n") + 1


def entry(name: str = "x", key: str = "x:1") -> Entry:
    return Entry(number=1, key=key, task=Task(id=name))


def line(name: str, status: str, reason: str, key: str | None = None) -> dict[str, Any]:
    return {"id": name, "status": status, "reason": reason, "key": key or f"{name}:1"}


@pytest.mark.parametrize(
    ("status", "reason", "is_done"),
    [
        ("succeeded", "certified", True),
        ("failed", "attempts_exhausted", True),
        ("failed", "budget_exhausted", True),
        ("failed", "environment", False),
        ("failed", "no_candidate", False),
        ("cancelled", "cancelled_by_user", False),
        ("parked", "integrity_alarm", False),
    ],
)
def test_what_is_done_is_not_done_again(tmp_path: Path, status: str, reason: str, is_done: bool) -> None:
    Results(tmp_path / "r.jsonl").add(line("x", status, reason))
    results = Results(tmp_path / "r.jsonl")

    results.load()

    assert (results.done(entry()) is not None) is is_done
    assert results.done(entry(key="x:2")) is None


def test_a_torn_last_line_is_passed_over_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    Results(path).add(line("a", "succeeded", "certified"))
    with path.open("ab") as out:
        out.write(b'{"id": "b", "stat')
    results = Results(path)
    results.load()

    results.add(line("c", "succeeded", "certified"))
    again = Results(path)
    again.load()

    assert [again.done(entry(name, f"{name}:1")) is not None for name in "abc"] == [True, False, True]


def test_compacting_leaves_one_line_per_task_in_order_and_keeps_those_of_others(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    results = Results(path)
    for name, status in (("b", "failed"), ("other", "succeeded"), ("a", "succeeded"), ("b", "succeeded")):
        results.add(line(name, status, "certified"))

    results.compact(["a", "b"])

    told = [json.loads(text) for text in path.read_text().splitlines()]
    assert [(each["id"], each["status"]) for each in told] == [
        ("other", "succeeded"),
        ("a", "succeeded"),
        ("b", "succeeded"),
    ]


class FakeFactory:
    """Finishes at most two runs per wait; remembers what was handed over and how many at once."""

    def __init__(self, ends: dict[str, tuple[Status, str]] | None = None) -> None:
        self.ends = ends or {}
        self.submitted: list[str] = []
        self.keys: list[str | None] = []
        self.most = 0
        self._open: dict[str, Task] = {}
        self._states: dict[str, RunState] = {}

    def submit(self, task: Task, tree: Tree | None, *, key: str | None = None) -> str:
        run_id = f"r-{len(self.submitted)}"
        self.submitted.append(task.id)
        self.keys.append(key)
        self._open[run_id] = task
        self.most = max(self.most, len(self._open))
        return run_id

    def wait(self, run_ids: Collection[str], timeout_s: float) -> dict[str, RunState]:
        done = {}
        for run_id in list(run_ids)[:2]:
            status, reason = self.ends.get(self._open.pop(run_id).id, (Status.SUCCEEDED, "certified"))
            report = {"diff": "d" * 64, "status": str(status), "reason": reason}
            state = RunState(run_id=run_id, status=status, reason=reason, report=report)
            done[run_id] = self._states[run_id] = state
        return done

    def result(self, run_id: str) -> dict[str, Any]:
        state = self._states[run_id]
        return {"run_id": run_id, "status": str(state.status), "reason": state.reason, "out": None}

    def artifact(self, digest: str) -> bytes:
        return b"--- a/x\n+++ b/x\n"


def run(tmp_path: Path, factory: FakeFactory, entries: list[Entry], take: Any = None) -> list[dict[str, Any]]:
    results = Results(tmp_path / "results.jsonl")
    results.load()
    batch = BatchRun(
        factory=factory,
        results=results,
        out=tmp_path,
        take=take or (lambda _entry: Tree()),
        most_in_flight=3,
        on_change=lambda _tally: None,
    )
    return batch.execute(entries)


def entries(count: int) -> list[Entry]:
    return [entry(f"t{number:02}", f"t{number:02}:k") for number in range(count)]


def test_every_task_gets_a_result_in_order_with_few_in_flight(tmp_path: Path) -> None:
    factory = FakeFactory()

    told = run(tmp_path, factory, entries(20))

    assert [each["id"] for each in told] == [f"t{number:02}" for number in range(20)]
    assert factory.most == 3
    assert factory.keys[0] == "t00:k"
    assert (tmp_path / "t07/patch.diff").read_bytes() == b"--- a/x\n+++ b/x\n"
    assert json.loads((tmp_path / "t07/report.json").read_text())["out"] == str(tmp_path / "t07")


def test_the_same_command_again_runs_only_what_is_not_done(tmp_path: Path) -> None:
    ends = {"t01": (Status.FAILED, "environment"), "t02": (Status.FAILED, "budget_exhausted")}
    run(tmp_path, FakeFactory(ends), entries(4))
    again = FakeFactory()

    told = run(tmp_path, again, entries(4))

    assert again.submitted == ["t01"]
    assert [each["status"] for each in told] == ["succeeded", "succeeded", "failed", "succeeded"]


def test_a_batch_killed_in_the_middle_redoes_no_finished_task(tmp_path: Path) -> None:
    class Dying(FakeFactory):
        def wait(self, run_ids: Collection[str], timeout_s: float) -> dict[str, RunState]:
            if len(self._states) >= 6:
                raise KeyboardInterrupt
            return super().wait(run_ids, timeout_s)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Dying(), entries(20))
    before = {json.loads(text)["id"] for text in (tmp_path / "results.jsonl").read_text().splitlines()}
    again = FakeFactory()

    told = run(tmp_path, again, entries(20))

    assert len(before) == 6
    assert before.isdisjoint(again.submitted)
    assert len(told) == 20


def test_a_folder_that_cannot_be_taken_fails_its_task_alone(tmp_path: Path) -> None:
    def take(each: Entry) -> Tree:
        if each.task.id == "t01":
            raise TaskError("it holds no test", "add one")
        return Tree()

    told = run(tmp_path, FakeFactory(), entries(3), take)

    assert [each["status"] for each in told] == ["succeeded", "failed", "succeeded"]
    assert told[1]["reason"] == "bad_input"
    assert told[1]["error"] == {"code": "bad_input", "message": "it holds no test", "next": "add one"}


def test_the_tally_tells_rate_and_eta_of_this_command_alone() -> None:
    tally = Tally(queued=6, running=2, succeeded=5, failed=1, before=2, began=100.0)

    assert tally.rate_per_min(160.0) == 4
    assert tally.eta_s(160.0) == 120
    assert Tally(queued=3, began=0.0).eta_s(10.0) is None


def test_an_edited_line_is_another_task(tmp_path: Path) -> None:
    run(tmp_path, FakeFactory(), entries(2))
    again = FakeFactory()
    first, second = entries(2)

    run(tmp_path, again, [replace(first, key="t00:other"), second])

    assert again.submitted == ["t00"]


def test_the_tasks_of_a_file_know_their_batch_and_the_same_file_is_the_same_batch(folder: Path) -> None:
    lines = ['{"id": "x", "path": "a"}', '{"id": "y", "path": "b"}']

    first = parse("\n".join(lines), folder=folder).entries
    again = parse("\n".join(reversed(lines)), folder=folder).entries
    other = parse(lines[0], folder=folder).entries

    (named,) = {entry.task.inputs["batch"] for entry in (*first, *again)}
    assert {entry.task.inputs["batch_size"] for entry in first} == {2}
    assert other[0].task.inputs["batch"] != named
