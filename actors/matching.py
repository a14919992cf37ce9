"""Finds the lines that an edit means in a file, in steps from exact to tolerant; never by likeness.

Each step either finds one place, or finds several and refuses, or finds none and leaves it to the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from orchestrator.errors import AgentError

# So many places are looked at closely; text that stands in more of them is ambiguous anyway.
_PLACES = 50
# Lines that are compared by likeness, for showing only, and how long they may be.
_COMPARED = 3000
_COMPARABLE = 200
_STRAIGHT = str.maketrans(
    {
        **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
        **dict.fromkeys("\u2018\u2019\u201a\u201b", "'"),
        **dict.fromkeys("\u00a0\u2007\u202f", " "),
        **dict.fromkeys("\u2010\u2011\u2212", "-"),
    }
)
Lines = Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Lines `start` to `end` (exclusive, from 0) of a file, and what is to stand there."""

    start: int
    end: int
    replace: tuple[str, ...]
    exact: bool = False


class NoMatch(AgentError):
    """The lines stand nowhere in the file, or in several places.

    Attributes:
        lines: Where they stand, from 1; empty for nowhere.
    """

    def __init__(self, message: str, next_move: str, lines: tuple[int, ...] = ()) -> None:
        super().__init__(message, next_move)
        self.args = (message, next_move, lines)
        self.lines = lines


def straight(text: str) -> str:
    """`text` with plain quotes, blanks and dashes for the typographic ones."""
    return text.translate(_STRAIGHT)


def locate(file: Lines, search: Lines, replace: Lines, line: int | None = None) -> Place:
    """The one place in `file` that `search` means, and `replace` as it has to stand there.

    Args:
        file: All lines, without line ends.
        search: At least one that is not blank.
        replace: Any number.
        line: Settles between several exact places when one of them begins there, from 1.

    Raises:
        NoMatch: There is no such place or more than one.
    """
    for step in (
        _exact,
        _without_blank_edges,
        _trailing,
        _straightened,
        _shifted,
        _first_stripped,
        _spaced,
        _retabbed,
    ):
        places = _distinct(step(file, search, replace))
        if line is not None and step is _exact and len(places) > 1:
            places = [place for place in places if place.start == line - 1] or places
        if len(places) == 1:
            return places[0]
        if places:
            at = tuple(sorted({place.start + 1 for place in places}))
            where = ", ".join(map(str, at[:10]))
            raise NoMatch(
                f"its SEARCH text stands {_times(len(at))} in the file, at lines {where}",
                "search for more lines around the one place that you mean",
                at,
            )
    raise NoMatch(
        "its SEARCH text stands nowhere in the file",
        "copy the lines exactly as they are in the file now",
    )


def nearest(file: Lines, search: Lines, around: int = 5, most: int = 60) -> tuple[int, list[str]]:
    """The part of `file` that is most like `search`: its first line from 1, its lines; none if nothing is."""
    wanted = {each.strip() for each in search} - {""}
    hits = [each.strip() in wanted for each in file]
    size = max(1, min(len(search), most))
    count = best = sum(hits[:size])
    start = 0
    for first in range(1, max(1, len(file) - size + 1)):
        count += hits[first + size - 1] - hits[first - 1]
        if count > best:
            best, start = count, first
    if not best:
        likely = _likely(file, search)
        if likely is None:
            return 0, []
        start = likely
    begin = max(0, start - around)
    return begin + 1, list(file[begin : min(len(file), start + size + around)])


def _likely(file: Lines, search: Lines) -> int | None:
    """The line of `file` most like the longest of `search`."""
    longest = max((line.strip() for line in search), key=len, default="")
    lines = {line.strip(): number for number, line in reversed(list(enumerate(file[:_COMPARED])))}
    if not longest or len(longest) > _COMPARABLE:
        return None
    found = get_close_matches(longest, [line for line in lines if len(line) <= _COMPARABLE], n=1)
    return lines[found[0]] if found else None


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"


def _distinct(places: Iterator[Place]) -> list[Place]:
    found: dict[tuple[int, int, tuple[str, ...]], Place] = {}
    for place in places:
        found.setdefault((place.start, place.end, place.replace), place)
    return list(found.values())


def _places(file: Lines, search: Lines) -> Iterator[int]:
    """Where the lines `search` stand in `file`, the first `_PLACES` of them."""
    # A character that no line holds; `str.find` is linear whatever the lines are.
    hay, needle = "\n" + "\n".join(file) + "\n", "\n" + "\n".join(search) + "\n"
    at, line, counted = hay.find(needle), 0, 0
    for _ in range(_PLACES):
        if at < 0:
            return
        line += hay.count("\n", counted, at)
        counted = at
        yield line
        at = hay.find(needle, at + 1)


def _exact(file: Lines, search: Lines, replace: Lines) -> Iterator[Place]:
    for start in _places(file, search):
        yield Place(start=start, end=start + len(search), replace=tuple(replace), exact=True)


def _trimmed(lines: Lines) -> Lines:
    """`lines` without blank ones before and after."""
    filled = [number for number, line in enumerate(lines) if line.strip()]
    return lines[filled[0] : filled[-1] + 1] if filled else ()


def _without_blank_edges(file: Lines, search: Lines, replace: Lines) -> Iterator[Place]:
    # The blank lines around both texts are ornament; where they are not, `search` matched before.
    yield from _exact(file, _trimmed(search), _trimmed(replace))


