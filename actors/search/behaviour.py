"""Inputs near those of the tests, and which of several plausible repairs most others agree with on them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from actors.search.board import Found
from actors.search.source import Function, Source

_MAX_INPUTS = 40


def function_edited(source: Source, found: Sequence[Found]) -> str | None:
    """The one top-level function that all of `found` edit, None where they do not share one."""
    names = set()
    for one in found:
        for edit in one.candidate.edits:
            if edit.path != source.path or source.tree is None:
                return None
            inside = [
                node.name
                for node in source.tree.body
                if isinstance(node, Function)
                and source.span(node)[0] <= edit.start <= source.span(node)[1] + 1
            ]
            names.add(inside[0] if inside else None)
    return names.pop() if len(names) == 1 else None


def near(calls: Sequence[Sequence[str]]) -> list[list[str]]:
    """Calls like `calls`, each with one argument changed; the same for the same calls."""
    found: dict[tuple[str, ...], None] = {}
    for call in calls:
        values = [ast.literal_eval(argument) for argument in call]
        for place, value in enumerate(values):
            for other in _variants(value):
                found.setdefault((*call[:place], repr(other), *call[place + 1 :]))
    known = {tuple(call) for call in calls}
    fresh = [list(call) for call in found if call not in known]
    step = max(1, len(fresh) // _MAX_INPUTS)
    return fresh[::step][:_MAX_INPUTS]


def agreed(found: Sequence[Found], vectors: Sequence[Sequence[str]]) -> list[Found]:
    """`found` with those first whose behaviour has most support: by the best of them and by all."""
    groups: dict[tuple[str, ...], dict[tuple[str, int], float]] = {}
    for one, vector in zip(found, vectors, strict=True):
        # Several forms of one operator at one line are one opinion.
        opinions = groups.setdefault(tuple(vector), {})
        opinion = (one.candidate.kind, one.candidate.line)
        opinions[opinion] = max(opinions.get(opinion, 0.0), one.merit[1])
    support = {vector: (max(some.values()) + sum(some.values())) / 2 for vector, some in groups.items()}

    def order(pair: tuple[Found, Sequence[str]]) -> tuple[float, float]:
        one, vector = pair
        return -(support[tuple(vector)] if vector else one.merit[1]), -one.merit[1]

    return [one for one, _ in sorted(zip(found, vectors, strict=True), key=order)]


def _variants(value: Any) -> Iterator[Any]:
    if isinstance(value, bool) or value is None:
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, -value, 0, value * 2 + 1)
    elif isinstance(value, float):
        yield from (value + 1, -value, value / 2)
    elif isinstance(value, str):
        yield from (value[1:], value[::-1], value + value[:1], value.upper(), f" {value}", "")
    elif isinstance(value, list | tuple):
        kind = type(value)
        yield from (value[1:], value[:-1], value[::-1], kind([*value, *value[:1]]))
        for other in _variants(value[-1]) if value else ():
            yield kind([*value[:-1], other])
    elif isinstance(value, dict):
        for key in list(value)[:2]:
            yield {other: item for other, item in value.items() if other != key}
            yield from ({**value, key: other} for other in _variants(value[key]))
