"""Candidates tried in the sandbox: a slice of those that a state has left, and finds tried together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from actors.search.assembly import assemblies, synergies, together
from actors.search.board import Found
from actors.search.edits import Candidate
from actors.search.frontier import Flight, Look
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
            self._lab.invite()
            more = await self._next(look, deep=deep)
            deep = deep and more
        # The sandboxes have other work next.
        await asyncio.gather(*(one.results for one in look.ahead if one.results), return_exceptions=True)
        if not board.complete:
            await self._further(look)
            await self._together(look)
        return more

    async def _next(self, look: Look, *, deep: bool) -> bool:
        """Try the next batch: single edits, pairs in between, then what took too long."""
        board = look.board
        # As many in every case as there may be sandboxes, so that how many there are changes nothing.
        while len(look.ahead) < self._settings.runners and (batch := self._batch(look, deep=deep)):
            look.ahead.append(Flight(batch))
        if look.ahead:
            self._start(look)
            await self._land(look)
            return True
        if board.late:
            late, board.late = board.late, []
            await self._all(look, late, self._settings.retry_factor)
            return True
        return False

    def _batch(self, look: Look, *, deep: bool) -> Batch:
        board = look.board
        if look.pairs is None and board.seeds and (deep or not look.singles.open) and not board.complete:
            look.pairs = Pairs(board.best_seeds(), look.partners, self._settings.pair_partners)
        self._paired = deep and not self._paired
        batch: Batch = []
        for queue in (look.pairs, look.singles) if self._paired else (look.singles, look.pairs):
            while queue and len(batch) < self._settings.request_size:
                ranked = queue.pop(board.repaired)
                if ranked is None:
                    break
                batch.append(ranked)
            if batch:
                break
        return batch

    def _start(self, look: Look) -> None:
        for flight in list(look.ahead)[: self._lab.width]:
            if flight.results is None:
                candidates = [candidate for _, candidate in flight.batch]
                flight.results = self._lab.begin(self._lab.evaluate(look.board.goal, candidates, 1.0))

    async def _land(self, look: Look) -> None:
        """Take the results of the batch that left its queue first."""
        flight = look.ahead.popleft()
        assert flight.results is not None
        try:
            results = await flight.results
        except SandboxError:
            left = await self._divided(look, flight.batch, 1.0)
        else:
            left = await self._take(look, flight.batch, results, 1.0)
        if left:
            # They come next whenever time cut them off, so that time does not change the order.
            look.ahead.appendleft(Flight(left))

    async def _further(self, look: Look) -> None:
        """Run all tests under what got a test further, to see whether it breaks any."""
        hopes = look.board.take_hopes()
        if hopes:
            await self._try(look, hopes, 1.0, confirm=True)

    async def _together(self, look: Look) -> None:
        """Repairs of different tests tried as one, so that several bugs cost one round."""
        board = look.board
        if len(board.goal.failing) > 1:
            await self._try(look, [one for one in map(together, synergies(board)) if one is not None], 1.0)
        sets = assemblies(board)
        best = sets[0] if sets else []
        tried = [one for one in map(together, sets) if one is not None]
        while tried:
            await self._try(look, tried, 1.0, confirm=True)
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
            left = [*await self._try(look, batch, factor), *left]

    async def _try(
        self, look: Look, batch: Batch, factor: float, *, confirm: bool = False, again: bool = False
    ) -> Batch:
        """Have the worker try `batch`; returns what it did not get to."""
        if not batch:
            return []
        tried = [candidate for _, candidate in batch]
        try:
            results = await self._lab.evaluate(look.board.goal, tried, factor, confirm=confirm, again=again)
        except SandboxError:
            return await self._divided(look, batch, factor)
        return await self._take(look, batch, results, factor, confirm=confirm)

    async def _take(
        self,
        look: Look,
        batch: Batch,
        results: Sequence[Mapping[str, Any]],
        factor: float,
        *,
        confirm: bool = False,
    ) -> Batch:
        """Tell the board, in the order of the batch; returns what was not tried."""
        left: Batch = []
        hopeful: Batch = []
        unseen: Batch = []
        for (rank, candidate), result in zip(batch, results, strict=True):
            if result["status"] == "skipped":
                left.append((rank, candidate))
                continue
            key = result.get("key")
            if key is not None and factor == 1.0 and not confirm:
                if key in look.seen:
                    continue
                if result["status"] == "duplicate":
                    unseen.append((rank, candidate))
                    continue
                look.seen.add(key)
            self.tried += result["status"] != "duplicate"
            if result["status"] == "timeout" and result.get("fixed") and factor == 1.0:
                hopeful.append((rank, candidate))
                continue
            found = look.board.take(rank, candidate, result)
            if found is not None:
                await self._report(found)
        # Tried out of turn in that sandbox, by a batch that comes after this one.
        left += await self._try(look, unseen, factor, again=True)
        # It repaired a test before it took too long: that may be work, not a hang.
        left += await self._try(look, hopeful, self._settings.retry_factor)
        return left

    async def _divided(self, look: Look, batch: Batch, factor: float) -> Batch:
        """Together they killed the sandbox. Smaller parts narrow it down.

        A sandbox costs more than a few candidates, so the last handful goes as one.
        """
        await self._lab.reopen()
        left: Batch = []
        if len(batch) <= _HANDFUL:
            return left
        size = max(_HANDFUL, len(batch) // 4)
        for start in range(0, len(batch), size):
            left += await self._try(look, batch[start : start + size], factor)
        return left
