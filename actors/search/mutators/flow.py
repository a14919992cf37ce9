"""Control flow: branches exchanged or dropped, jumps, returned values, exception types."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from actors.search import precedence
from actors.search.mutators import lines
from actors.search.mutators.conditions import UNWANTED
from actors.search.mutators.site import Change, Site


def branches(site: Site) -> Iterator[Change]:
    """Branches of an `if` exchanged, dropped, or the condition fixed to one value."""
    node = site.node
    if isinstance(node, ast.IfExp):
        parts = [site.wrapped(part, precedence.OR) for part in (node.orelse, node.test, node.body)]
        yield Change(
            spans=(site.put(node, f"{parts[0]} if {parts[1]} else {parts[2]}"),),
            weight=0.5,
            kind="branches",
            why="exchange the branches",
        )
        for kept, weight in ((node.body, 0.3), (node.orelse, 0.25)):
            yield Change(
                spans=(site.put(node, site.text(kept)),),
                weight=weight,
                kind="branches",
                why="only one of the branches",
            )
    if not isinstance(node, ast.If | ast.While):
        return
    if isinstance(node, ast.If):
        yield from _else_changes(site, node)
        for word, other, weight in (
            ("if", "while", 0.45 if _steps(node) else 0.15),
            ("elif", "if", 0.35),
            ("if", "elif", 0.3),
        ):
            yield from _keyword(site, node, word, other, weight)
    else:
        yield from _keyword(site, node, "while", "if", 0.2)
    for text, weight in (("True", 0.2), ("False", 0.15)):
        if site.text(node.test) != text:
            yield Change(
                spans=(site.put(node.test, text),),
                weight=weight,
                kind="condition",
                why=f"the condition is always {text}",
            )


def _steps(node: ast.If) -> bool:
    """Whether the body changes a name that the condition reads, as a loop's body does."""
    read = {part.id for part in ast.walk(node.test) if isinstance(part, ast.Name)}
    return any(
        isinstance(part, ast.AugAssign) and isinstance(part.target, ast.Name) and part.target.id in read
        for part in node.body
    )


def _else_changes(site: Site, node: ast.If) -> Iterator[Change]:
    first, last = node.body[0], node.body[-1]
    if not node.orelse or _has_elif(site, node):
        return
    movable = all(lines.movable(site, part) for part in [*node.body, *node.orelse])
    if not movable or first.lineno == node.lineno or node.orelse[0].lineno == last.end_lineno:
        return
    one = site.source.line_span(first.lineno, last.end_lineno or 0)
    two = site.source.line_span(node.orelse[0].lineno, node.orelse[-1].end_lineno or 0)
    texts = [site.source.text[slice(*one)], site.source.text[slice(*two)]]
    if lines.complete_lines(site, two[1]):
        yield Change(
            spans=((*one, texts[1]), (*two, texts[0])),
            weight=0.4,
            kind="branches",
            why="exchange if and else",
        )
    yield Change(spans=((one[1], two[1], ""),), weight=0.2, kind="branches", why="drop the else branch")
    flat = lines.reindented(
        texts[1], site.source.indent(node.orelse[0].lineno), site.source.indent(node.lineno)
    )
    yield Change(
        spans=((one[1], two[1], flat),), weight=0.3, kind="branches", why="do the else branch always"
    )


def _keyword(site: Site, node: ast.stmt, word: str, other: str, weight: float) -> Iterator[Change]:
    start = site.source.offset(node.lineno, node.col_offset)
    if not site.source.text.startswith(word + " ", start) and not site.source.text.startswith(
        word + "(", start
    ):
        return
    if other == "while" and (getattr(node, "orelse", None) or lines.is_elif(site, node)):
        return
    if other == "elif":
        body = site.source.body_of(node)
        place = body.index(node)
        if not place or not isinstance(body[place - 1], ast.If) or lines.is_elif(site, node):
            return
    yield Change(
        spans=((start, start + len(word), other),),
        weight=weight,
        kind="keyword",
        why=f"`{other}` instead of `{word}`",
    )


