"""Statements: removed, swapped with a neighbour, moved into or out of a block."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from actors.search.mutators import lines
from actors.search.mutators.site import Change, Site

_COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def removals(site: Site) -> Iterator[Change]:
    """The statement left out; a compound one replaced by its body."""
    node = site.node
    if (
        not isinstance(node, ast.stmt)
        or isinstance(node, (*_DEFINITIONS, ast.Pass))
        or lines.is_docstring(node)
    ):
        return
    if not lines.movable(site, node) or site.function is None:
        return
    start, end, _ = lines.lines_of(site, node)
    filler = (
        ""
        if len(site.source.body_of(node)) > 1
        else f"{site.source.indent(node.lineno)}pass{site.source.newline}"
    )
    weight = 0.15 if isinstance(node, ast.Return | ast.For | ast.While) else 0.35
    weight = 0.6 if isinstance(node, ast.Break | ast.Continue) else weight
    if lines.is_elif(site, node):
        return
    yield Change(
        spans=((start, end, filler),), weight=weight, kind="remove", why=f"leave out line {node.lineno}"
    )
    if isinstance(node, _COMPOUND) and not getattr(node, "orelse", None) and not isinstance(node, ast.Try):
        body = "".join(lines.text_of(site, part) for part in node.body)
        jumps = any(isinstance(part, ast.Break | ast.Continue) for part in ast.walk(node))
        if all(lines.movable(site, part) for part in node.body) and (site.in_loop() or not jumps):
            moved = lines.reindented(
                body, site.source.indent(node.body[0].lineno), site.source.indent(node.lineno)
            )
            yield Change(
                spans=((start, end, moved),),
                weight=0.35 if isinstance(node, ast.If) else 0.15,
                kind="unwrap",
                why=f"always do what line {node.lineno} made conditional",
            )


def swaps(site: Site) -> Iterator[Change]:
    """Two neighbouring statements exchanged."""
    node = site.node
    if not isinstance(node, ast.stmt) or isinstance(node, _DEFINITIONS) or site.function is None:
        return
    body = site.source.body_of(node)
    place = body.index(node)
    for distance, weight in ((1, 0.35), (2, 0.12)):
        if place + distance >= len(body):
            return
        other = body[place + distance]
        if isinstance(other, _DEFINITIONS) or not (lines.movable(site, node) and lines.movable(site, other)):
            return
        if lines.is_docstring(node):
            return
        one, two = lines.lines_of(site, node), lines.lines_of(site, other)
        if not lines.complete_lines(site, two[1]) or one[1] > two[0]:
            return
        yield Change(
            spans=((one[0], one[1], lines.text_of(site, other)), (two[0], two[1], lines.text_of(site, node))),
            weight=weight,
            kind="statement order",
            why=f"line {other.lineno} before line {node.lineno}",
        )


def moves(site: Site) -> Iterator[Change]:
    """The statement moved out of its block behind it, or into the block before or after it."""
    node = site.node
    if not isinstance(node, ast.stmt) or isinstance(node, _DEFINITIONS) or not lines.movable(site, node):
        return
    if site.function is None or node is site.function or lines.is_docstring(node):
        return
    body = site.source.body_of(node)
    place = body.index(node)
    start, end, _ = lines.lines_of(site, node)
    text, indent = lines.text_of(site, node), site.source.indent(node.lineno)
    parent = site.source.parent(node)
    if len(body) > 1 and isinstance(parent, _COMPOUND) and parent.lineno != node.lineno:
        outer = site.source.indent(parent.lineno)
        moved = lines.reindented(text, indent, outer)
        if place == len(body) - 1 and node.end_lineno == parent.end_lineno:
            yield _move(((start, end, _kept_end(site, end, moved)),), 0.6, "out of the block")
        elif lines.complete_lines(
            site, parent_end := site.source.line_span(parent.lineno, parent.end_lineno or 0)[1]
        ):
            yield _move(((start, end, ""), (parent_end, parent_end, moved)), 0.3, "behind the block")
        if place == 0:
            head = site.source.line_span(parent.lineno, parent.lineno)[0]
            if not lines.is_elif(site, parent):
                yield _move(((head, head, moved), (start, end, "")), 0.4, "before the block")
    if place > 0 and isinstance(body[place - 1], _COMPOUND):
        for block in _last_blocks(body[place - 1]):
            inner = site.source.indent(block[-1].lineno)
            moved = lines.reindented(text, indent, inner)
            if len(inner) > len(indent) and block[-1].end_lineno == body[place - 1].end_lineno:
                yield _move(((start, end, _kept_end(site, end, moved)),), 0.45, "into the block above")
    if place + 1 < len(body) and isinstance(body[place + 1], ast.For | ast.While):
        loop = body[place + 1]
        inside = loop.body[0]  # type: ignore[attr-defined]
        if lines.movable(site, inside) and inside.lineno > loop.lineno:
            at = lines.lines_of(site, inside)[0]
            moved = lines.reindented(text, indent, site.source.indent(inside.lineno))
            yield _move(((start, end, ""), (at, at, moved)), 0.35, "into the loop below")


def _last_blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    block = getattr(node, "orelse", None) or getattr(node, "body", None)
    while block:
        yield block
        last = block[-1]
        block = (
            (getattr(last, "orelse", None) or getattr(last, "body", None))
            if isinstance(last, _COMPOUND)
            else None
        )


def _move(spans: tuple[tuple[int, int, str], ...], weight: float, where: str) -> Change:
    return Change(spans=spans, weight=weight, kind="move", why=f"move the statement {where}")


def _kept_end(site: Site, end: int, text: str) -> str:
    return text if lines.complete_lines(site, end) else text.removesuffix(site.source.newline)


ALL = (
    removals,
    swaps,
    moves,
)
