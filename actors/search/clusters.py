"""Failing tests that run the same functions, so that each fault is looked for where its own tests come by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.search.source import Source

Lines = Mapping[str, Mapping[str, Sequence[int]]]
_MAX_CLUSTERS = 6


def clusters(sources: Mapping[str, Source], lines: Lines, failing: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of `failing`, those that run the fewest functions first; every test is in exactly one.

    Args:
        lines: Per test and file the lines executed; tests that are not in it form a group of their own.
    """
    groups: dict[frozenset[tuple[str, int]], list[str]] = {}
    for test in failing:
        groups.setdefault(_functions(sources, lines.get(test, {})), []).append(test)
    while len(groups) > _MAX_CLUSTERS:
        _merge_closest(groups)
    return [tuple(tests) for _, tests in sorted(groups.items(), key=lambda item: len(item[0]))]


def _functions(
    sources: Mapping[str, Source], lines: Mapping[str, Sequence[int]]
) -> frozenset[tuple[str, int]]:
    """Functions executed, each as its file and first line."""
    found: set[tuple[str, int]] = set()
    for path, numbers in lines.items():
        if path in sources:
            owners = sources[path].owners
            found |= {(path, owners[number]) for number in numbers if number in owners}
    return frozenset(found)


def _merge_closest(groups: dict[frozenset[tuple[str, int]], list[str]]) -> None:
    """Join the two groups that share the largest part of their functions."""
    keys = list(groups)
    pairs = [(one, other) for place, one in enumerate(keys) for other in keys[place + 1 :]]
    one, other = max(pairs, key=lambda pair: len(pair[0] & pair[1]) / max(1, len(pair[0] | pair[1])))
    joined = groups.pop(one) + groups.pop(other)
    groups.setdefault(one | other, []).extend(joined)
