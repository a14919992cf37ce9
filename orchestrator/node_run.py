"""A run as one node of its graph sees it: its own steps, its own tree, within its own policy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from orchestrator.building import ServiceRequest
from orchestrator.declaration import NodeBudget, Policy
from orchestrator.events import Kind
from orchestrator.patch import outside
from orchestrator.ports import Call, Run
from orchestrator.steps import (
    Allowance,
    Improvement,
    ProfileRequest,
    Repaired,
    TestRequest,
    Usage,
    WriteRequest,
)
from orchestrator.task import Budget, Task
from orchestrator.tree import Tree

T = TypeVar("T")

# A step that begins with this names another node's, from the top of the graph.
ABSOLUTE = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a node stands: `path` from the top of the graph, `prefix` of the names of its steps."""

    path: str
    prefix: str

    @property
    def under(self) -> str:
        """What the names of its steps begin with, and of those of the nodes in it."""
        return f"{self.path}/"

    def step(self, name: str) -> str:
        """The step `name` of this node, as another node may name it."""
        return f"{ABSOLUTE}{self.prefix}{name}"


class NodeRun:
    """Implements `orchestrator.ports.Run` for one node, on the run that it is part of.

    Invariant: no call of it is asked for more than its policy leaves, and none of its patches leaves the
    paths that its policy allows.
    """

    def __init__(
        self,
        run: Run,
        place: Place,
        policy: Policy,
        *,
        tree: Tree,
        share: Allowance | None = None,
        before: Usage | None = None,
    ) -> None:
        """`share` is reserved for it beside others; `before` is what its earlier tries cost."""
        self.tree = tree
        self.candidate = run.candidate
        self.task = _task(run.task, policy)
        self.place = place
        self.policy = policy
        self.usage = Usage()
        self.cpu_s = 0.0
        self._run = run
        self._share = share or Allowance()
        self._before = before or Usage()
        self._began = time.monotonic()

    async def call(self, call: Call[T]) -> T:
        """Have the step done under the node's name, or answer from the log."""
        step = call.step.removeprefix(ABSOLUTE) if call.step.startswith(ABSOLUTE) else self._named(call.step)
        asked = replace(call, step=step, request=self._request(call.request))
        asked = replace(asked, allowance=self.left().within(call.allowance))
        result = await self._run.call(asked)
        if not call.step.startswith(ABSOLUTE):
            self.usage = self.usage + getattr(result, "usage", Usage())
            self.cpu_s += _cpu_s(result)
        if isinstance(result, Repaired):
            result = self._within(result)  # type: ignore[assignment]
        return result

    async def record(self, kind: Kind, data: Mapping[str, Any], *, attempt: int = 0) -> None:
        """Commit a fact of this node."""
        told = {**data, "node": self.place.path} if self.place.prefix else data
        await self._run.record(kind, told, attempt=attempt)

    async def keep(
        self, changes: Mapping[str, Any], failing: Sequence[str], explanation: str, node: str = ""
    ) -> None:
        """Commit the best changes of this node so far, relative to the run's tree."""
        whole = self._run.tree.changes_to(self.tree.with_files(changes))
        await self._run.keep(whole, failing, explanation, node or self._own)

    def kept(self, node: str = "") -> tuple[Mapping[str, Any], tuple[str, ...]] | None:
        """The best changes that this node kept before a crash, relative to its tree."""
        found = self._run.kept(node or self._own)
        if found is None:
            return None
        return self.tree.changes_to(self._run.tree.with_files(found[0])), found[1]

    def remaining_s(self) -> float:
        """Wall seconds left of the node's budget and the run's."""
        left = self._run.remaining_s()
        if (own := self.policy.budget.wall_s) is not None:
            left = min(left, own - (time.monotonic() - self._began))
        return left

    def left(self) -> Allowance:
        """What engines may still cost this node: of its own budget, of its share, and of all above it."""
        budget = self.policy.budget
        own = Allowance(tokens=budget.tokens, gpu_s=budget.gpu_s, cost_usd=budget.cost_usd)
        return own.within(self._share).after(self._used()).within(self._run.left())

    def spent(self, under: str) -> Usage:
        """See `Run.spent`."""
        return self._run.spent(under)

    async def recall(self, node: str) -> bytes | None:
        """See `Run.recall`."""
        return await self._run.recall(node)

    async def begin(self, node: str) -> None:
        """See `Run.begin`."""
        await self._run.begin(node)

    async def end(self, node: str, data: Mapping[str, Any], output: bytes) -> None:
        """See `Run.end`."""
        await self._run.end(node, data, output)

    async def ask(self, node: str, data: Mapping[str, Any]) -> None:
        """See `Run.ask`."""
        await self._run.ask(node, data)

    def decision(self, node: str) -> Mapping[str, Any] | None:
        """See `Run.decision`."""
        return self._run.decision(node)

    def decided(self) -> asyncio.Event:
        """See `Run.decided`."""
        return self._run.decided()

    @property
    def _own(self) -> str:
        return self.place.path if self.place.prefix else ""

    def _named(self, step: str) -> str:
        return f"{self.place.prefix}{step}" if self.place.prefix else step

    def _request(self, request: object) -> object:
        minimum = self.policy.sandbox_minimum
        if minimum is not None and isinstance(request, ProfileRequest | TestRequest | ServiceRequest):
            return replace(request, minimum=minimum)
        if isinstance(request, WriteRequest):
            return replace(request, allowed=self.policy.allowed_paths)
        return request

    def _used(self) -> Usage:
        """What this try cost: what the log counts, or for steps with plain names what their agents told."""
        counted = self._run.spent(self.place.under) - self._before
        return counted if counted != Usage() else self.usage

    def _within(self, repaired: Repaired) -> Repaired:
        """`repaired` without the candidates that leave the allowed paths."""
        found = [
            each
            for each in (repaired.best, *repaired.alternatives)
            if each is not None and self._allows(each)
        ]
        return replace(repaired, best=found[0] if found else None, alternatives=tuple(found[1:]))

    def _allows(self, improvement: Improvement) -> bool:
        return not outside(improvement.changes, self.policy.allowed_paths)


def _cpu_s(result: object) -> float:
    """CPU seconds that a step's result tells of: a repair's, a service's, a test run's."""
    return float(getattr(getattr(result, "run", result), "cpu_s", 0.0))


def _task(task: Task, policy: Policy) -> Task:
    model = policy.model
    return replace(
        task,
        model=task.model if model is None else None if model == "none" else model,
        budget=bounded(task.budget, policy.budget),
        judge_strength=task.judge_strength if policy.test_strength is None else policy.test_strength,
    )


def bounded(budget: Budget, own: NodeBudget) -> Budget:
    """`budget` with nothing of it above `own`; 0 of a budget's last three is no limit."""
    asked = {name: value for name, value in own.model_dump().items() if value is not None}
    least = {name: min(value, getattr(budget, name) or value) for name, value in asked.items()}
    return replace(budget, **least)