def jumps(site: Site) -> Iterator[Change]:
    """`break`, `continue`, `return` and `pass` for each other."""
    node = site.node
    if not isinstance(node, ast.Break | ast.Continue | ast.Pass):
        return
    options = {"break": 0.5, "continue": 0.5, "pass": 0.2}
    options.update({f"return {name}": 0.2 for name in site.visible()[-4:]})
    for value in ("True", "False", "None"):
        options[f"return {value}"] = 0.2
    own = site.text(node)
    for text, weight in options.items():
        if text != own and (site.in_loop() or text not in ("break", "continue")):
            start, end = site.source.span(node)
            yield Change(
                spans=((start, end, text),), weight=weight, kind="jump", why=f"`{text}` instead of `{own}`"
            )


def returns(site: Site) -> Iterator[Change]:
    """Another value returned; a value that was computed and never returned."""
    node = site.node
    if isinstance(node, ast.Return):
        options: dict[str, float] = {}
        if node.value is not None:
            options.update(
                {
                    "True": 0.15,
                    "False": 0.15,
                    "None": 0.15,
                    "0": 0.12,
                    "1": 0.08,
                    "[]": 0.12,
                    '""': 0.12,
                    "-1": 0.08,
                }
            )
            if isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
                first, second = (site.text(part) for part in node.value.elts)
                options.update({f"{second}, {first}": 0.4, first: 0.3, second: 0.3})
            if site.guess(node.value) == "bool":
                options[f"not {site.wrapped(node.value, precedence.NOT)}"] = 0.4
        options.update(dict.fromkeys(site.visible()[-8:], 0.3 if node.value is None else 0.15))
        own = site.text(node.value) if node.value is not None else ""
        start, end = site.source.span(node)
        for text, weight in options.items():
            if site.evidence.is_unwanted(text) and not (node.value and site.guess(node.value) == "bool"):
                weight *= UNWANTED  # noqa: PLW2901
            if text != own:
                yield Change(
                    spans=((start, end, f"return {text}"),),
                    weight=weight,
                    kind="return",
                    why=f"return {text}"[:60],
                )
    elif isinstance(node, ast.Expr) and site.function is not None and not _is_yielding(node.value):
        start, end = site.source.span(node)
        last = node is site.function.body[-1]
        yield Change(
            spans=((start, end, f"return {site.text(node)}"),),
            weight=0.7 if last else 0.25,
            kind="return",
            why="the value was not returned",
        )
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
            owner = site.text(node.value.func.value)
            if owner.isidentifier() and owner != "self":
                yield Change(
                    spans=((start, end, f"{owner} = {site.text(node)}"),),
                    weight=0.4,
                    kind="assign result",
                    why=f"the result was not assigned to `{owner}`",
                )


def _is_yielding(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant | ast.Yield | ast.YieldFrom)


def handlers(site: Site) -> Iterator[Change]:
    """Wider or other exception types caught; another type raised."""
    node = site.node
    if isinstance(node, ast.Try):
        for handler in node.handlers:
            if handler.type is None:
                continue
            old = site.text(handler.type)
            options = {
                "Exception": 0.4,
                **{kind: 0.6 for kind, _ in site.evidence.errors if kind.isidentifier()},
            }
            options.update(
                {
                    f"({old}, {kind})": 0.55
                    for kind, _ in site.evidence.errors
                    if kind not in ("AssertionError", "Failed", "")
                }
            )
            options.update(
                dict.fromkeys(
                    (
                        "ValueError",
                        "KeyError",
                        "TypeError",
                        "IndexError",
                        "ZeroDivisionError",
                        "AttributeError",
                        "OSError",
                    ),
                    0.25,
                )
            )
            for text, weight in options.items():
                if text != old:
                    start, end = site.source.span(handler.type)
                    yield Change(
                        spans=((start, end, text),), weight=weight, kind="except", why=f"except {text}"
                    )
    elif isinstance(node, ast.Raise) and node.exc is not None:
        name = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        kinds = {
            **dict.fromkeys(site.evidence.raises, 0.8),
            **dict.fromkeys(("ValueError", "TypeError", "KeyError", "IndexError", "RuntimeError"), 0.3),
        }
        for kind, weight in kinds.items():
            if kind != site.text(name):
                yield Change(
                    spans=(site.put(name, kind),), weight=weight, kind="raise", why=f"raise {kind} instead"
                )


def _has_elif(site: Site, node: ast.If) -> bool:
    return len(node.orelse) == 1 and lines.is_elif(site, node.orelse[0])


ALL = (
    branches,
    jumps,
    returns,
    handlers,
)
