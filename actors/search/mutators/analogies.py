"""What sibling functions do and this one does not: their statements, with this one's name and parameters."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from actors.search.inside.text import replaced
from actors.search.mutators.site import Site
from actors.search.source import Function

_MAX = 8
#: Methods that take something away and whose result people use or not.
_TAKING = frozenset(("pop", "popleft", "next", "advance", "get_nowait", "read", "readline", "heappop"))
_KNOWN: WeakKeyDictionary[Function, list[str]] = WeakKeyDictionary()


def analogous(site: Site) -> list[str]:
    """Statements that siblings have, in this function's words; calls of the function that stand elsewhere."""
    if site.function is None:
        return []
    if site.function not in _KNOWN:
        found = dict.fromkeys([*_of_siblings(site, site.function), *_takings(site, site.function)])
        own = {" ".join(site.text(part).split()) for part in site.function.body}
        _KNOWN[site.function] = [text for text in found if text not in own][:_MAX]
    return _KNOWN[site.function]


def _of_siblings(site: Site, function: Function) -> Iterator[str]:
    """Calls and assignments on `self` that name the sibling, as `self.log.append(("add", name))` does."""
    holder = site.source.class_of(function)
    for sibling in holder.body if holder else ():
        if not isinstance(sibling, Function) or sibling is function:
            continue
        for part in ast.walk(sibling):
            if isinstance(part, ast.Expr | ast.AugAssign) and "\n" not in site.text(part):
                text = _renamed(site, part, sibling, function)
                if text is not None:
                    yield text


def _renamed(site: Site, part: ast.stmt, sibling: Function, function: Function) -> str | None:
    """The sibling's statement for this function; None where it uses names that are not known here."""
    start = site.source.span(part)[0]
    spans: list[tuple[int, int, str]] = []
    mine = set(site.parameters()) | set(site.locals()) | {"self"}
    renamed = False
    for node in ast.walk(part):
        if isinstance(node, ast.Constant) and node.value == sibling.name:
            a, b = site.source.span(node)
            quote = site.source.text[b - 1]
            spans.append((a - start, b - start, f"{quote}{function.name}{quote}"))
            renamed = True
        elif isinstance(node, ast.Name) and node.id not in mine:
            return None
    if not renamed and not _on_self(part):
        return None
    return replaced(site.text(part), spans)


def _on_self(part: ast.stmt) -> bool:
    """A call `self.method()` alone, as when every change has to be followed by the same."""
    call = part.value if isinstance(part, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and not call.args


def _takings(site: Site, function: Function) -> Iterator[str]:
    """`items.pop(0)` of `item = items.pop(0)` as a statement of its own: something has to be skipped."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in _TAKING and not isinstance(site.source.parent(node), ast.Expr):
            yield site.text(node)
    holder = site.source.function_of(function)
    if holder is not None:
        # A function within a function shares its variables.
        yield from _takings(site, holder)
