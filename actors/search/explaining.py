"""A repair in words: what was changed, why there, which tests it repairs, and how much to trust it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.search.board import Found, Goal

Lines = Mapping[str, Mapping[str, Sequence[int]]]
#: Plausibility from which edits are such as people mean, and below which they may only fit the tests.
HIGH, LOW = 0.5, 0.12
_NAMED = 3


def explained(found: Found, lines: Lines, goal: Goal, repaired: Sequence[str], plausibility: float) -> str:
    """The find's own words, with the reasons for its place and its worth in parentheses.

    Args:
        lines: Per test and file the lines executed on the tree that the find changes.
        repaired: All tests that pass by now and did not at first.
        plausibility: Of all edits made so far, in (0, 1].
    """
    reasons = [_place(found, lines, goal), _tests(repaired), f"confidence {confidence(plausibility)}"]
    return f"{found.candidate.explanation} ({', '.join(reason for reason in reasons if reason)})"


def confidence(plausibility: float) -> str:
    """In words, with the reason where it is low."""
    if plausibility < LOW:
        return "low: it may fit the tests only"
    return "high" if plausibility >= HIGH else "medium"


def _place(found: Found, lines: Lines, goal: Goal) -> str:
    path, line = found.candidate.edits[0].path, found.candidate.line
    running = {test for test, files in lines.items() if line in files.get(path, ())}
    failed = len(running & set(goal.failing))
    if not failed:
        return ""
    others = len(running - set(goal.failing))
    return f"run by {failed} of {len(goal.failing)} failing tests and {others} others"


def _tests(repaired: Sequence[str]) -> str:
    names = [test.rpartition("::")[2] for test in repaired]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"repairs {' and '.join(names[:_NAMED])}{more}" if names else ""
