"""Candidates tried in the sandbox: a slice of those that a state has left, and finds tried together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from actors.search.board import Board, Found
from actors.search.edits import Candidate
from actors.search.frontier import Look
from actors.search.lab import Lab
from actors.search.pairs import Pairs
from actors.search.ranking import composed
from actors.search.settings import SearchSettings
from orchestrator.errors import SandboxError

Batch = list[tuple[float, Candidate]]
Report = Callable[[Found], Awaitable[None]]
_HANDFUL = 6


class Trials:
    """Has the worker try candidates and tells their results to a state's board."""

    def __init__(self, lab: Lab, settings: SearchSettings) -> None:
        self._lab = lab
        self._settings = settings
        self.tried = 0

    async def slice(self, look: Look, report: Report) -> bool:
        """Try candidates until the board is settled or a slice of them is done; whether any are left."""
        self._report = report
        look.board.tried_since = 0
        goal = self.tried + self._settings.slice
        more = True
        while more and not look.board.is_settled and (self.tried < goal or look.board.found):
            more = await self._next(look)
        await self._together(look.board)
        return more

    async def _next(self, look: Look) -> bool:
        """Try the next batch: single edits, then what took too long, then pairs."""
        queue = look.pairs or look.singles
        batch: Batch = []
        while len(batch) < self._settings.request_size and (ranked := queue.pop()) is not None:
            batch.append(ranked)
        if batch:
            for rank, candidate in await self._try(look.board, batch, 1.0):
                queue.put(rank, candidate)
            return True
        if look.board.late:
            late, look.board.late = look.board.late, []
            await self._all(look.board, late, self._settings.retry_factor)
            return True
        if look.pairs is None and not look.board.found:
            look.pairs = Pairs(look.board.best_seeds(), look.partners, self._settings.pair_partners)
            return True
        return False

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
