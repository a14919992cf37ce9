"""What a search has found so far on one tree, and what may be tried together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.search.edits import Candidate
from actors.search.plausibility import fitting
from actors.search.settings import SearchSettings

_PASSES = ("passed", "xpassed")
#: Candidates that got one test further which are run by all tests, to see whether they break any.
_HOPES_PER_TEST = 3
#: A test whose failing comparison came this much nearer to holding got further.
_NEAR = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Tests that fail and are to pass, and tests that pass and are to stay so."""

    failing: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A candidate that repairs at least one test or gets one further, and what still fails with it.

    Attributes:
        broken: Tests that passed before; a find with any is only a way to a better one.
        moved: Tests that still fail, at a later line or with values nearer to those expected.
    """

    candidate: Candidate
    fixed: frozenset[str]
    failing: tuple[str, ...]
    rank: float
    broken: tuple[str, ...] = ()
    moved: frozenset[str] = frozenset()

    @property
    def plausibility(self) -> float:
        """How likely it is what was meant, from where it is, what it does and how large it is."""
        return self.rank * fitting(self.candidate.kind) / (1.0 + self.candidate.size / 150)

    @property
    def merit(self) -> tuple[bool, float]:
        """For comparison: complete repairs first, then plausibility, which each more test repaired raises."""
        return not self.failing, (len(self.fixed) + 0.5 * len(self.moved)) ** 2 * self.plausibility


@dataclass(slots=True)
class Board:
    """Plausible repairs of one base, and the partly promising ones that a second edit may complete."""

    goal: Goal
    settings: SearchSettings
    found: list[Found] = field(default_factory=list)
    detours: list[Found] = field(default_factory=list)
    advances: list[Found] = field(default_factory=list)
    seeds: list[tuple[float, Candidate]] = field(default_factory=list)
    late: list[tuple[float, Candidate]] = field(default_factory=list)
    _hopes: dict[str, list[tuple[float, Candidate]]] = field(default_factory=dict)

    def take(self, rank: float, candidate: Candidate, result: Mapping[str, Any]) -> Found | None:
        """Note one result; the find when it is one."""
        if result["status"] == "timeout":
            self.late.append((rank, candidate))
        outcomes = result.get("outcomes", {})
        fixed = [test for test in self.goal.failing if outcomes.get(test) in _PASSES]
        near: Mapping[str, float] = result.get("near", {})
        nearer = (test for test, share in near.items() if share >= _NEAR)
        moved = frozenset([*result.get("moved", ()), *nearer]) - set(fixed)
        if result.get("complete") and (fixed or moved):
            return self._sort(rank, candidate, outcomes, fixed, moved)
        if moved:
            self.seeds.append((rank * 1.5, candidate))
            for test in sorted(moved):
                hope = rank * fitting(candidate.kind) * near.get(test, 1.0)
                self._hopes.setdefault(test, []).append((hope, candidate))
        elif result.get("fixed"):
            self.seeds.append((rank * 2, candidate))
        elif result.get("changed"):
            self.seeds.append((rank * (0.3 + max(near.values(), default=0.0)), candidate))
        return None

    def _sort(
        self,
        rank: float,
        candidate: Candidate,
        outcomes: Mapping[str, str],
        fixed: Sequence[str],
        moved: frozenset[str],
    ) -> Found | None:
        """Put a candidate that ran all tests where it belongs; the find when it breaks none."""
        broken = tuple(test for test in self.goal.others if outcomes.get(test) not in _PASSES)
        left = tuple(test for test in self.goal.failing if test not in set(fixed))
        found = Found(
            candidate=candidate,
            fixed=frozenset(fixed),
            failing=left + broken,
            rank=rank,
            broken=broken,
            moved=moved,
        )
        if broken:
            if len(broken) < len(fixed):
                self.detours.append(found)
            self.seeds.append((rank * 2, candidate))
            return None
        if not fixed:
            self.advances.append(found)
            return None
        self.found.append(found)
        return found

    @property
    def repaired(self) -> frozenset[str]:
        """Tests that some find repairs."""
        return frozenset[str]().union(*(one.fixed for one in self.found))

    @property
    def complete(self) -> int:
        """Finds with which no test fails."""
        return sum(1 for one in self.found if not one.failing)

    def take_hopes(self) -> list[tuple[float, Candidate]]:
        """For each test without a repair the most promising candidates that get it further; each once."""
        chosen: dict[int, tuple[float, Candidate]] = {}
        for test in self.goal.failing:
            some = self._hopes.pop(test, []) if test not in self.repaired else []
            for item in sorted(some, key=lambda item: -item[0])[:_HOPES_PER_TEST]:
                chosen.setdefault(id(item[1]), item)
        return list(chosen.values())

    def ordered(self) -> list[Found]:
        """Everything found, the one to accept first."""
        return sorted(self.found, key=lambda one: one.merit, reverse=True)

    def advanced(self) -> list[Found]:
        """Finds that only get tests further, the most plausible first."""
        return sorted(self.advances, key=lambda one: one.merit, reverse=True)

    def detoured(self) -> list[Found]:
        """Finds that break fewer tests than they repair, the one to follow first."""
        return sorted(self.detours, key=lambda one: (len(one.failing), -one.plausibility))

    def best_seeds(self) -> list[tuple[float, Candidate]]:
        """Seeds for pairs of edits, most promising first."""
        return sorted(self.seeds, key=lambda item: -item[0])[: self.settings.pair_seeds]


def passing(outcomes: Mapping[str, Sequence[Any]], tests: Sequence[str]) -> list[str]:
    """Those of `tests` that pass by the worker's baseline."""
    return [test for test in tests if test in outcomes and outcomes[test][0] in _PASSES]
