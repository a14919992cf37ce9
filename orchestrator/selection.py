"""Which of several candidates is to be judged, and in which order. What their tests show decides after that.

Equal ones, whatever their comments and layout, are judged once and count as votes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import replace

from orchestrator.patch import Changes, unified_diff
from orchestrator.steps import Improvement
from orchestrator.tree import File, Tree

# Longer Python is compared as text.
_LONGEST = 200_000
Normalised = frozenset[tuple[str, str | None]]


def in_order(base: Tree, candidates: Iterable[Improvement]) -> list[Improvement]:
    """Untested candidates as they are to be judged: the smaller diff first, then the one with more votes.

    The first that is certified wins, so that of all that pass the smallest does.
    """
    kept = distinct(base, candidates, smallest=True)
    return sorted(kept, key=lambda each: (diff_lines(base, each.changes), -each.votes))


def distinct(base: Tree, candidates: Iterable[Improvement], *, smallest: bool = False) -> list[Improvement]:
    """The candidates in their order, each once and with all votes for it.

    Args:
        base: What all their changes are relative to.
        smallest: Of equal ones the smallest diff stands for them, else the first.
    """
    found: dict[Normalised, list[Improvement]] = {}
    for each in candidates:
        found.setdefault(normalised(base, each.changes), []).append(each)
    return [_voted(base, equal, smallest=smallest) for equal in found.values()]


def _voted(base: Tree, equal: Sequence[Improvement], *, smallest: bool) -> Improvement:
    chosen = min(equal, key=lambda each: diff_lines(base, each.changes)) if smallest else equal[0]
    return replace(chosen, votes=sum(each.votes for each in equal))


def normalised(base: Tree, changes: Changes) -> Normalised:
    """What the changes come to: Python without comments and layout, other text without blanks at ends."""
    return frozenset(
        (path, new)
        for path, file in changes.items()
        if (new := _form(path, file)) != _form(path, base.files.get(path))
    )


def diff_lines(base: Tree, changes: Changes) -> int:
    """Lines that the changes add and take away."""
    lines = unified_diff(base, changes).split("\n")
    return sum(line[:1] in ("+", "-") and line[:3] not in ("+++", "---") for line in lines)


def _form(path: str, file: File | None) -> str | None:
    if file is None:
        return None
    text = file.content.decode("utf-8", "surrogateescape")
    form = _python(text) if path.endswith(".py") and len(text) <= _LONGEST else None
    if form is None:
        form = "\n".join(line.rstrip() for line in text.rstrip().splitlines())
    return f"{file.mode} {form}"


def _python(text: str) -> str | None:
    try:
        return ast.dump(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
