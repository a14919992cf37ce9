"""Entries of a dictionary that are gathered instead of overwritten, or that have to be made first."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from actors.search import precedence
from actors.search.mutators.site import Change, Site

_MAKERS = {"append": "[]", "extend": "[]", "add": "set()", "update": "{}", "setdefault": "{}"}


def sums(site: Site) -> Iterator[Change]:
    """`d[k] = v` and `d[k] += v` that have to add to what may not be there yet."""
    node = site.node
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target, symbol, weight = node.targets[0], "+", 0.5
    elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
        target, symbol = node.target, "+" if isinstance(node.op, ast.Add) else "-"
        weight = 0.9 if _missing_key(site) else 0.3
    else:
        return
    if not isinstance(target, ast.Subscript) or isinstance(target.slice, ast.Slice):
        return
    if not site.may_be(target.value, "dict", "defaultdict", "Counter"):
        return
    owner, key = site.wrapped(target.value, precedence.ATOM), site.text(target.slice)
    value = site.wrapped(node.value, precedence.ARITHMETIC + 1)
    for start in ("0", "[]") if site.guess(node.value) == "list" else ("0", '""'):
        text = f"{owner}[{key}] = {owner}.get({key}, {start}) {symbol} {value}"
        factor = 1.0 if (start == "0") == (site.guess(node.value) not in ("list", "str")) else 0.3
        yield Change(
            spans=((*site.source.span(node), text),),
            weight=weight * factor,
            kind="accumulate",
            why=f"add to what `{owner}[{key}]` held",
        )
    if isinstance(node, ast.Assign):
        yield from _gathered(site, node, owner, key)


def _gathered(site: Site, node: ast.Assign, owner: str, key: str) -> Iterator[Change]:
    """`d[k] = [v]` that overwrites a list which has to grow; `d[k] = v` of the first one only."""
    value = node.value
    options = {f"{owner}.setdefault({key}, {site.text(value)})": 0.3}
    if isinstance(value, ast.List | ast.Set) and len(value.elts) == 1:
        maker, method = ("[]", "append") if isinstance(value, ast.List) else ("set()", "add")
        options[f"{owner}.setdefault({key}, {maker}).{method}({site.text(value.elts[0])})"] = 0.8
    for text, weight in options.items():
        yield Change(
            spans=((*site.source.span(node), text),),
            weight=weight,
            kind="accumulate",
            why=f"keep what `{owner}[{key}]` held",
        )


def made_first(site: Site) -> Iterator[Change]:
    """`d[k].append(v)` where `d[k]` may not be there yet."""
    node = site.node
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    maker, owner = _MAKERS.get(node.func.attr), node.func.value
    if maker is None or not isinstance(owner, ast.Subscript) or isinstance(owner.slice, ast.Slice):
        return
    held = site.wrapped(owner.value, precedence.ATOM)
    yield Change(
        spans=((*site.source.span(owner), f"{held}.setdefault({site.text(owner.slice)}, {maker})"),),
        weight=0.9 if _missing_key(site) else 0.25,
        kind="accumulate",
        why=f"`{held}[…]` may not be there yet",
    )


def _missing_key(site: Site) -> bool:
    return any(kind == "KeyError" for kind, _ in site.evidence.errors)


def bounds(site: Site) -> Iterator[Change]:
    """A comparison that lacks its other bound: `x < n` for `0 <= x < n`."""
    node = site.node
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or not site.may_be(node.left, "int", "float"):
        return
    own, left = site.text(node), site.wrapped(node.left, precedence.BIT_OR)
    if isinstance(node.ops[0], ast.Lt | ast.LtE):
        options = {f"0 <= {own}": 0.45, f"0 < {own}": 0.3, f"1 <= {own}": 0.2, f"not 0 <= {own}": 0.35}
    elif isinstance(node.ops[0], ast.Gt | ast.GtE):
        options = {f"{left} < 0 or {own}": 0.4}
    else:
        return
    for text, weight in options.items():
        yield Change(
            spans=(site.put(node, text),), weight=weight, kind="bound", why=f"the other bound: `{text}`"[:80]
        )


ALL = (sums, made_first, bounds)
