"""The search: locate, rank, try in the sandbox, accept, until no test fails or the budget is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from actors.search.behaviour import agreed, function_edited, near
from actors.search.board import Base, Board, Found, Goal, passing
from actors.search.edits import Candidate, applied, wire_form
from actors.search.evidence import gather
from actors.search.lab import BudgetSpent, Lab
from actors.search.locate import Traces, covering, suspicion
from actors.search.ranking import Ranking, composed
from actors.search.settings import SearchSettings
from actors.search.source import Source
from actors.search.syntax import repairs
from orchestrator.errors import SandboxError
from orchestrator.ports import Progress, RunnerPool
from orchestrator.steps import Improvement, Repaired, RepairRequest
from orchestrator.tree import Tree

Batch = list[tuple[float, Candidate]]
_HANDFUL = 6


class Search:
    """One repair. `best` never gets worse; each step to it was reported."""

    def __init__(
        self, request: RepairRequest, runners: RunnerPool, progress: Progress, settings: SearchSettings
    ) -> None:
        self._request = request
        self._progress = progress
        self._settings = settings
        self._lab = Lab(request, runners, settings)
        self._tried = 0
        self._best: Improvement | None = None
        self._alternatives: list[Improvement] = []
        self._base = Base(tree=request.tree, failing=request.failing)

    async def run(self) -> Repaired:
        """Search until everything passes, nothing is left to try, or the budget is spent."""
        exhausted = False
        try:
            exhausted = await self._climb()
        except BudgetSpent:
            pass
        finally:
            await self._lab.close()
        return Repaired(
            best=self._best,
            repairer="search",
            candidates=self._tried,
            cpu_s=round(self._lab.cpu_s, 3),
            exhausted=exhausted,
            alternatives=tuple(self._alternatives),
        )

    # -- the climb --------------------------------------------------------------

    async def _climb(self) -> bool:
        """Accept improvements one after another; go back to an alternative where one leads nowhere."""
        stack = [self._base]
        backtracks = 0
        while stack:
            base = stack[-1]
            found = await self._improve(base)
            if found:
                base.alternatives = found[1:4]
                stack.append(await self._accept(base, found[0], found[1:]))
                if not stack[-1].failing:
                    return False
                continue
            backtracks += 1
            while stack and not stack[-1].alternatives:
                stack.pop()
            if not stack or backtracks > self._settings.max_backtracks:
                return True
            other = stack[-1].alternatives.pop(0)
            stack.append(await self._accept(stack[-1], other, ()))
        return True

    async def _accept(self, base: Base, found: Found, others: Sequence[Found]) -> Base:
        tree = applied(base.tree, found.candidate.edits)
        self._base = base
        if self._is_better(found) or (self._best and len(self._best.failing) == len(found.failing)):
            await self._report(found)
            self._alternatives = [self._improvement(other) for other in others[:5]]
        explanations = (*base.explanations, found.candidate.explanation)
        return Base(tree=tree, failing=found.failing, explanations=explanations)

    def _is_better(self, found: Found) -> bool:
        return self._best is None or len(found.failing) < len(self._best.failing)

    async def _report(self, found: Found) -> None:
        improvement = self._improvement(found)
        if self._best is None or improvement.changes != self._best.changes:
            self._best = improvement
            await self._progress(improvement)

    def _improvement(self, found: Found) -> Improvement:
        tree = applied(self._base.tree, found.candidate.edits)
        return Improvement(
            changes=self._request.tree.changes_to(tree),
            failing=found.failing,
            explanation="; ".join([*self._base.explanations, found.candidate.explanation]),
            candidates=self._tried,
            cpu_s=round(self._lab.cpu_s, 3),
        )

    # -- one base ---------------------------------------------------------------

    async def _improve(self, base: Base) -> list[Found]:
        """Improvements of `base`, best first; empty when everything was tried."""
        sources = self._sources(base.tree)
        measured = await self._lab.measure(base.tree)
        outcomes = measured["results"]
        failing = tuple(test for test in base.failing if test not in passing(outcomes, [test]))
        expected = [test for test in self._request.profile.expected if test not in base.failing]
        board = Board(
            goal=Goal(failing=failing, others=tuple(passing(outcomes, expected))), settings=self._settings
        )
        traces = await self._lab.trace(board.goal, outcomes)
        evidence = gather(base.tree, traces, failing)
        ranking = Ranking(
            sources,
            suspicion(sources, traces, failing),
            evidence,
            self._settings,
            {} if measured["fixed_order"] else covering(traces.lines, failing),
        )
        self._base = base
        for path in sources:
            for candidate in repairs(sources[path]):
                ranking.put(candidate.weight, candidate)
        await self._singles(board, ranking)
        await self._together(board)
        if not board.found:
            await self._pairs(board, sources, traces, evidence)
        return await self._agreed(board.ordered(), sources, traces)

    async def _agreed(self, found: list[Found], sources: Mapping[str, Source], traces: Traces) -> list[Found]:
        """The best finds ordered by what they do on inputs near those of the tests."""
        best = [one for one in found if len(one.fixed) == len(found[0].fixed)][: self._settings.max_kept]
        source = sources[best[0].candidate.edits[0].path] if best else None
        name = function_edited(source, best) if source is not None and len(best) > 2 else None
        calls = near(traces.calls.get(f"{source.path}:{name}", ())) if source is not None and name else []
        if source is None or not calls:
            return found
        arguments = {
            "candidates": [{"edits": wire_form(one.candidate.edits)} for one in best],
            "path": source.path,
            "name": name,
            "calls": calls,
            "cpu_s": min(1.0, self._lab.left_s()),
        }
        try:
            vectors = await self._lab.call("compare", arguments)
        except SandboxError:
            await self._lab.reopen()
            return found
        return [*agreed(best, vectors), *found[len(best) :]]

    async def _singles(self, board: Board, ranking: Ranking) -> None:
        while not board.is_settled:
            batch: Batch = []
            while len(batch) < self._settings.request_size and (ranked := ranking.pop()) is not None:
                batch.append(ranked)
            if not batch:
                break
            for rank, candidate in await self._try(board, batch, 1.0):
                ranking.put(rank, candidate)
        if not board.found and board.late:
            late, board.late = board.late, []
            await self._all(board, late, self._settings.retry_factor)

    async def _together(self, board: Board) -> None:
        """Repairs of different tests tried as one, so that several bugs cost one round."""
        chosen = board.combined()
        while len(chosen) > 1:
            together: Candidate | None = chosen[0].candidate
            for other in chosen[1:]:
                together = composed(together, other.candidate) if together is not None else None
            if together is not None:
                rank = min(one.rank for one in chosen)
                await self._try(board, [(rank, replace(together, failing=()))], 1.0)
            if len(board.ordered()[0].fixed) >= sum(len(one.fixed) for one in chosen):
                return
            chosen.pop()

    async def _pairs(
        self, board: Board, sources: Mapping[str, Source], traces: Traces, evidence: Any
    ) -> None:
        """Second edits for partly promising first ones."""
        for rank, seed in board.best_seeds():
            ranking = Ranking(
                sources,
                suspicion(sources, traces, board.goal.failing),
                evidence,
                self._settings,
                covering(traces.lines, board.goal.failing),
            )
            batch: Batch = []
            while len(batch) < self._settings.pair_partners and (ranked := ranking.pop()) is not None:
                pair = composed(seed, ranked[1])
                if pair is not None:
                    batch.append((rank * ranked[0] * 0.3, pair))
            await self._all(board, batch, 1.0)
            if board.found:
                return

    async def _all(self, board: Board, left: Batch, factor: float) -> None:
        left = sorted(left, key=lambda item: -item[0])
        while left and not board.is_settled:
            batch, left = left[: self._settings.request_size], left[self._settings.request_size :]
            left = [*await self._try(board, batch, factor), *left]

    async def _try(self, board: Board, batch: Batch, factor: float) -> Batch:
        """Have the worker try `batch`; returns what it did not get to."""
        try:
            results = await self._lab.evaluate(board.goal, [candidate for _, candidate in batch], factor)
        except SandboxError:
            await self._lab.reopen()
            # Together they killed the sandbox. Smaller parts narrow it down; a sandbox costs more than a few
            # candidates, so the last handful goes as one.
            return [] if len(batch) <= _HANDFUL else await self._in_parts(board, batch, factor)
        left: Batch = []
        hopeful: Batch = []
        for (rank, candidate), result in zip(batch, results, strict=True):
            if result["status"] == "skipped":
                left.append((rank, candidate))
                continue
            self._tried += result["status"] != "duplicate"
            if result["status"] == "timeout" and result.get("fixed") and factor == 1.0:
                hopeful.append((rank, candidate))
                continue
            found = board.take(rank, candidate, result)
            if found is not None and self._is_better(found):
                await self._report(found)
        if hopeful:
            # It repaired a test before it took too long: that may be work, not a hang.
            left += await self._try(board, hopeful, self._settings.retry_factor)
        return left

    async def _in_parts(self, board: Board, batch: Batch, factor: float) -> Batch:
        left: Batch = []
        size = max(_HANDFUL, len(batch) // 4)
        for start in range(0, len(batch), size):
            left += await self._try(board, batch[start : start + size], factor)
        return left

    def _sources(self, tree: Tree) -> dict[str, Source]:
        sources: dict[str, Source] = {}
        for path in self._lab.editable:
            try:
                sources[path] = Source(path, tree.files[path].content)
            except ValueError:
                continue
        return sources