def _mapped(file: Lines, search: Lines, replace: Lines, change: Callable[[str], str]) -> Iterator[Place]:
    """Places where the lines are the same after `change`; lines that stay are taken from the file."""
    search, replace = _trimmed(search), _trimmed(replace)
    wanted = [change(line) for line in search]
    for start in _places([change(line) for line in file], wanted):
        own = dict(zip(wanted, file[start : start + len(search)], strict=True))
        yield Place(
            start=start,
            end=start + len(search),
            replace=tuple(own.get(change(line), change(line)) for line in replace),
        )


def _trailing(file: Lines, search: Lines, replace: Lines) -> Iterator[Place]:
    return _mapped(file, search, replace, str.rstrip)


def _straightened(file: Lines, search: Lines, replace: Lines) -> Iterator[Place]:
    return _mapped(file, search, replace, lambda line: straight(line).rstrip())


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _common(lines: Lines) -> str:
    """The indentation that all filled lines share."""
    indents = [_indent(line) for line in lines if line.strip()]
    if not indents:
        return ""
    low, high = min(indents), max(indents)
    same = next(
        (n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )
    return low[:same]


def _moved(lines: Lines, old: str, new: str) -> tuple[str, ...]:
    """`lines` with the indentation `old`, which all of them have, exchanged for `new`."""
    return tuple(new + line[len(old) :] if line.strip() else "" for line in lines)


def _plain(lines: Lines) -> list[str]:
    return [straight(line).rstrip() for line in lines]


def _shifted(file: Lines, search: Lines, replace: Lines) -> Iterator[Place]:
    """Places where the lines stand further in or out, all by as much."""
    wanted, given = _plain(_trimmed(search)), _plain(_trimmed(replace))
    plain = _plain(file)
    for start in _places([line.lstrip() for line in plain], [line.lstrip() for line in wanted]):
        window = plain[start : start + len(wanted)]
        old, new = _common(wanted), _common(window)
        if _moved(wanted, old, new) != tuple(line if line.strip() else "" for line in window):
            continue
        moved = _follow(given, old, new)
        if moved is not None:
            own = dict(zip(window, file[start : start + len(wanted)], strict=True))
            yield Place(
                start=start, end=start + len(wanted), replace=tuple(own.get(line, line) for line in moved)
            )


def _follow(given: Lines, old: str, new: str) -> tuple[str, ...] | None:
    """The new lines moved as the old ones were; as they are, where they stand right already; else None."""
    if not given:
        return ()
    have = _common(given)
    if have == old:
        moved = _moved(given, old, new)
        # Tabs behind blanks, or the reverse, are another way of indenting: `_retabbed` knows it.
        return None if old != new and any(len(set(_indent(line))) > 1 for line in moved) else moved
    if have == new:
        return tuple(given)
    return None


def _first_stripped(file: Lines, search: Lines, replace: Lines) -> Iterator[Place]:
    """Places where only the first line has lost its indentation."""
    wanted, given = _plain(_trimmed(search)), _plain(_trimmed(replace))
    if len(wanted) < 2 or not given or _indent(wanted[0]) != _indent(given[0]):
        return
    plain = _plain(file)
    for start in _places([line.lstrip() for line in plain], [line.lstrip() for line in wanted]):
        window = plain[start : start + len(wanted)]
        if window[1:] == wanted[1:] and window[0].endswith(wanted[0]):
            missing = _indent(window[0])
            yield Place(
                start=start,
                end=start + len(wanted),
                replace=(missing + given[0].lstrip(), *given[1:]),
            )


def _spaced(file: Lines, search: Lines, replace: Lines) -> Iterator[Place]:
    """Places where the lines are the same but for blank lines between them."""
    numbers = [number for number, line in enumerate(file) if line.strip()]
    filled = [line for line in search if line.strip()]
    for step in (_trailing, _straightened, _shifted):
        found = False
        for place in step([file[number] for number in numbers], filled, replace):
            found = True
            yield Place(start=numbers[place.start], end=numbers[place.end - 1] + 1, replace=place.replace)
        if found:
            return


def _retabbed(file: Lines, search: Lines, replace: Lines) -> Iterator[Place]:
    """Places where the lines are indented with other blanks, level for level."""
    theirs, ours = _unit([*search, "", *replace]), _unit(file)
    if theirs == ours:
        return
    wanted, given = _reindented(search, theirs, ours), _reindented(replace, theirs, ours)
    if wanted is not None and given is not None:
        yield from _shifted(file, wanted, given)


def _unit(lines: Lines) -> str:
    """What one level of indentation is: a tab, or the commonest step inwards in blanks."""
    steps: Counter[int] = Counter()
    before = None
    for line in lines:
        indent = _indent(line)
        if indent.startswith("\t"):
            return "\t"
        if line.strip():
            if before is not None and 1 < len(indent) - before <= 8:
                steps[len(indent) - before] += 1
            before = len(indent)
    return " " * (steps.most_common(1)[0][0] if steps else 4)


def _reindented(lines: Lines, theirs: str, ours: str) -> list[str] | None:
    """`lines` with `ours` for each `theirs` of indentation; None where that does not come out even."""
    moved = []
    for line in lines:
        indent = _indent(line)
        depth, rest = divmod(len(indent), len(theirs))
        if line.strip() and (rest or theirs * depth != indent):
            return None
        moved.append(ours * depth + line[len(indent) :])
    return moved
