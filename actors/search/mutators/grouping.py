"""Grouping: parentheses forgotten or too many, rounding up, and names exchanged throughout a statement."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from actors.search import precedence
from actors.search.mutators.site import Change, Site


def parentheses(site: Site) -> Iterator[Change]:
    """Parentheses put around a part of a chain of operators, or taken away."""
    node = site.node
    if not isinstance(node, ast.BinOp | ast.BoolOp) or isinstance(site.source.parent(node), ast.BinOp):
        return
    leaves = _leaves(site, node)
    text = site.text(node)
    start = site.source.span(node)[0]
    plain = ast.dump(node)
    for first in range(len(leaves)):
        for last in range(first + 1, len(leaves)):
            if (first, last) == (0, len(leaves) - 1):
                continue
            a, b = leaves[first][0] - start, leaves[last][1] - start
            grouped = f"{text[:a]}({text[a:b]}){text[b:]}"
            if _dump(grouped) not in (None, plain):
                yield Change(
                    spans=(site.put(node, grouped),),
                    weight=0.4,
                    kind="grouping",
                    why=f"group `{text[a:b]}`"[:80],
                )


def fewer_parentheses(site: Site) -> Iterator[Change]:
    """The parentheses of a part taken away, so that precedence decides."""
    node = site.node
    if not isinstance(node, ast.BinOp | ast.BoolOp | ast.UnaryOp | ast.IfExp) or not site.enclosed(node):
        return
    parent = site.source.parent(node)
    if not isinstance(parent, ast.BinOp | ast.UnaryOp | ast.BoolOp):
        return
    start, end = site.source.span(node)
    opening = site.source.text.rindex("(", 0, start)
    closing = site.source.text.index(")", end)
    first, last = site.source.span(parent)
    text = site.source.text
    if _dump(text[first:opening] + text[opening + 1 : closing] + text[closing + 1 : last]) is None:
        return
    yield Change(
        spans=((opening, opening + 1, ""), (closing, closing + 1, "")),
        weight=0.3,
        kind="grouping",
        why="without these parentheses",
    )


def rounding_up(site: Site) -> Iterator[Change]:
    """Division that has to round up instead of down, or to the nearest."""
    node = site.node
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.FloorDiv | ast.Div):
        return
    left, right = site.wrapped(node.left, precedence.FACTOR), site.wrapped(node.right, precedence.POWER)
    summed = site.wrapped(node.left, precedence.ARITHMETIC)
    options = {
        f"-(-{left} // {right})": 0.45,
        f"({summed} + {right} - 1) // {right}": 0.35,
        f"round({left} / {right})": 0.3,
        f"round({left} / {right}, 2)": 0.25,
        f"int({left} / {right})": 0.2,
    }
    for text, weight in options.items():
        yield Change(spans=(site.put(node, text),), weight=weight, kind="rounding", why=f"`{text}`"[:80])


def exchanged_operands(site: Site) -> Iterator[Change]:
    """Two operands of a chain of operators exchanged, neighbours or not."""
    node = site.node
    if not isinstance(node, ast.BinOp) or isinstance(site.source.parent(node), ast.BinOp):
        return
    leaves = _leaves(site, node)
    if not 2 < len(leaves) <= 6:
        return
    text = site.source.text
    for number, (a, b) in enumerate(leaves):
        for c, d in leaves[number + 1 :]:
            if text[a:b] != text[c:d]:
                yield Change(
                    spans=((a, b, text[c:d]), (c, d, text[a:b])),
                    weight=0.3,
                    kind="operand order",
                    why=f"exchange `{text[a:b]}` and `{text[c:d]}`"[:80],
                )


def exchanged_names(site: Site) -> Iterator[Change]:
    """Two names exchanged wherever they stand in a statement."""
    node = site.node
    if not isinstance(
        node, ast.Return | ast.Assign | ast.AugAssign | ast.Expr | ast.For | ast.If | ast.While
    ):
        return
    places: dict[str, list[tuple[int, int]]] = {}
    for part in _expressions(node):
        if isinstance(part, ast.Name):
            places.setdefault(part.id, []).append(site.source.span(part))
    names = [name for name in places if name in site.locals() or name in site.parameters()]
    for number, one in enumerate(names[:8]):
        for other in names[number + 1 : 8]:
            if len(places[one]) + len(places[other]) > 12:
                continue
            spans = [(*span, other) for span in places[one]] + [(*span, one) for span in places[other]]
            yield Change(
                spans=tuple(sorted(spans)),
                weight=0.3,
                kind="exchanged names",
                why=f"exchange `{one}` and `{other}`",
            )


def exchanged_loops(site: Site) -> Iterator[Change]:
    """The `for … in …` parts of two comprehensions, nested or of one, exchanged."""
    node = site.node
    if not isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        return
    clauses = [part for part in ast.walk(node) if isinstance(part, ast.comprehension)]
    for number, one in enumerate(clauses[:4]):
        for other in clauses[number + 1 : 4]:
            (a, b), (c, d) = _clause(site, one), _clause(site, other)
            if b <= c or d <= a:
                yield Change(
                    spans=((a, b, site.source.text[c:d]), (c, d, site.source.text[a:b])),
                    weight=0.4,
                    kind="exchanged loops",
                    why="exchange the loops",
                )


def _clause(site: Site, node: ast.comprehension) -> tuple[int, int]:
    return site.source.span(node.target)[0], site.source.span(node.iter)[1]


def repeated_objects(site: Site) -> Iterator[Change]:
    """`[x] * n` that repeats one object, made into n objects."""
    node = site.node
    if (
        not isinstance(node, ast.BinOp)
        or not isinstance(node.op, ast.Mult)
        or not isinstance(node.left, ast.List)
    ):
        return
    if len(node.left.elts) == 1 and not isinstance(node.left.elts[0], ast.Constant):
        yield Change(
            spans=(
                site.put(node, f"[{site.text(node.left.elts[0])} for _ in range({site.text(node.right)})]"),
            ),
            weight=0.8,
            kind="repeated object",
            why="a new object for every place",
        )


def _expressions(node: ast.stmt) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(node):
        if name not in ("body", "orelse", "finalbody", "handlers"):
            for child in value if isinstance(value, list) else (value,):
                if isinstance(child, ast.AST):
                    yield from ast.walk(child)


def _leaves(site: Site, node: ast.AST) -> list[tuple[int, int]]:
    if isinstance(node, ast.BinOp):
        parts: list[ast.AST] = [node.left, node.right]
    elif isinstance(node, ast.BoolOp):
        parts = list(node.values)
    else:
        return [site.outer_span(node)]
    found: list[tuple[int, int]] = []
    for part in parts:
        found += [site.outer_span(part)] if site.enclosed(part) else _leaves(site, part)
    return found


def _dump(text: str) -> str | None:
    try:
        return ast.dump(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError):
        return None


ALL = (
    parentheses,
    fewer_parentheses,
    rounding_up,
    exchanged_names,
    exchanged_operands,
    exchanged_loops,
    repeated_objects,
)
