"""One queue of candidates per cluster of failing tests; they give in turn and share what was tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.search.edits import Candidate, Edit
from actors.search.ranking import Ranking
from actors.search.settings import SearchSettings

Ranked = tuple[float, Candidate]
#: A cluster whose tests all have a repair gives one candidate where the others give this many.
_RESTING = 4.0
#: So many clusters share one window; with more of them each has still as long.
_SHARING = 3


@dataclass(slots=True, kw_only=True)
class Lane:
    """One cluster's queue.

    Attributes:
        clock: Grows with every candidate given; the lane with the lowest gives the next one.
        since: Candidates given since the last of its tests got its first repair in this slice.
    """

    tests: frozenset[str]
    ranking: Ranking
    clock: float = 0.0
    since: int = 0
    repaired: int = 0
    empty: bool = False


class Turns:
    """Candidates of several rankings, each at most once unless put back; deterministic."""

    def __init__(self, rankings: Sequence[tuple[Sequence[str], Ranking]], settings: SearchSettings) -> None:
        self._lanes = [Lane(tests=frozenset(tests), ranking=ranking) for tests, ranking in rankings]
        self._settings = settings
        self._again: list[Ranked] = []
        self._given: set[tuple[Edit, ...]] = set()

    @property
    def open(self) -> int:
        """Lanes that have candidates left."""
        return sum(not lane.empty for lane in self._lanes)

    def start_slice(self) -> None:
        """Have every lane look for another window, whatever was found before."""
        for lane in self._lanes:
            lane.since = 0

    def pop(self, repaired: frozenset[str] = frozenset()) -> Ranked | None:
        """The next candidate and its rank; None when no lane has any. `repaired` tests need no more."""
        if self._again:
            return self._again.pop()
        while lane := self._next():
            ranked = lane.ranking.pop()
            if ranked is None:
                lane.empty = True
            elif ranked[1].edits not in self._given:
                self._given.add(ranked[1].edits)
                self._count(lane, repaired)
                return ranked
        return None

    def put(self, rank: float, candidate: Candidate) -> None:
        """Have `candidate` come again, next."""
        self._again.append((rank, candidate))

    def is_settled(self, repaired: frozenset[str], complete: int) -> bool:
        """Whether every lane tried enough after its last success; not before there was any.

        Args:
            complete: Candidates so far with which no test fails.
        """
        if not repaired:
            return False
        if complete >= self._settings.max_kept:
            return True
        window = self._settings.window if complete else self._settings.partial_window
        window //= max(1, min(len(self._lanes), _SHARING))
        return all(
            lane.empty or lane.since >= (window if complete or lane.repaired else self._settings.slice)
            for lane in self._lanes
        )

    def _next(self) -> Lane | None:
        lanes = [lane for lane in self._lanes if not lane.empty]
        return min(lanes, key=lambda lane: lane.clock) if lanes else None

    def _count(self, lane: Lane, repaired: frozenset[str]) -> None:
        known = len(lane.tests & repaired)
        lane.clock += _RESTING if known == len(lane.tests) else 1.0
        lane.since = 0 if known > lane.repaired else lane.since + 1
        lane.repaired = known
