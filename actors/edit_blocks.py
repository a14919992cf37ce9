"""Reads one SEARCH/REPLACE block, with the markers that models make of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from actors.paths import LINE

_BEGINS = re.compile(
    r"^\s{0,12}(?:<{4,9}|-{6,9}) ?(?:SEARCH|ORIGINAL|OLD|FIND|BEFORE|HEAD|CURRENT)\b"
    r"[ :>`*]*(?P<path>[^<>]*?)\s*$",
    re.IGNORECASE,
)
_DIVIDES = re.compile(r"^\s{0,12}={5,9}\s*$")
# What stands between two halves that have a frame each.
_HALF = re.compile(
    r"^\s{0,12}(?:>{4,9} ?(?:SEARCH|ORIGINAL|OLD|FIND)|<{4,9} ?(?:REPLACE|UPDATED|NEW))\b:?\s*$",
    re.IGNORECASE,
)
_ENDS = re.compile(
    r"^\s{0,12}(?:>{4,9} ?(?:(?:REPLACE|UPDATED?|NEW|END|AFTER|MODIFIED|SEARCH)\b.{0,60})?|\+{6,9} ?REPLACE"
    r"|<{4,9} ?REPLACE|>{7} \S{1,60})\s*$",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^\s*(?:`{3,}|~{3,})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """A block's two texts, or why it has none; `after` is the line behind it, `named` a path in it."""

    search: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    broken: str = ""
    after: int
    named: str = ""


def begins(line: str) -> re.Match[str] | None:
    """Whether a block begins in `line`."""
    return _BEGINS.match(line) if len(line) <= LINE and ("<<<<" in line or "------" in line) else None


def read_edit(lines: Sequence[str], at: int) -> Halves:
    """The block whose first marker is line `at`."""
    first = begins(lines[at])
    named = first["path"].strip("`* ") if first else ""
    # First and last line of each.
    dividers: list[tuple[int, int]] = []
    resume = None
    for number in range(at + 1, len(lines)):
        line = lines[number]
        if len(line) > LINE:
            continue
        if begins(line):
            return Halves(
                broken="a block begins before the one before it has ended", after=number, named=named
            )
        if _DIVIDES.match(line) or (_HALF.match(line) and not dividers):
            dividers.append((number, number))
        elif _HALF.match(line) and number == _next_filled(lines, dividers[-1][1]):
            dividers[-1] = (dividers[-1][0], number)
        elif dividers and _ENDS.match(line):
            return _halves(lines, at, dividers, number, named)
        elif _ENDS.match(line):
            return Halves(
                broken="it has no line ======= between its two texts", after=number + 1, named=named
            )
        elif resume is None and dividers and _FENCE.match(line):
            resume = number
    return Halves(broken="it has no line >>>>>>> REPLACE at its end", after=resume or len(lines), named=named)


def _next_filled(lines: Sequence[str], at: int) -> int:
    return next((n for n in range(at + 1, min(at + 4, len(lines))) if lines[n].strip()), at)


def _halves(lines: Sequence[str], at: int, dividers: list[tuple[int, int]], end: int, named: str) -> Halves:
    if len(dividers) > 1:
        seven = [each for each in dividers if lines[each[0]].strip() == "======="]
        dividers = seven if len(seven) == 1 else dividers
    if len(dividers) > 1:
        return Halves(broken="it has more than one line =======", after=end + 1, named=named)
    search, replace = list(lines[at + 1 : dividers[0][0]]), list(lines[dividers[0][1] + 1 : end])
    if _is_fenced(search) and (_is_fenced(replace) or not replace):
        search, replace = search[1:-1], replace[1:-1]
    return Halves(search=tuple(search), replace=tuple(replace), after=end + 1, named=named)


def _is_fenced(lines: Sequence[str]) -> bool:
    return len(lines) > 1 and bool(_FENCE.match(lines[0])) and lines[-1].strip() in ("```", "~~~")
