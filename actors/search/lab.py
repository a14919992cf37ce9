"""One repair's sandbox: opened, reopened where it died, moved to another tree, and its time accounted for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from actors.search.board import Goal
from actors.search.edits import Candidate, wire_form
from actors.search.inside.text import decode
from actors.search.locate import Traces
from actors.search.settings import SearchSettings
from orchestrator.errors import SandboxError
from orchestrator.ports import RunnerPool, SearchSession, SessionSpec
from orchestrator.steps import RepairRequest
from orchestrator.tree import FileMode, Tree


class BudgetSpent(Exception):
    """No CPU or wall time is left, or no sandbox may be opened any more."""


class Lab:
    """Calls of the search worker. Every call raises BudgetSpent once the request's budget is spent."""

    def __init__(self, request: RepairRequest, runners: RunnerPool, settings: SearchSettings) -> None:
        self._request = request
        self._runners = runners
        self._settings = settings
        self.editable = editable(request)
        self._session: SearchSession | None = None
        self._stack = AsyncExitStack()
        self._opened = 0
        self._spent_s = 0.0
        self._own_s = time.thread_time()
        self._until = time.monotonic() + request.wall_s
        self._held = request.tree
        self._reordered: bool | None = None
        self._collected: dict[str, Any] = {}

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far: all sandboxes and this process' own part."""
        session = self._session.cpu_s if self._session is not None else 0.0
        return self._spent_s + session + time.thread_time() - self._own_s

    @property
    def slice(self) -> int:
        """Candidates tried on one tree per cluster, so that a small budget sees more than one tree."""
        some = int(self._request.cpu_s * self._settings.slice_per_cpu_s)
        return max(self._settings.slice // 3, min(self._settings.slice, some))

    def left_s(self) -> float:
        """CPU seconds that are left.

        Raises:
            BudgetSpent: None are, or the wall time is over.
        """
        left = self._request.cpu_s - self.cpu_s
        if left <= 0 or time.monotonic() >= self._until:
            raise BudgetSpent
        return left

    async def measure(self, tree: Tree) -> dict[str, Any]:
        """Collect `tree` and run it: the worker's `baseline`.

        A sandbox that dies over it is replaced, `max_sessions` at most.
        """
        while True:
            try:
                await self._stand_on(tree)
                arguments = {"timeout_s": self._base_timeout_s(), "reordered": self._reordered}
                measured = dict(await self.call("baseline", arguments))
            except SandboxError:
                if self._session is None:
                    raise
                await self._drop()
            else:
                self._reordered = measured["fixed_order"]
                return measured

    async def trace(self, goal: Goal, outcomes: Mapping[str, Any]) -> Traces:
        """Lines, types and calls of the failing tests and of the quickest others."""
        present = [test for test in goal.failing if test in outcomes]
        quick = sorted(goal.others, key=lambda test: outcomes[test][4])[: self._settings.max_traced_passing]
        total = min(self.left_s() / 4, 5.0)
        told = await self.call("trace", {"tests": [*present, *quick], "test_s": total / 8, "total_s": total})
        return Traces(
            lines=told["lines"],
            types=told["types"],
            failures=told["failures"],
            calls=told["calls"],
            visits=told["visits"],
            collection=tuple(error["detail"] for error in self._collected["errors"]),
        )

    async def evaluate(
        self, goal: Goal, candidates: Sequence[Candidate], factor: float, *, confirm: bool = False
    ) -> list[dict[str, Any]]:
        """The worker's results for `candidates`, each with `factor` times the usual time.

        Args:
            confirm: Run all tests under each candidate, tried before or not, even where it repairs none.
        """
        forms = [
            {
                "edits": wire_form(one.edits),
                "failing": list(one.failing) or None,
                "again": confirm or factor > 1,
                "confirm": confirm,
            }
            for one in candidates
        ]
        limits = {
            "cpu_s": min(self.left_s(), self._settings.request_cpu_s * (1 if factor == 1 else 3)),
            "factor": self._settings.time_factor * factor,
            "floor_s": self._settings.time_floor_s * factor,
            "turns": self._settings.turns * factor,
            "batch": self._settings.batch,
        }
        arguments = {"candidates": forms, "failing": goal.failing, "others": goal.others, "limits": limits}
        return list(await self.call("evaluate", arguments))

    async def reopen(self) -> None:
        """Replace a sandbox that died by one that holds the same tree."""
        await self._drop()
        await self.measure(self._held)

    async def close(self) -> None:
        """Give the sandbox back."""
        if self._session is not None:
            self._spent_s += self._session.cpu_s
            self._session = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    async def call(self, method: str, arguments: Mapping[str, Any]) -> Any:
        """Call the worker in what is left of the budget."""
        assert self._session is not None
        wall_s = min(self._until - time.monotonic(), self.left_s() * 20 + 60)
        try:
            return await self._session.call(method, arguments, max(wall_s, 1.0))
        except SandboxError:
            self.left_s()
            raise

    async def _drop(self) -> None:
        await self.close()
        if self._opened >= self._settings.max_sessions:
            raise BudgetSpent

    async def _stand_on(self, tree: Tree) -> None:
        if self._session is None:
            self._collected = await self._open(tree)
            return
        edits = {}
        for path, file in self._held.changes_to(tree).items():
            if file is not None:
                length = len(decode(self._held.files[path].content)[0])
                edits[path] = [[0, length, decode(file.content)[0]]]
        self._held = tree
        if edits:
            self._collected = dict(await self.call("rebase", {"edits": edits}))

    async def _open(self, tree: Tree) -> dict[str, Any]:
        profile, request = self._request.profile, self._request
        spec = SessionSpec(
            tree=tree,
            arguments=profile.arguments,
            options=profile.options,
            plugins=profile.plugins,
            python=request.python,
            timeout_s=request.timeout_s,
            packages=profile.packages,
            preload=profile.may_be_loaded,
        )
        self._opened += 1
        self._session = await self._stack.enter_async_context(self._runners.session(spec))
        self._held = tree
        words = {"arguments": profile.arguments, "options": profile.options, "plugins": profile.plugins}
        return dict(await self.call("start", {**words, "sources": self.editable}))

    def _base_timeout_s(self) -> float:
        return min(self._settings.base_timeout_s, self.left_s() / 6)


def editable(request: RepairRequest) -> list[str]:
    """Python files of the request that a candidate may change: no tests, nothing protected."""
    return sorted(
        path
        for path, file in request.tree.files.items()
        if path.endswith(".py")
        and file.mode is not FileMode.LINK
        and path not in request.profile.protected
        and not is_test_path(path)
    )


def is_test_path(path: str) -> bool:
    """Whether a path is a test's or a test helper's by the usual names."""
    *folders, name = path.split("/")
    if {"tests", "test", "testing"} & set(folders):
        return True
    return (
        name.startswith("test_")
        or name.endswith("_test.py")
        or name in ("conftest.py", "setup.py", "noxfile.py")
    )
