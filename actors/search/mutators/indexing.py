"""Ranges, indexes and slices: bounds off by one, missing or too many, lookups of missing keys."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from actors.search import precedence
from actors.search.mutators.site import Change, Site
from actors.search.mutators.values import called_name


def ranges(site: Site) -> Iterator[Change]:
    """Bounds and steps of `range`."""
    node = site.node
    if not isinstance(node, ast.Call) or called_name(node) != "range" or node.keywords:
        return
    texts = [site.text(argument) for argument in node.args]
    options: dict[str, float] = {}
    if len(texts) == 1:
        (stop,) = texts
        options = {
            f"1, {stop}": 0.6,
            f"1, {stop} + 1": 0.6,
            f"2, {stop}": 0.3,
            f"0, {stop}, 2": 0.25,
            f"2, {stop} + 1": 0.25,
            f"{stop}, 0, -1": 0.15,
            f"{stop} - 1, -1, -1": 0.3,
            f"1, {stop}, 2": 0.1,
            f"len({stop})": 0.3,
        }
    elif len(texts) == 2:
        start, stop = texts
        options = {
            stop: 0.5,
            f"{start}, {stop}, 2": 0.25,
            f"{start}, {stop}, -1": 0.3,
            f"{stop}, {start}, -1": 0.2,
            f"{start}, len({stop})": 0.1,
        }
        if start == "0":
            options[f"1, {stop}"] = 0.5
        options.update({f"{start} - 1, {stop} - 1": 0.1, f"{start} + 1, {stop} + 1": 0.2})
        options.update({f"{start}, {stop}, {name}": 0.2 for name in site.parameters()})
    elif len(texts) == 3:
        start, stop, step = texts
        options = {f"{start}, {stop}": 0.4, f"{start}, {stop}, -{step}": 0.3}
    for text, weight in options.items():
        start_at, end_at = site.source.span(node.args[0])[0], site.source.span(node.args[-1])[1]
        yield Change(spans=((start_at, end_at, text),), weight=weight, kind="range", why=f"range({text})")


def subscripts(site: Site) -> Iterator[Change]:
    """Indexes and slice bounds off by one, missing or too many; `.get` for a key."""
    node = site.node
    if not isinstance(node, ast.Subscript):
        return
    value = site.wrapped(node.value, precedence.ATOM)
    if isinstance(node.slice, ast.Slice):
        for text, weight in _slices(site, node.slice).items():
            yield Change(
                spans=(site.put(node, f"{value}[{text}]"),),
                weight=weight,
                kind="slice",
                why=f"slice `[{text}]`",
            )
    elif isinstance(node.ctx, ast.Load):
        key = site.text(node.slice)
        swapped = {"0": "-1", "-1": "0", "1": "0"}.get(key)
        options = {swapped: 0.5} if swapped else {}
        for text, weight in options.items():
            yield Change(
                spans=(site.put(node, f"{value}[{text}]"),), weight=weight, kind="index", why=f"index {text}"
            )
        lookups = {
            f"{value}.get({key}, 0)": 0.3,
            f"{value}.get({key})": 0.4 if isinstance(site.source.parent(node), ast.Compare) else 0.25,
            f"{value}.get({key}, [])": 0.1,
            f'{value}.get({key}, "")': 0.15,
        }
        missing = any(kind == "KeyError" for kind, _ in site.evidence.errors)
        if site.may_be(node.value, "dict", "defaultdict", "Counter", "OrderedDict"):
            for text, weight in lookups.items():
                yield Change(
                    spans=(site.put(node, text),),
                    weight=weight * (2.5 if missing else 0.5),
                    kind="lookup",
                    why="a key may be missing",
                )
        yield Change(
            spans=(site.put(node, site.text(node.value)),),
            weight=0.2,
            kind="drop index",
            why="without the index",
        )


def _slices(site: Site, node: ast.Slice) -> dict[str, float]:
    lower, upper, step = (site.text(part) if part else "" for part in (node.lower, node.upper, node.step))
    tail = f":{step}" if step else ""
    options = {**_lower_bounds(lower, upper, tail), **_upper_bounds(lower, upper, tail)}
    if step:
        options.update({f"{lower}:{upper}": 0.35, f"{lower}:{upper}:-{step}": 0.1})
    else:
        options.update({f"{lower}:{upper}:-1": 0.35, f"{lower}:{upper}:2": 0.25})
    if lower and upper:
        options.update({f"{lower}:{lower} + {upper}": 0.4, f"{upper}:{lower}": 0.2})
    for name in site.visible()[:8]:
        if "int" in (site.types(name) or ("int",)):
            for text, missing in ((f"{name}:{upper}{tail}", lower), (f"{lower}:{name}{tail}", upper)):
                options.update({} if missing else {text: 0.25})
            options.update({} if step else {f"{lower}:{upper}:{name}": 0.2})
    options.pop(f"{lower}:{upper}{tail}", None)
    return options


def _lower_bounds(lower: str, upper: str, tail: str) -> dict[str, float]:
    if lower:
        return {f":{upper}{tail}": 0.4}
    return {f"1:{upper}{tail}": 0.45, f"2:{upper}{tail}": 0.1}


def _upper_bounds(lower: str, upper: str, tail: str) -> dict[str, float]:
    if upper:
        return {f"{lower}:{tail}": 0.4, f"{upper}:{tail}": 0.1 if lower else 0.4}
    return {f"{lower}:-1{tail}": 0.45, **({f":{lower}{tail}": 0.45} if lower else {})}


ALL = (
    ranges,
    subscripts,
)
