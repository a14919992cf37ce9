"""Finds for different failing tests put together: the best of each, and the same with a runner-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from math import prod

from actors.search.board import Board, Found
from actors.search.edits import Candidate
from actors.search.ranking import composed

Ranked = tuple[float, Candidate]
_VARIANTS = 8
_PER_TEST, _POOL = 2, 8


def assemblies(board: Board) -> list[list[Found]]:
    """Sets of finds that repair different tests or get them further; the most plausible set first."""
    ordered = board.ordered()
    best = _cover(ordered, [])
    sets = [_cover(board.advanced(), best), best]
    for place, one in enumerate(best):
        rest = best[:place] + best[place + 1 :]
        rivals = [other for other in ordered if _is_rival(one, other) and _fits(rest, other)]
        sets += [[*rest, other] for other in rivals[:3]]
    for place, one in enumerate(board.advanced()[1:4]):
        sets.insert(2 + place, _cover([one], best))
    fresh: dict[tuple[int, ...], list[Found]] = {}
    for some in sets:
        if len(some) > 1:
            fresh.setdefault(tuple(sorted(map(id, some))), some)
    return list(fresh.values())[:_VARIANTS]


def synergies(board: Board) -> list[list[Found]]:
    """Pairs of the most plausible finds of each test: two right edits do more together than each alone."""
    pool: dict[int, Found] = {}
    every = sorted([*board.found, *board.advances], key=lambda one: one.plausibility, reverse=True)
    for test in board.goal.failing:
        for one in [one for one in every if test in one.fixed | one.moved][:_PER_TEST]:
            pool.setdefault(id(one), one)
    best = sorted(pool.values(), key=lambda one: one.plausibility, reverse=True)[:_POOL]
    return [[one, other] for one, other in combinations(best, 2) if _fits([one], other)]


def together(some: Sequence[Found]) -> Ranked | None:
    """The finds' edits as one candidate; None where they touch the same characters."""
    found: Candidate | None = some[0].candidate
    for other in some[1:]:
        found = composed(found, other.candidate) if found is not None else None
    if found is None:
        return None
    rank = prod(one.rank for one in some) ** (1 / len(some))
    return rank, replace(found, failing=())


def _cover(ordered: Sequence[Found], start: Sequence[Found]) -> list[Found]:
    """`start` and of `ordered` each that helps a test which nothing before it does."""
    chosen = list(start)
    helped = {test for one in chosen for test in one.fixed | one.moved}
    for one in ordered:
        if (one.fixed or one.moved) - helped and _fits(chosen, one) and not one.fixed & helped:
            chosen.append(one)
            helped |= one.fixed | one.moved
    return chosen


def _is_rival(one: Found, other: Found) -> bool:
    """Whether `other` repairs what `one` does by another edit, not by another form of the same."""
    same = (one.candidate.kind, one.candidate.line) == (other.candidate.kind, other.candidate.line)
    return other is not one and other.fixed == one.fixed and not same


def _fits(chosen: Sequence[Found], other: Found) -> bool:
    return all(composed(one.candidate, other.candidate) is not None for one in chosen)
