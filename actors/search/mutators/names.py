"""Names: variables, parameters, attributes and `self.` confused with others in reach."""

from __future__ import annotations

import ast
import difflib
import re
import sys
from collections.abc import Iterator

from actors.search.mutators.site import BUILTINS, Change, Site

_ROUNDABOUT = ("i", "j", "k", "x", "y", "n", "m", "a", "b", "c", "left", "right", "lo", "hi", "low", "high")


def variables(site: Site) -> Iterator[Change]:
    """Another name in scope, of a type that was seen in its place, unused parameters first."""
    node = site.node
    if not isinstance(node, ast.Name) or node.id == "cls":
        return
    parent = site.source.parent(node)
    if node.id == "self":
        if isinstance(parent, ast.Attribute):
            yield from (
                _renamed(site, node, name, 0.3) for name in site.parameters() if _is_object(site, name)
            )
        return
    if (
        isinstance(parent, ast.Attribute)
        and node.id in site.parameters()
        and parent.attr in site.attributes()
    ):
        yield _renamed(site, node, "self", 0.3)
    if isinstance(parent, ast.Call) and parent.func is node:
        return
    stored = isinstance(node.ctx, ast.Store)
    # A name that nothing would read any more was most likely meant where it stands.
    spare = 1.0 if stored or _times_read(site, node.id) > 1 else 0.5
    mine = set(site.types(node.id))
    for name in site.visible() if not stored else site.locals():
        if name == node.id:
            continue
        theirs = set(site.types(name))
        weight = 0.2 if stored else 0.45 * spare
        if mine and theirs:
            weight *= 1.3 if mine & theirs else 0.3
        if not stored and not site.used(name):
            weight *= 1.5
        weight *= 1 + 0.3 * _alike(node.id, name)
        yield _renamed(site, node, name, weight)
    yield from _typos(site, node)
    if not stored and node.id in site.attributes():
        yield Change(
            spans=(site.put(node, f"self.{node.id}"),),
            weight=0.5,
            kind="self",
            why=f"`self.{node.id}` was meant",
        )


def _times_read(site: Site, name: str) -> int:
    return sum(
        isinstance(part, ast.Name) and part.id == name and isinstance(part.ctx, ast.Load)
        for part in (ast.walk(site.function) if site.function else ())
    )


def _is_object(site: Site, name: str) -> bool:
    return not set(site.types(name)) & {
        "int",
        "float",
        "str",
        "bool",
        "list",
        "dict",
        "set",
        "tuple",
        "NoneType",
    }


def _typos(site: Site, node: ast.Name) -> Iterator[Change]:
    if not any(
        kind in ("NameError", "UnboundLocalError") and f"'{node.id}'" in text
        for kind, text in site.evidence.errors
    ):
        return
    pool = {*site.locals(), *_module_names(site), *BUILTINS}
    for name in difflib.get_close_matches(node.id, sorted(pool - {node.id}), n=4, cutoff=0.6):
        yield _renamed(site, node, name, 0.95)
    if node.id in sys.stdlib_module_names and site.source.tree is not None:
        body = site.source.tree.body
        late = next((one for one in body if not _is_prologue(one)), body[0])
        start = site.source.starts[late.lineno - 1]
        yield Change(
            spans=((start, start, f"import {node.id}{site.source.newline}"),),
            weight=1.0,
            kind="missing import",
            why=f"import {node.id}",
        )


def _is_prologue(node: ast.stmt) -> bool:
    return (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) or (
        isinstance(node, ast.ImportFrom) and node.module == "__future__"
    )


def calls_of_names(site: Site) -> Iterator[Change]:
    """Another function of the same module called."""
    node = site.node
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return
    own = site.function.name if site.function else ""
    functions = [
        one.name
        for one in (site.source.tree.body if site.source.tree else ())
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for name in functions:
        if name not in (node.func.id, own):
            yield _renamed(site, node.func, name, 0.2 + 0.3 * _alike(node.func.id, name))
    yield from _typos(site, node.func)


def attributes(site: Site) -> Iterator[Change]:
    """Another attribute of the same object, or the plain name where `self.` should not stand."""
    node = site.node
    if not isinstance(node, ast.Attribute):
        return
    parent = site.source.parent(node)
    called = isinstance(parent, ast.Call) and parent.func is node
    start, end = site.source.span(node)[1] - len(node.attr), site.source.span(node)[1]
    if isinstance(node.value, ast.Name) and node.value.id == "self":
        methods = _methods(site)
        others = [name for name in site.attributes() if (name in methods) == called]
        if not called and node.attr in site.visible():
            yield Change(
                spans=(site.put(node, node.attr),),
                weight=0.5,
                kind="self",
                why=f"`{node.attr}` without `self.`",
            )
    else:
        others = _attributes_like(site, called)
    for name in others:
        if name != node.attr:
            yield Change(
                spans=((start, end, name),),
                weight=(0.4 if not called else 0.25) * (1 + 0.5 * _alike(node.attr, name)),
                kind="attribute",
                why=f"`.{name}` instead of `.{node.attr}`",
            )
    suggestion = [
        re.search(r"Did you mean: '(\w+)'", text)
        for kind, text in site.evidence.errors
        if kind == "AttributeError" and f"'{node.attr}'" in text
    ]
    close = {match.group(1) for match in suggestion if match}
    for name in sorted(close):
        yield Change(spans=((start, end, name),), weight=0.95, kind="attribute", why=f"`.{name}` was meant")


def _methods(site: Site) -> set[str]:
    holder = site.source.class_of(site.node)
    found: set[str] = set()
    for one in holder.body if holder else ():
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
            plain = not any(
                isinstance(mark, ast.Name) and "property" in mark.id for mark in one.decorator_list
            )
            found |= {one.name} if plain else set()
    return found


def _attributes_like(site: Site, called: bool) -> list[str]:
    if called:
        return []
    found: dict[str, None] = {}
    for node in ast.walk(site.source.tree) if site.source.tree else ():
        if isinstance(node, ast.Attribute) and not isinstance(node.value, ast.Constant):
            parent = site.source.parent(node)
            if not (isinstance(parent, ast.Call) and parent.func is node):
                found.setdefault(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.setdefault(node.target.id)
    return list(found)[:15]


def _module_names(site: Site) -> set[str]:
    names: set[str] = set()
    for node in site.source.tree.body if site.source.tree else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _renamed(site: Site, node: ast.Name, name: str, weight: float) -> Change:
    return Change(
        spans=(site.put(node, name),), weight=weight, kind="variable", why=f"`{name}` instead of `{node.id}`"
    )


def _alike(one: str, other: str) -> float:
    if one in _ROUNDABOUT and other in _ROUNDABOUT:
        return 0.5
    return difflib.SequenceMatcher(None, one, other).ratio()


ALL = (variables, calls_of_names, attributes)
