"""Stand-ins for what we own: a run whose agents answer from a script, and that remembers what it was told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.graphs import shipped
from orchestrator.events import Kind
from orchestrator.graph_work import execute
from orchestrator.ports import Call
from orchestrator.steps import (
    Allowance,
    Improvement,
    Observed,
    Planned,
    Profiled,
    Proposed,
    Repaired,
    Reviewed,
    Usage,
    Written,
)
from orchestrator.task import Task, allowance_of
from orchestrator.tree import File, Tree
from orchestrator.verdict import Level, Outcome, Strength, TestCase, TestProfile, TestRun

FAILING = Outcome.FAILED
PASSING = Outcome.PASSED


def tree(**files: str) -> Tree:
    """A tree of `name="content"`; a double underscore in a name is a slash."""
    return Tree(
        files={f"{name.replace('__', '/')}.py": File(content=text.encode()) for name, text in files.items()}
    )


def run_of(outcomes: Mapping[str, Outcome], **changes: Any) -> TestRun:
    """An honest run of these tests."""
    bad = any(outcome in (Outcome.FAILED, Outcome.ERROR) for outcome in outcomes.values())
    values: dict[str, Any] = {
        "cases": tuple(TestCase(id=test, outcome=outcome) for test, outcome in outcomes.items()),
        "collected": tuple(outcomes),
        "complete": True,
        "exit_code": 1 if bad else 0,
        "level": Level.NAMESPACE,
    }
    return TestRun(**{**values, **changes})


def improvement(content: str, failing: Sequence[str] = ()) -> Improvement:
    """A candidate that writes `content` to a.py."""
    return Improvement(
        changes={"a.py": File(content=content.encode())}, failing=tuple(failing), explanation=content
    )


def repaired(best: Improvement | None, **changes: Any) -> Repaired:
    """How a search ended."""
    return Repaired(best=best, repairer="search", **changes)


@dataclass
class FakeRun:
    """Implements `orchestrator.ports.Run`; `judge` gives a candidate tree's outcomes."""

    base: Mapping[str, Outcome]
    repairs: list[Repaired] = field(default_factory=list)
    judge: Callable[[Tree], Mapping[str, Outcome]] = field(default=lambda _tree: {})
    runs: Callable[[Mapping[str, Outcome], int], TestRun] = field(
        default=lambda outcomes, seed: run_of(outcomes, seed=seed)
    )
    written: Mapping[str, Written] = field(default_factory=dict)
    shown: Callable[[Mapping[str, Outcome], int], TestRun] = field(
        default=lambda outcomes, _seed: run_of(outcomes)
    )
    planned: Planned = field(default_factory=lambda: Planned(plan=None, refused="no plan"))
    strength: Strength = field(default_factory=lambda: Strength(tests=1))
    proposed: Proposed = field(default_factory=Proposed)
    observed: Observed = field(default_factory=Observed)
    reviewed: Reviewed | Exception = field(default_factory=Reviewed)
    task: Task = field(default_factory=lambda: Task(id="t"))
    tree: Tree = field(default_factory=lambda: tree(a="start", test_a="tests"))
    candidate: Tree | None = None
    seconds_left: float = 100.0
    memory: tuple[Mapping[str, Any], tuple[str, ...]] | None = None

    def __post_init__(self) -> None:
        self.calls: list[Call[Any]] = []
        self.recorded: list[tuple[Kind, Mapping[str, Any], int]] = []
        self.kept_patches: list[tuple[Mapping[str, Any], tuple[str, ...]]] = []
        self.done: dict[tuple[str, int], Any] = {}
        self.begun: list[str] = []
        self.ended: dict[str, bytes] = {}
        self.ends: dict[str, Mapping[str, Any]] = {}
        self.asked: dict[str, Mapping[str, Any]] = {}
        self.decisions: dict[str, Mapping[str, Any]] = {}
        self.news = asyncio.Event()

    async def call(self, call: Call[Any]) -> Any:
        key = (str(call.step), call.attempt)
        if key not in self.done:
            self.calls.append(call)
            self.done[key] = await self.answer(call)
        return self.done[key]

    async def answer(self, call: Call[Any]) -> Any:
        if call.method == "profile":
            return Profiled(profile=TestProfile(expected=self.base), run=self.shown(self.base, 0))
        if call.method == "repair":
            with contextlib.suppress(IndexError):
                return self.repairs.pop(0)
            return repaired(None, exhausted=True)
        if call.method == "write":
            return self.written[str(call.role)]
        if call.method == "strength":
            return self.strength
        if call.method in ("propose", "observe"):
            return self.proposed if call.method == "propose" else self.observed
        if call.method == "plan":
            return self.planned
        if call.method == "review":
            if isinstance(self.reviewed, Exception):
                raise self.reviewed
            return self.reviewed
        request: Any = call.request
        return self.runs(self.judge(request.candidate) or dict(self.base), request.seed)

    async def record(self, kind: Kind, data: Mapping[str, Any], *, attempt: int = 0) -> None:
        self.recorded.append((kind, data, attempt))

    async def keep(
        self, changes: Mapping[str, Any], failing: Sequence[str], explanation: str, node: str = ""
    ) -> None:
        self.kept_patches.append((changes, tuple(failing)))

    def kept(self, node: str = "") -> tuple[Mapping[str, Any], tuple[str, ...]] | None:
        return self.memory

    def remaining_s(self) -> float:
        return self.seconds_left

    def left(self) -> Allowance:
        return allowance_of(self.task.budget, self.spent(""))

    def spent(self, under: str) -> Usage:
        told = (
            getattr(result, "usage", Usage())
            for (step, _), result in self.done.items()
            if step.startswith(under)
        )
        return sum(told, Usage())

    async def recall(self, node: str) -> bytes | None:
        return self.ended.get(node)

    async def begin(self, node: str) -> None:
        self.begun.append(node)

    async def end(self, node: str, data: Mapping[str, Any], output: bytes) -> None:
        assert node not in self.ended
        self.ended[node], self.ends[node] = output, data

    async def ask(self, node: str, data: Mapping[str, Any]) -> None:
        self.asked[node] = data

    def decision(self, node: str) -> Mapping[str, Any] | None:
        return self.decisions.get(node)

    def decided(self) -> asyncio.Event:
        return self.news

    def decide(self, node: str, *, approved: bool) -> None:
        self.decisions[node] = {"approved": approved, "by": "ann", "why": "because"}
        self.news.set()


async def repair(run: FakeRun) -> Any:
    """The graph `repair` on a run."""
    return await execute(shipped("repair"), run)
