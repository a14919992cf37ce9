"""One repair's sandboxes: opened, replaced where they died, moved along, and their time accounted for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from actors.search.bench import Bench
from actors.search.board import Goal
from actors.search.edits import Candidate, wire_form
from actors.search.locate import Traces
from actors.search.settings import SearchSettings
from orchestrator.errors import RaysmithError, SandboxError
from orchestrator.ports import RunnerPool
from orchestrator.steps import RepairRequest
from orchestrator.tree import FileMode, Tree

Results = list[dict[str, Any]]
#: What is left of the budget pays for this many openings before another sandbox is worth its own.
_WORTH = 8


class BudgetSpent(Exception):
    """No CPU or wall time is left, or no sandbox may be opened any more."""


class Lab:
    """Calls of search workers. Every call raises BudgetSpent once the request's budget is spent.

    One sandbox measures and traces. Others join it to try candidates, where runners are free.
    """

    def __init__(self, request: RepairRequest, runners: RunnerPool, settings: SearchSettings) -> None:
        self._request = request
        self._runners = runners
        self._settings = settings
        self.editable = editable(request)
        self._main: Bench | None = None
        self._others: list[Bench] = []
        self._joining: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Condition()
        self._opening = asyncio.Lock()
        self._opened = 0
        self._closed_s = 0.0
        self._lent_s = 0.0
        self._start_s = 0.0
        self._join_s = 0.0
        self._stood_s = 0.0
        self._own_s = time.thread_time()
        self._until = time.monotonic() + request.wall_s
        self._held = request.tree
        self._reordered: bool | None = None

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far: all sandboxes and this process' own part."""
        benches = [bench for bench in (self._main, *self._others) if bench is not None]
        return self._closed_s + sum(bench.cpu_s for bench in benches) + time.thread_time() - self._own_s

    @property
    def width(self) -> int:
        """Calls of `evaluate` that can be answered at a time."""
        return 1 + len(self._ready())

    @property
    def slice(self) -> int:
        """Candidates tried on one tree per cluster, so that a small budget sees more than one tree."""
        some = int(self._request.cpu_s * self._settings.slice_per_cpu_s)
        return max(self._settings.slice // 3, min(self._settings.slice, some))

    def left_s(self) -> float:
        """CPU seconds that are left and not lent to a call under way.

        Raises:
            BudgetSpent: None are, or the wall time is over.
        """
        left = self._request.cpu_s - self.cpu_s
        if left <= 0 or time.monotonic() >= self._until:
            raise BudgetSpent
        return left - self._lent_s

    async def measure(self, tree: Tree) -> dict[str, Any]:
        """Collect `tree` and run it: the worker's `baseline`.

        A sandbox that dies over it is replaced, `max_sessions` at most.
        """
        while True:
            try:
                bench = await self._stand_on(tree)
                measured = dict(await bench.call("baseline", self._base_arguments()))
            except SandboxError:
                if self._main is None or not self._main.is_open:
                    raise
                self.left_s()
                await self._drop()
            else:
                self._reordered = measured["fixed_order"]
                self._join_s = self._join_s or bench.cpu_s
                return measured

    async def trace(self, goal: Goal, outcomes: Mapping[str, Any]) -> Traces:
        """Lines, types and calls of the failing tests and of the quickest others."""
        present = [test for test in goal.failing if test in outcomes]
        quick = sorted(goal.others, key=lambda test: outcomes[test][4])[: self._settings.max_traced_passing]
        total = min(self.left_s() / 4, 5.0)
        told = await self.call("trace", {"tests": [*present, *quick], "test_s": total / 8, "total_s": total})
        assert self._main is not None
        return Traces(
            lines=told["lines"],
            types=told["types"],
            failures=told["failures"],
            calls=told["calls"],
            visits=told["visits"],
            collection=tuple(error["detail"] for error in self._main.collected["errors"]),
        )

    async def evaluate(
        self,
        goal: Goal,
        candidates: Sequence[Candidate],
        factor: float,
        *,
        confirm: bool = False,
        again: bool = False,
    ) -> Results:
        """The worker's results for `candidates`, each with `factor` times the usual time.

        Args:
            confirm: Run all tests under each candidate, tried before or not, even where it repairs none.
            again: Try those too that do the same as one tried before.
        """
        forms = [
            {
                "edits": wire_form(one.edits),
                "failing": list(one.failing) or None,
                "again": again or confirm or factor > 1,
                "confirm": confirm,
            }
            for one in candidates
        ]
        async with self._free() as bench:
            left_s = self.left_s()
            # Half for others that may begin meanwhile; alone there are none.
            left_s = left_s if self.width == 1 else min(left_s, max(left_s / 2, self._settings.request_cpu_s))
            limits = {
                "cpu_s": min(left_s, self._settings.request_cpu_s * (1 if factor == 1 else 3)),
                "left_s": left_s,
                "factor": self._settings.time_factor * factor,
                "floor_s": self._settings.time_floor_s * factor,
                "turns": self._settings.turns * factor,
                "batch": self._settings.batch,
            }
            arguments = {
                "candidates": forms,
                "failing": goal.failing,
                "others": goal.others,
                "limits": limits,
            }
            self._lent_s += left_s
            try:
                return list(await self._ask(bench, "evaluate", arguments))
            except RaysmithError:
                if bench is self._main:
                    raise
                # Its runner was wanted elsewhere, or it died: the first one's answer is what counts.
                await self._leave(bench)
            finally:
                self._lent_s -= left_s
        return await self.evaluate(goal, candidates, factor, confirm=confirm, again=again)

    async def reopen(self) -> None:
        """Replace a first sandbox that died by one that holds the same tree."""
        async with self._opening:
            if self._main is None or self._main.is_lost:
                await self._drop()
                await self.measure(self._held)

    def begin(self, work: Coroutine[Any, Any, Results]) -> asyncio.Task[Results]:
        """Have `work` go on beside others until it is awaited or the lab is closed."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        return task

    def invite(self) -> None:
        """Have one more sandbox join, where settings, budget and free runners allow it.

        Not before the tree held has cost as much as that will: most trees are left sooner.
        """
        if self._joining is not None and not self._joining.done():
            return
        if self.cpu_s - self._stood_s < self._join_s:
            return
        idle = [one for one in self._others if one.tree is not self._held]
        if not idle and len(self._others) + 1 >= self._settings.runners:
            return
        if self.left_s() < _WORTH * self._join_s:
            return
        self._joining = asyncio.ensure_future(self._join(idle[0] if idle else None))

    async def close(self) -> None:
        """Give every sandbox back."""
        tasks = [task for task in (*self._tasks, self._joining) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        for bench in list(self._others):
            await self._leave(bench)
        await self._close_main()

    async def call(self, method: str, arguments: Mapping[str, Any]) -> Any:
        """Call the first sandbox's worker in what is left of the budget."""
        assert self._main is not None
        return await self._ask(self._main, method, arguments)

    # -- one sandbox -------------------------------------------------------------

    async def _ask(self, bench: Bench, method: str, arguments: Mapping[str, Any]) -> Any:
        try:
            return await bench.call(method, arguments)
        except SandboxError:
            self.left_s()
            raise

    async def _stand_on(self, tree: Tree) -> Bench:
        if self._main is None:
            self._opened += 1
            self._main = self._new_bench()
        if self._held is not tree:
            self._held, self._stood_s = tree, self.cpu_s
        if self._main.tree is not tree and self.left_s() < self._start_s:
            # Nothing can stop an import half-way, so it is not begun.
            raise BudgetSpent
        await self._main.stand_on(tree)
        self._start_s = self._start_s or self._main.cpu_s
        return self._main

    async def _drop(self) -> None:
        await self._close_main()
        if self._opened >= self._settings.max_sessions:
            raise BudgetSpent

    async def _close_main(self) -> None:
        if self._main is not None:
            await self._main.close()
            self._closed_s += self._main.cpu_s
            self._main = None

    def _new_bench(self) -> Bench:
        return Bench(self._request, self._runners, self.editable, self._wall_s)

    def _wall_s(self) -> float:
        return min(self._until - time.monotonic(), max(self._request.cpu_s - self.cpu_s, 0.0) * 20 + 60)

    def _base_arguments(self) -> dict[str, Any]:
        left_s = self.left_s()
        return {
            "timeout_s": min(self._settings.base_timeout_s, left_s / 6),
            "reordered": self._reordered,
            "first": list(self._request.failing),
            # Every find costs as much again before it counts as one.
            "total_s": left_s / 6,
        }

    # -- several -----------------------------------------------------------------

    def _ready(self) -> list[Bench]:
        return [bench for bench in self._others if bench.is_ready and bench.tree is self._held]

    @asynccontextmanager
    async def _free(self) -> AsyncIterator[Bench]:
        """A sandbox on the tree held that does nothing, and something left to spend in it."""
        if self._main is None or self._main.is_lost:
            await self.reopen()
        async with self._changed:
            await self._changed.wait_for(lambda: self._idle() and (not self._lent_s or self.left_s() > 0.1))
            bench = self._idle()[0]
            bench.is_busy = True
        try:
            yield bench
        finally:
            bench.is_busy = False
            async with self._changed:
                self._changed.notify_all()

    def _idle(self) -> list[Bench]:
        benches = [self._main, *self._ready()] if self._main is not None else self._ready()
        return [bench for bench in benches if not bench.is_busy]

    async def _join(self, bench: Bench | None) -> None:
        """Open another sandbox on the tree held, or move one there; it is not asked for again in vain."""
        tree = self._held
        if bench is None:
            bench = self._new_bench()
            self._others.append(bench)
        bench.is_busy = True
        try:
            await bench.stand_on(tree)
            await bench.call("baseline", self._base_arguments())
        except (RaysmithError, BudgetSpent):
            self._join_s = float("inf")
            await self._leave(bench)
            return
        bench.is_busy, bench.is_ready = False, True
        async with self._changed:
            self._changed.notify_all()

    async def _leave(self, bench: Bench) -> None:
        bench.is_ready = False
        with suppress(RaysmithError):
            await bench.close()
        if bench in self._others:
            self._others.remove(bench)
            self._closed_s += bench.cpu_s


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
