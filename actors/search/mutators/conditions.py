"""Conditions and results that a forgotten guard or case may consist of, from names and constants in reach."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import permutations
from typing import Any
from weakref import WeakKeyDictionary

from actors.search.inside.text import replaced
from actors.search.mutators.site import Site
from actors.search.mutators.values import file_constants
from actors.search.source import Source

_MAX = 60
_MAX_JUDGED = 240
#: Of a truth value where only others are expected.
UNWANTED = 0.1
_KNOWN: WeakKeyDictionary[Source, dict[Any, list[tuple[str, float]]]] = WeakKeyDictionary()
_COMMON = frozenset(("None", "False", "True", "0", "[]", "''", '""', "-1", "1", "{}", "0.0"))


def conditions(site: Site) -> list[tuple[str, float]]:
    """Conditions over the names visible here with a weight in (0, 1], most plausible first."""
    key = (site.function, tuple(site.visible()), site.snapshots is None)
    known = _KNOWN.setdefault(site.source, {})
    if key not in known:
        known[key] = _conditions(site)
    return known[key]


def _conditions(site: Site) -> list[tuple[str, float]]:
    found: dict[str, float] = {}
    held = site.held()
    names = [*site.visible()[:10], *held[:6]]
    for name in names:
        for text, weight in _of_one(site, name):
            found[text] = max(found.get(text, 0.0), weight)
    names = [*site.visible()[:8], *held[:5]]
    for one in names:
        for other in names:
            if one != other:
                for text, weight in _of_two(site, one, other):
                    found[text] = max(found.get(text, 0.0), weight)
    for text in _elsewhere(site):
        found[text] = max(found.get(text, 0.0), 0.5)
    if "self" in ([argument.arg for argument in site.function.args.args] if site.function else []):
        for attribute in site.attributes()[:8]:
            found.setdefault(f"not self.{attribute}", 0.3)
            found.setdefault(f"self.{attribute}", 0.2)
            for name in site.parameters():
                found.setdefault(f"{name} in self.{attribute}", 0.4)
                found.setdefault(f"{name} not in self.{attribute}", 0.4)
                found.setdefault(f"{name} > self.{attribute}", 0.3)
                found.setdefault(f"{name} == self.{attribute}", 0.2)
    # Where values were noted the useless ones are sifted out, so there may be more of them.
    most = _MAX if site.snapshots is None else _MAX_JUDGED
    return sorted(found.items(), key=lambda item: -item[1])[:most]


def results(site: Site) -> Iterator[tuple[str, float]]:
    """What an early exit may do: raise what the tests expect, return a constant or a name."""
    for kind in site.evidence.raises:
        yield f'raise {kind}("{_complaint(site)}")', 1.0
    expected = 0.4 if site.evidence.raises else 1.0
    returned = _returned_here(site)
    pool: dict[str, float] = {}
    for rank, text in enumerate(site.evidence.constants[:10]):
        pool[text] = 0.5 / (1 + 0.2 * rank)
    for text in ("None", "False", "True", "0", "[]", '""', "-1", "1", "{}", "0.0"):
        pool[text] = max(pool.get(text, 0.0), 0.4)
    for text in returned:
        pool[text] = max(pool.get(text, 0.0), 0.8)
    for name in site.parameters():
        pool.setdefault(name, 0.35)
    kinds = {kind for kind in map(_kind_of, returned) if kind}
    for text, weight in sorted(pool.items(), key=lambda item: -item[1]):
        kind = _kind_of(text)
        factor = 1.2 if kind and kind in kinds else 0.5 if kind and kinds else 1.0
        factor *= UNWANTED if "bool" not in kinds and site.evidence.is_unwanted(text) else 1.0
        yield f"return {text}", min(1.0, weight * factor * expected)


def fits(site: Site, outcome: str) -> bool:
    """Whether a result is a value of the tests' own that the file does not know: fitted, not understood."""
    value = outcome.removeprefix("return ")
    return value in site.evidence.constants and value not in _COMMON and value not in file_constants(site)


