"""Second edits for partly promising first ones, the most promising pairs first."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from actors.search.edits import Candidate
from actors.search.ranking import composed
from actors.search.turns import Turns

Ranked = tuple[float, Candidate]
#: A pair is this much less plausible than the ranks of its parts say.
_BOTH = 0.3


class Pairs:
    """Every seed with every partner, by the product of their ranks; lazily."""

    def __init__(self, seeds: Sequence[Ranked], partners: Turns, most: int) -> None:
        self._seeds = list(seeds)
        self._source = partners
        self._partners: list[Ranked] = []
        self._most = most
        self._heap: list[tuple[float, int, int]] = []
        for number in range(len(self._seeds)):
            self._push(number, 0)

    def pop(self, _repaired: frozenset[str] = frozenset()) -> Ranked | None:
        """The best pair left that does not touch the same characters twice."""
        while self._heap:
            rank, number, place = heapq.heappop(self._heap)
            self._push(number, place + 1)
            pair = composed(self._seeds[number][1], self._partners[place][1])
            if pair is not None:
                return -rank, pair
        return None

    def _push(self, number: int, place: int) -> None:
        while len(self._partners) <= place < self._most:
            ranked = self._source.pop()
            if ranked is None:
                break
            self._partners.append(ranked)
        if place < len(self._partners):
            rank = self._seeds[number][0] * self._partners[place][0] * _BOTH
            heapq.heappush(self._heap, (-rank, number, place))
