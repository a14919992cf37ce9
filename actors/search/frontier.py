"""Trees that the search stands on or may come back to, and which of them has the next turn."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.search.board import Board
from actors.search.edits import Candidate
from actors.search.pairs import Pairs
from actors.search.source import Source
from actors.search.turns import Turns
from orchestrator.tree import Tree

#: What a slice without success costs, in failing tests: then another state is looked at.
_FRUITLESS = 1.0
#: What being the second, third, … choice among siblings costs.
_SIBLING = 0.25


@dataclass(slots=True)
class Flight:
    """Candidates that are to be tried next, and their results on the way where it was started."""

    batch: list[tuple[float, Candidate]]
    results: asyncio.Task[list[dict[str, Any]]] | None = None


@dataclass(slots=True, kw_only=True)
class Look:
    """What is known about a state once it was measured.

    Attributes:
        calls: Arguments that the tests gave to functions, as literals, per `path:name`.
        lines: Per test and file the lines executed.
        pairs: The second edits, None until all single ones were tried.
        ahead: Batches that left their queue; their results are taken in this order, whoever is done first.
        seen: Fingerprints of code that was tried.
    """

    board: Board
    sources: Mapping[str, Source]
    calls: Mapping[str, Sequence[Sequence[str]]]
    lines: Mapping[str, Mapping[str, Sequence[int]]]
    singles: Turns
    partners: Turns
    pairs: Pairs | None = None
    ahead: deque[Flight] = field(default_factory=deque)
    seen: set[str] = field(default_factory=set)


@dataclass(slots=True, kw_only=True)
class State:
    """A tree: the request's own, or one with edits accepted; `look` is None until it was visited.

    Attributes:
        slices: How often it had its turn without success.
        plausibility: That of the edits accepted so far, in (0, 1].
        penalty: Failing tests that its doubtful origin counts for; below zero where tests got further.
        offered: Finds that its children came from.
    """

    tree: Tree
    failing: tuple[str, ...]
    explanations: tuple[str, ...] = ()
    plausibility: float = 1.0
    penalty: float = 0.0
    slices: int = 0
    look: Look | None = None
    offered: set[int] = field(default_factory=set)

    @property
    def cost(self) -> float:
        """The lowest has the next turn."""
        return len(self.failing) + self.penalty + self.slices * _FRUITLESS


class Frontier:
    """States by cost; a tree enters once. The same states in the same order leave in the same order."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, State]] = []
        self._known: set[str] = set()
        self._pushed = 0

    def push(self, state: State, place: int = 0) -> None:
        """Add a new state, the `place`th best of its siblings."""
        if state.tree.digest in self._known:
            return
        self._known.add(state.tree.digest)
        state.penalty += place * _SIBLING
        self.put_back(state)

    def put_back(self, state: State) -> None:
        """Add a state that was visited and has more to try."""
        self._pushed += 1
        heapq.heappush(self._heap, (state.cost, self._pushed, state))

    def pop(self) -> State | None:
        """The state with the lowest cost, the older of equals; None when nothing is left to try."""
        return heapq.heappop(self._heap)[2] if self._heap else None
