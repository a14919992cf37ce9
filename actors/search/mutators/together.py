"""The same mistake made several times in one function or class: every like place changed in one edit."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from itertools import pairwise
from weakref import WeakKeyDictionary

from actors.search.mutators import calls, constants, indexing, literals, names, operators
from actors.search.mutators.site import Change, Evidence, Site, children_of
from actors.search.mutators.values import in_f_string
from actors.search.source import Function, Source

#: Operators whose words say what becomes what, each with how much less plausible all places are than one.
_LIKE: tuple[tuple[Callable[[Site], Iterator[Change]], float], ...] = (
    (operators.comparisons, 0.8),
    (operators.arithmetic, 0.7),
    (operators.augmented, 0.5),
    (operators.booleans, 0.5),
    (calls.functions, 0.7),
    (indexing.subscripts, 0.6),
    (names.attributes, 0.6),
    (names.variables, 0.4),
    (literals.strings, 0.6),
    (constants.numbers, 0.3),
)
_LOWEST, _FEWEST, _MOST = 0.25, 2, 8
_Groups = dict[ast.stmt, list[Change]]
_KNOWN: WeakKeyDictionary[ast.AST, _Groups] = WeakKeyDictionary()


def together(source: Source, statement: ast.stmt, evidence: Evidence) -> Iterator[Change]:
    """Changes of all like places of the chain, function or class around, given at the first of them."""
    for scope in (_chain(source, statement), source.function_of(statement), source.class_of(statement)):
        if scope is not None:
            if scope not in _KNOWN:
                _KNOWN[scope] = _groups(source, scope, evidence)
            yield from _KNOWN[scope].get(statement, ())


def _chain(source: Source, statement: ast.stmt) -> ast.If | None:
    """The `if` with branches of its own, where `statement` is one; not an `elif`."""
    parent = source.parent(statement)
    if not isinstance(statement, ast.If) or (isinstance(parent, ast.If) and statement in parent.orelse):
        return None
    return statement if statement.orelse and isinstance(statement.orelse[0], ast.If) else None


def _groups(source: Source, scope: ast.AST, evidence: Evidence) -> _Groups:
    found: dict[tuple[str, str], list[tuple[ast.stmt, Change, float]]] = {}
    for statement in [node for node in ast.walk(scope) if isinstance(node, ast.stmt)]:
        if isinstance(statement, ast.ClassDef | Function) or source.function_of(statement) is None:
            continue
        for node in [statement, *children_of(statement)]:
            site = Site(source, node, evidence)
            if isinstance(node, ast.expr | ast.AugAssign) and not in_f_string(site):
                for operator, factor in _LIKE:
                    for change in operator(site):
                        if change.weight >= _LOWEST:
                            key = change.kind, change.why
                            found.setdefault(key, []).append((statement, change, factor))
    groups: _Groups = {}
    for (kind, why), places in found.items():
        joined = _joined(places, not isinstance(scope, ast.ClassDef), kind, why)
        if joined is not None:
            groups.setdefault(places[0][0], []).append(joined)
    return groups


def _joined(places: list[tuple[ast.stmt, Change, float]], near: bool, kind: str, why: str) -> Change | None:
    spans = sorted({span for _, change, _ in places for span in change.spans})
    if not _FEWEST <= len(spans) <= _MOST or any(a[1] > b[0] for a, b in pairwise(spans)):
        return None
    weight = max(change.weight * factor for _, change, factor in places)
    return Change(
        spans=tuple(spans),
        weight=weight if near else 0.6 * weight,
        kind=f"every {kind}",
        why=f"{why}, in all {len(spans)} places",
    )