def _of_one(site: Site, name: str) -> Iterator[tuple[str, float]]:
    kinds = set(site.types(name))
    if kinds & {"str", "list", "dict", "set", "tuple", "NoneType"} or not kinds:
        yield f"not {name}", 0.8
        yield name, 0.3
    if "NoneType" in kinds or not kinds:
        yield f"{name} is None", 0.8
        yield f"{name} is not None", 0.4
    if kinds & {"int", "float"} or not kinds:
        scale = 1.0 if kinds else 0.5
        for text, weight in (
            (f"{name} < 0", 0.7),
            (f"{name} <= 0", 0.6),
            (f"{name} == 0", 0.75),
            (f"{name} < 2", 0.55),
            (f"{name} == 1", 0.5),
            (f"{name} > 0", 0.5),
            (f"{name} <= 1", 0.45),
            (f"{name} != 0", 0.35),
            (f"{name} % 2 == 0", 0.4),
            (f"{name} % 2 == 1", 0.35),
            (f"{name} > 1", 0.3),
            (f"{name} >= 0", 0.3),
        ):
            yield text, weight * scale
        for rank, text in enumerate(_numbers(site)[:6]):
            for symbol in ("==", ">", "<", ">=", "<="):
                yield f"{name} {symbol} {text}", 0.25 * scale / (1 + 0.2 * rank)
    if kinds & {"bool"}:
        yield name, 0.6
        yield f"not {name}", 0.6
    if kinds & {"str"}:
        for text, weight in (
            (f"{name}.isdigit()", 0.3),
            (f"{name}.isalpha()", 0.35),
            (f'{name} == " "', 0.2),
            (f'{name} != " "', 0.25),
            (f"{name}.isupper()", 0.2),
            (f"{name}.islower()", 0.15),
            (f"not {name}.strip()", 0.3),
            (f"{name}.isspace()", 0.15),
        ):
            yield text, weight
        for rank, text in enumerate(_texts(site)[:6]):
            yield f"{name} == {text}", 0.25 / (1 + 0.2 * rank)
            yield f"{name} != {text}", 0.25 / (1 + 0.2 * rank)
    if kinds & {"list", "str", "dict", "set", "tuple"}:
        yield f"len({name}) == 1", 0.35
        yield f"len({name}) < 2", 0.35
        yield f"len({name}) > 1", 0.3
        yield f"len({name}) > 0", 0.15
        yield f"len({name}) == 0", 0.2


def _of_two(site: Site, one: str, other: str) -> Iterator[tuple[str, float]]:
    first, second = set(site.types(one)), set(site.types(other))
    numbers = {"int", "float"}
    if first & numbers and second & numbers:
        for symbol, weight in (("<", 0.5), (">", 0.5), ("==", 0.45), ("!=", 0.45), ("<=", 0.4), (">=", 0.4)):
            yield f"{one} {symbol} {other}", weight
        yield f"{one} % {other} == 0", 0.25
        yield f"{one} % {other} != 0", 0.1
    elif first & second or not (first and second):
        yield f"{one} == {other}", 0.35 if first & second else 0.15
        yield f"{one} != {other}", 0.4 if first & second else 0.15
        yield f"len({one}) != len({other})", 0.25 if first & {"list", "str", "tuple"} else 0.02
    if second & {"list", "set", "dict", "str", "tuple", "defaultdict", "Counter"} and not first & {
        "list",
        "dict",
        "set",
    }:
        yield f"{one} in {other}", 0.45
        yield f"{one} not in {other}", 0.5
    if first & {"int"} and second & {"list", "str", "tuple"}:
        yield f"{one} >= len({other})", 0.3
        yield f"{one} < len({other})", 0.35
        yield f"{one} < len({other}) - 1", 0.2


def _elsewhere(site: Site) -> list[str]:
    bound = {*site.visible(), "self"}
    found: dict[str, None] = {}
    for node in ast.walk(site.function) if site.function else ():
        if isinstance(node, ast.Compare | ast.Call) and isinstance(node, ast.Compare):
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            if names <= bound | {"len", "abs", "isinstance", "int", "str", "sum", "min", "max"}:
                text = " ".join(site.text(node).split())
                if len(text) < 60:
                    found.setdefault(text)
                    found.update(dict.fromkeys(_permuted(site, node)))
    return list(found)[:12]


def _permuted(site: Site, node: ast.Compare) -> list[str]:
    """The comparison with its three names in other places: what holds for one often has to hold for each."""
    text = site.text(node)
    start = site.source.span(node)[0]
    places = [(part.id, *site.source.span(part)) for part in ast.walk(node) if isinstance(part, ast.Name)]
    names = sorted({name for name, _, _ in places if name in site.parameters()})
    if len(names) != 3:
        return []
    found = []
    for order in permutations(names):
        other = dict(zip(names, order, strict=True))
        spans = [(a - start, b - start, other.get(name, name)) for name, a, b in places]
        found.append(replaced(text, spans))
    return found


def _returned_here(site: Site) -> list[str]:
    found: dict[str, None] = {}
    for node in ast.walk(site.function) if site.function else ():
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant):
            found.setdefault(site.text(node.value))
        elif (
            isinstance(node, ast.Return)
            and isinstance(node.value, ast.Name)
            and node.value.id in site.visible()
        ):
            found.setdefault(node.value.id)
    return list(found)


def _kind_of(text: str) -> str:
    try:
        return type(ast.literal_eval(text)).__name__
    except (ValueError, SyntaxError):
        return ""


def _numbers(site: Site) -> list[str]:
    return [text for text in site.evidence.constants if _kind_of(text) in ("int", "float") and len(text) < 8]


def _texts(site: Site) -> list[str]:
    return [text for text in site.evidence.constants if _kind_of(text) == "str" and len(text) < 20]


def _complaint(site: Site) -> str:
    for node in ast.walk(site.function) if site.function else ():
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            message = node.exc.args[0]
            if (
                isinstance(message, ast.Constant)
                and isinstance(message.value, str)
                and '"' not in message.value
            ):
                return message.value
    return f"invalid argument to {site.function.name}" if site.function else "invalid value"
