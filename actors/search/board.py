"""What a search has found so far and what it may still spend. Pure; the clock's readings are handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.search.edits import Candidate
from actors.search.settings import SearchSettings

_PASSES = ("passed", "xpassed")
#: Operators that fit the tests rather than the task when they use the tests' own values.
_FITTING = {
    "fitted": 0.15,
    "tail": 0.4,
    "clamp": 0.35,
    "guard": 0.7,
    "case": 0.5,
    "condition": 0.5,
    "return": 0.6,
    "remove": 0.7,
    "unwrap": 0.8,
    "branches": 0.8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Tests that fail and are to pass, and tests that pass and are to stay so."""

    failing: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A candidate that repairs at least one test, and what still fails with it.

    Attributes:
        broken: Tests that passed before; a find with any is only a way to a better one.
    """

    candidate: Candidate
    fixed: frozenset[str]
    failing: tuple[str, ...]
    rank: float
    broken: tuple[str, ...] = ()

    @property
    def merit(self) -> tuple[int, float]:
        """For comparison: most tests repaired, then plausibility."""
        fitting = 1.0
        for part in self.candidate.kind.split(" + "):
            fitting *= _FITTING.get(part, 1.0)
        return len(self.fixed), self.rank * fitting / (1.0 + self.candidate.size / 150)


@dataclass(slots=True)
class Board:
    """Plausible repairs of one base, and the partly promising ones that a second edit may complete."""

    goal: Goal
    settings: SearchSettings
    found: list[Found] = field(default_factory=list)
    detours: list[Found] = field(default_factory=list)
    seeds: list[tuple[float, Candidate]] = field(default_factory=list)
    late: list[tuple[float, Candidate]] = field(default_factory=list)
    tried_since: int = 0

    def take(self, rank: float, candidate: Candidate, result: Mapping[str, Any]) -> Found | None:
        """Note one result; the find when it is one."""
        if self.found and result["status"] != "duplicate":
            self.tried_since += 1
        if result["status"] == "timeout":
            self.late.append((rank, candidate))
        outcomes = result.get("outcomes", {})
        fixed = [test for test in self.goal.failing if outcomes.get(test) in _PASSES]
        if fixed and result.get("complete"):
            broken = tuple(test for test in self.goal.others if outcomes.get(test) not in _PASSES)
            left = tuple(test for test in self.goal.failing if test not in set(fixed))
            found = Found(
                candidate=candidate, fixed=frozenset(fixed), failing=left + broken, rank=rank, broken=broken
            )
            if not broken:
                return self._keep(found)
            if len(broken) < len(fixed):
                self.detours.append(found)
            self.seeds.append((rank * 2, candidate))
        elif result.get("moved"):
            self.seeds.append((rank * 1.5, candidate))
        elif result.get("changed"):
            self.seeds.append((rank * 0.3, candidate))
        return None

    @property
    def repaired(self) -> frozenset[str]:
        """Tests that some find repairs."""
        return frozenset[str]().union(*(one.fixed for one in self.found))

    @property
    def is_settled(self) -> bool:
        """Whether enough was tried after the last new success to choose."""
        if not self.found:
            return False
        if len(self.repaired) < len(self.goal.failing):
            return self.tried_since >= self.settings.partial_window
        kept = sum(1 for one in self.found if not one.failing)
        return self.tried_since >= self.settings.window or kept >= self.settings.max_kept

    def combined(self) -> list[Found]:
        """Finds that repair different tests, the best of each; to be tried together."""
        chosen: list[Found] = []
        fixed: set[str] = set()
        for one in self.ordered():
            if not fixed & one.fixed:
                chosen.append(one)
                fixed |= one.fixed
        return chosen

    def ordered(self) -> list[Found]:
        """Everything found, the one to accept first."""
        return sorted(self.found, key=lambda one: one.merit, reverse=True)

    def detoured(self) -> list[Found]:
        """Finds that break fewer tests than they repair, the one to follow first."""
        return sorted(self.detours, key=lambda one: (len(one.failing), -one.merit[1]))

    def best_seeds(self) -> list[tuple[float, Candidate]]:
        """Seeds for pairs of edits, most promising first."""
        return sorted(self.seeds, key=lambda item: -item[0])[: self.settings.pair_seeds]

    def _keep(self, found: Found) -> Found:
        if found.fixed - self.repaired:
            self.tried_since = 0
        self.found.append(found)
        return found


def passing(outcomes: Mapping[str, Sequence[Any]], tests: Sequence[str]) -> list[str]:
    """Those of `tests` that pass by the worker's baseline."""
    return [test for test in tests if test in outcomes and outcomes[test][0] in _PASSES]
