"""Candidates tried in the sandbox: a slice of those that a state has left, and finds tried together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from actors.search.assembly import assemblies, synergies, together
from actors.search.board import Board, Found
from actors.search.edits import Candidate
from actors.search.frontier import Look
from actors.search.lab import Lab
from actors.search.pairs import Pairs
from actors.search.settings import SearchSettings
from orchestrator.errors import SandboxError

Batch = list[tuple[float, Candidate]]
Report = Callable[[Found], Awaitable[None]]
_HANDFUL = 6
#: Clusters that make a slice longer; with more of them each has less.
_MAX_LANES = 3
_FEWEST = 3


class Trials:
    """Has the worker try candidates and tells their results to a state's board."""

    def __init__(self, lab: Lab, settings: SearchSettings) -> None:
        self._lab = lab
        self._settings = settings
        self.tried = 0
        self._paired = False

    async def slice(self, look: Look, report: Report, *, deep: bool) -> bool:
        """Try candidates until every cluster is settled or a slice of them is done; whether any are left.

        Args:
            deep: Let pairs of edits have every second turn.
        """
        self._report = report
        board = look.board
        look.singles.start_slice()
        before = board.complete
        goal = self.tried + self._lab.slice * min(max(look.singles.open, 1), _MAX_LANES)
        more = True
        while more and self.tried < goal:
            if look.singles.is_settled(board.repaired, board.complete - before):
                break
            more = await self._next(look, deep=deep)
            deep = deep and more
        if not board.complete:
            await self._further(board)
            await self._together(board)
        return more

    async def _next(self, look: Look, *, deep: bool) -> bool:
        """Try the next batch: single edits, pairs in between, then what took too long."""
        board = look.board
        if look.pairs is None and board.seeds and (deep or not look.singles.open) and not board.complete:
            look.pairs = Pairs(board.best_seeds(), look.partners, self._settings.pair_partners)
        self._paired = deep and not self._paired
        for queue in (look.pairs, look.singles) if self._paired else (look.singles, look.pairs):
            batch: Batch = []
            while queue and len(batch) < self._settings.request_size:
                ranked = queue.pop(board.repaired)
                if ranked is None:
                    break
                batch.append(ranked)
            if batch and queue:
                for rank, candidate in await self._try(board, batch, 1.0):
                    queue.put(rank, candidate)
                return True
        if board.late:
            late, board.late = board.late, []
            await self._all(look, late, self._settings.retry_factor)
            return True
        return False

    async def _further(self, board: Board) -> None:
        """Run all tests under what got a test further, to see whether it breaks any."""
        hopes = board.take_hopes()
        if hopes:
            await self._try(board, hopes, 1.0, confirm=True)

    async def _together(self, board: Board) -> None:
        """Repairs of different tests tried as one, so that several bugs cost one round."""
        if len(board.goal.failing) > 1:
            await self._try(board, [one for one in map(together, synergies(board)) if one is not None], 1.0)
        sets = assemblies(board)
        best = sets[0] if sets else []
        tried = [one for one in map(together, sets) if one is not None]
        while tried:
            await self._try(board, tried, 1.0, confirm=True)
            wanted = frozenset[str]().union(*(one.fixed for one in best))
            if len(best) < _FEWEST or any(one.fixed >= wanted for one in board.found):
                return
            # One of them spoils the others: without the least plausible one.
            best = best[:-1]
            joined = together(best)
            tried = [joined] if joined is not None else []

    async def _all(self, look: Look, left: Batch, factor: float) -> None:
        board = look.board
        left = sorted(left, key=lambda item: -item[0])
        while left and not look.singles.is_settled(board.repaired, board.complete):
            batch, left = left[: self._settings.request_size], left[self._settings.request_size :]
            left = [*await self._try(board, batch, factor), *left]

    async def _try(self, board: Board, batch: Batch, factor: float, *, confirm: bool = False) -> Batch:
        """Have the worker try `batch`; returns what it did not get to."""
        if not batch:
            return []
        try:
            tried = [candidate for _, candidate in batch]
            results = await self._lab.evaluate(board.goal, tried, factor, confirm=confirm)
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
            self.tried += result["status"] != "duplicate"
            if result["status"] == "timeout" and result.get("fixed") and factor == 1.0:
                hopeful.append((rank, candidate))
                continue
            found = board.take(rank, candidate, result)
            if found is not None:
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
