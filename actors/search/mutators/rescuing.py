"""Exceptions that should have been caught, and values that should have been formatted."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from actors.search import precedence
from actors.search.mutators import lines
from actors.search.mutators.conditions import results
from actors.search.mutators.site import Change, Site

_NOT_CAUGHT = frozenset(("AssertionError", "Failed", "Timeout", "Exhausted", "SyntaxError", "NameError", ""))
#: A place for a value in a formatted string, without a format of its own.
_PLACE = re.compile(r"(?<!\{)\{([^{}:!=]+)\}(?!\})")
_FORMATS = ((":02d", 0.5), (":.2f", 0.5), (":.1f", 0.3), (":,", 0.2), (":03d", 0.15), (":.0f", 0.15))


def rescued(site: Site) -> Iterator[Change]:
    """The statement in a `try`, with the exception that a failing test met and what is done instead."""
    node = site.node
    if not isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.Return) or not lines.may_precede(
        site, node
    ):
        return
    kinds = [kind for kind, _ in site.evidence.errors if kind.isidentifier() and kind not in _NOT_CAUGHT]
    if not kinds or not lines.movable(site, node):
        return
    start, end, _ = lines.lines_of(site, node)
    indent, step, newline = site.source.indent(node.lineno), lines.unit(site), site.source.newline
    body = lines.reindented(lines.text_of(site, node), indent, indent + step)
    for kind in dict.fromkeys(kinds):
        for outcome, weight in _instead(site, node):
            text = (
                f"{indent}try:{newline}{body}{indent}except {kind}:{newline}{indent}{step}{outcome}{newline}"
            )
            yield Change(
                spans=((start, end, text),),
                weight=weight,
                kind="rescue",
                why=f"`except {kind}: {outcome}` was missing",
            )


def _instead(site: Site, node: ast.stmt) -> Iterator[tuple[str, float]]:
    if site.in_loop():
        yield "continue", 0.55
    if isinstance(node, ast.Expr | ast.AugAssign):
        yield "pass", 0.5
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = site.text(node.targets[0])
        for value in ("None", "0", '""', "[]", *site.parameters()[:4]):
            yield f"{target} = {value}", 0.3
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and len(node.value.args) == 1:
        owner = site.text(node.value.func)
        for value in ("None", "0", *site.visible()[-3:]):
            yield f"{owner}({value})", 0.25
    for outcome, weight in list(results(site))[:12]:
        yield outcome, 0.5 * weight


def formats(site: Site) -> Iterator[Change]:
    """A value in a formatted string that lacks its format, such as `:02d`."""
    node = site.node
    if not isinstance(node, ast.JoinedStr):
        return
    start = site.source.span(node)[0]
    for place in _PLACE.finditer(site.text(node)):
        for text, weight in _FORMATS:
            at = start + place.end(1)
            yield Change(
                spans=((at, at, text),), weight=weight, kind="format", why=f"`{place.group(1)}{text}`"[:80]
            )


def zero_guards(site: Site) -> Iterator[Change]:
    """A division by what may be zero."""
    node = site.node
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Div | ast.FloorDiv | ast.Mod):
        return
    if isinstance(node.right, ast.Constant) or not site.may_be(node.left, "int", "float"):
        return
    met = any(kind == "ZeroDivisionError" for kind, _ in site.evidence.errors)
    right, own = site.wrapped(node.right, precedence.OR), site.text(node)
    for text, weight in (
        (f"{own} if {right} else 0.0", 0.8 if isinstance(node.op, ast.Div) else 0.3),
        (f"{own} if {right} else 0", 0.75),
        (f"{own} if {right} else None", 0.3),
    ):
        yield Change(
            spans=(site.put(node, text),),
            weight=weight if met else 0.2 * weight,
            kind="zero guard",
            why=f"`{site.text(node.right)}` may be zero"[:80],
        )


ALL = (rescued, formats, zero_guards)
