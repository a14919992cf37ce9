"""Operators: comparison, arithmetic, boolean, unary, augmented; changed, dropped or inserted."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from actors.search import precedence
from actors.search.mutators.site import Change, Site

Options = dict[str, float]

_SYMBOLS: dict[type[ast.AST], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in",
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.Pow: "**", ast.LShift: "<<", ast.RShift: ">>", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^",
    ast.MatMult: "@",
}  # fmt: skip

_COMPARISONS: dict[str, Options] = {
    "<": {"<=": 0.9, ">": 0.6, ">=": 0.5, "!=": 0.25, "==": 0.2},
    "<=": {"<": 0.9, ">=": 0.6, ">": 0.5, "==": 0.25, "!=": 0.2},
    ">": {">=": 0.9, "<": 0.6, "<=": 0.5, "!=": 0.25, "==": 0.2},
    ">=": {">": 0.9, "<=": 0.6, "<": 0.5, "==": 0.25, "!=": 0.2},
    "==": {"!=": 0.8, ">=": 0.35, "<=": 0.35, ">": 0.25, "<": 0.25, "in": 0.15, "is": 0.1},
    "!=": {"==": 0.8, "<": 0.35, ">": 0.35, "<=": 0.2, ">=": 0.2, "not in": 0.15, "is not": 0.1},
    "is": {"is not": 0.7, "==": 0.6, "in": 0.1},
    "is not": {"is": 0.7, "!=": 0.6},
    "in": {"not in": 0.8, "==": 0.3},
    "not in": {"in": 0.8, "!=": 0.3},
}
_ARITHMETIC: dict[str, Options] = {
    "+": {"-": 0.8, "*": 0.5, "/": 0.1, "//": 0.1, "%": 0.1, "|": 0.1},
    "-": {"+": 0.8, "*": 0.3, "/": 0.25, "//": 0.2, "%": 0.2},
    "*": {"+": 0.5, "/": 0.5, "**": 0.45, "//": 0.3, "-": 0.25, "%": 0.1},
    "/": {"//": 0.8, "*": 0.6, "%": 0.3, "-": 0.2, "+": 0.1},
    "//": {"/": 0.8, "%": 0.65, "*": 0.4, "-": 0.15},
    "%": {"//": 0.7, "/": 0.4, "*": 0.2, "-": 0.15, "+": 0.1},
    "**": {"*": 0.7, "+": 0.1, "/": 0.1, "//": 0.1},
    "<<": {">>": 0.8, "*": 0.1},
    ">>": {"<<": 0.8, "//": 0.1},
    "&": {"|": 0.7, "^": 0.5, "-": 0.3},
    "|": {"&": 0.7, "^": 0.5, "+": 0.1},
    "^": {"&": 0.6, "|": 0.6, "**": 0.4},
    "@": {},
}
_NOT_COMMUTATIVE = ("-", "/", "//", "%", "**", "<<", ">>")
_LEVELS = {
    "+": precedence.ARITHMETIC, "-": precedence.ARITHMETIC, "*": precedence.TERM, "/": precedence.TERM,
    "//": precedence.TERM, "%": precedence.TERM, "@": precedence.TERM, "**": precedence.POWER,
    "<<": precedence.SHIFT, ">>": precedence.SHIFT, "&": precedence.BIT_AND, "|": precedence.BIT_OR,
    "^": precedence.BIT_XOR,
}  # fmt: skip


def binary(site: Site, left: ast.AST, symbol: str, right: ast.AST) -> str:
    """`left symbol right` as text, operands in parentheses where needed."""
    level = _LEVELS[symbol]
    low, high = (level + 1, level) if symbol == "**" else (level, level + 1)
    return f"{site.wrapped(left, low)} {symbol} {site.wrapped(right, high)}"


def comparisons(site: Site) -> Iterator[Change]:
    """Another comparison operator; one side of a chain dropped."""
    node = site.node
    if not isinstance(node, ast.Compare):
        return
    operands = [node.left, *node.comparators]
    for number, operator in enumerate(node.ops):
        symbol = _SYMBOLS[type(operator)]
        left_end, right_start = (
            site.source.span(operands[number])[1],
            site.source.span(operands[number + 1])[0],
        )
        found = re.search(re.escape(symbol).replace(r"\ ", r"\s+"), site.source.text[left_end:right_start])
        if found is None:
            continue
        start, end = left_end + found.start(), left_end + found.end()
        for other, weight in _COMPARISONS[symbol].items():
            if not _is_sensible(site, other, operands[number + 1]):
                continue
            yield Change(
                spans=((start, end, other),),
                weight=weight,
                kind="comparison",
                why=f"compare with `{other}` instead of `{symbol}`",
            )
        yield from _complements(site, operands[number], operands[number + 1], (start, end), symbol)
    if len(node.ops) > 1:
        for first, last in ((0, -1), (1, None)):
            kept = operands[first:last]
            start, end = site.source.span(kept[0])[0], site.source.span(kept[-1])[1]
            yield Change(
                spans=(site.put(node, site.source.text[start:end]),),
                weight=0.3,
                kind="comparison",
                why="drop one side of the chained comparison",
            )


def _is_sensible(site: Site, symbol: str, right: ast.expr) -> bool:
    """Whether the operator can be meant with such an operand: no order among words, nothing in a number."""
    if "in" in symbol.split():
        return site.may_be(right, "str", "list", "dict", "set", "tuple")
    if symbol in ("<", "<=", ">", ">="):
        return not (isinstance(right, ast.Constant) and isinstance(right.value, str | bool | None))
    return True


def _complements(
    site: Site, left: ast.expr, right: ast.expr, span: tuple[int, int], symbol: str
) -> Iterator[Change]:
    """`state != "closed"` for `state == "locked"`: another word of those it is compared with, and negated."""
    if symbol not in ("==", "!=") or not isinstance(right, ast.Constant) or not isinstance(right.value, str):
        return
    other = "!=" if symbol == "==" else "=="
    scope = site.source.class_of(site.node) or site.source.tree
    words: dict[str, None] = {}
    for part in ast.walk(scope) if scope else ():
        if isinstance(part, ast.Compare) and ast.dump(part.left) == ast.dump(left):
            words.update(dict.fromkeys(site.text(one) for one in part.comparators if _is_word(one)))
    for word in words:
        if word != site.text(right):
            yield Change(
                spans=((*span, other), site.put(right, word)),
                weight=0.3,
                kind="complement",
                why=f"compare with `{other} {word}`",
            )


def _is_word(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def arithmetic(site: Site) -> Iterator[Change]:
    """Another arithmetic operator, swapped operands, other grouping, one operand only."""
    node = site.node
    if not isinstance(node, ast.BinOp):
        return
    symbol = _SYMBOLS[type(node.op)]
    text = isinstance(node.left, ast.JoinedStr) or site.guess(node.left) == "str"
    if not (text and symbol == "%"):
        for other, weight in _ARITHMETIC[symbol].items():
            if (text and other not in ("*", "+")) or _is_idle(other, node.right):
                continue
            yield Change(
                spans=(site.put(node, binary(site, node.left, other, node.right)),),
                weight=weight,
                kind="arithmetic",
                why=f"use `{other}` instead of `{symbol}`",
            )
            yield from _token(site, node, symbol, other, weight)
        if symbol in _NOT_COMMUTATIVE or (symbol == "+" and site.guess(node) not in ("int", "float")):
            yield Change(
                spans=(site.put(node, binary(site, node.right, symbol, node.left)),),
                weight=0.45 if symbol != "+" else 0.3,
                kind="operand order",
                why=f"swap the operands of `{symbol}`",
            )
    for kept, weight in ((node.left, 0.4), (node.right, 0.25)):
        dropped = node.right if kept is node.left else node.left
        yield Change(
            spans=(site.put(node, site.text(kept)),),
            weight=weight,
            kind="drop operand",
            why=f"leave out `{_short(site.text(dropped))}`",
        )


def _is_idle(symbol: str, right: ast.expr) -> bool:
    value = right.value if isinstance(right, ast.Constant) else None
    return (value == 1 and symbol in ("*", "/", "//", "**")) or (value == 0 and symbol in ("+", "-"))


def _token(site: Site, node: ast.BinOp, symbol: str, other: str, weight: float) -> Iterator[Change]:
    """Only the operator's characters, so that precedence may group anew: how people mistype."""
    if _LEVELS[symbol] == _LEVELS[other]:
        return
    start, end = site.source.span(node.left)[1], site.source.span(node.right)[0]
    found = site.source.text.find(symbol, start, end)
    if found >= 0:
        yield Change(
            spans=((found, found + len(symbol), other),),
            weight=weight * 0.9,
            kind="arithmetic",
            why=f"use `{other}` instead of `{symbol}`",
        )


def booleans(site: Site) -> Iterator[Change]:
    """`and` for `or` and the other way round; one operand left out."""
    node = site.node
    if not isinstance(node, ast.BoolOp):
        return
    word, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    values = [site.wrapped(value, precedence.NOT) for value in node.values]
    yield Change(
        spans=(site.put(node, f" {other} ".join(values)),),
        weight=0.8,
        kind="boolean",
        why=f"`{other}` instead of `{word}`",
    )
    for one, two in zip(node.values, node.values[1:], strict=False):
        start, end = site.source.span(one)[1], site.source.span(two)[0]
        found = re.search(rf"\b{word}\b", site.source.text[start:end])
        if found is not None:
            yield Change(
                spans=((start + found.start(), start + found.end(), other),),
                weight=0.75,
                kind="boolean",
                why=f"`{other}` instead of `{word}`",
            )
    if len(values) > 2:
        for number in range(1, len(values)):
            left, right = f" {word} ".join(values[:number]), f" {word} ".join(values[number:])
            yield Change(
                spans=(site.put(node, f"({left}) {other} ({right})"),),
                weight=0.3,
                kind="boolean",
                why=f"`{other}` instead of one `{word}`",
            )
    for number, value in enumerate(node.values):
        kept = values[:number] + values[number + 1 :]
        text = f" {word} ".join(kept)
        if len(kept) == 1:
            text = site.text(node.values[1 - number])
        yield Change(
            spans=(site.put(node, text),),
            weight=0.45,
            kind="drop condition",
            why=f"leave out the condition `{_short(site.text(value))}`",
        )


def unary(site: Site) -> Iterator[Change]:
    """`not` and minus removed or inserted."""
    node = site.node
    if isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield Change(
            spans=(site.put(node, site.text(node.operand)),),
            weight=0.7,
            kind="drop unary",
            why="drop the negation" if isinstance(node.op, ast.Not) else "drop the sign",
        )
        return
    if isinstance(node, ast.expr) and _is_condition(site, node) and not isinstance(node, ast.Compare):
        yield Change(
            spans=(site.put(node, f"not {site.wrapped(node, precedence.NOT)}"),),
            weight=0.5,
            kind="negation",
            why="negate the condition",
        )
    elif (
        isinstance(node, ast.Name | ast.Call | ast.Attribute | ast.BinOp | ast.Subscript)
        and isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
        and site.guess(node) in ("int", "float")
    ):
        yield Change(
            spans=(site.put(node, f"-{site.wrapped(node, precedence.FACTOR)}"),),
            weight=0.3 if isinstance(site.source.parent(node), ast.Compare | ast.Call) else 0.15,
            kind="sign",
            why="change the sign",
        )


def _is_condition(site: Site, node: ast.expr) -> bool:
    parent, name = site.source.parents[node]
    if name == "test" and isinstance(parent, ast.If | ast.While | ast.IfExp | ast.Assert):
        return True
    if isinstance(parent, ast.BoolOp) or (isinstance(parent, ast.comprehension) and name == "ifs"):
        return True
    return isinstance(parent, ast.Return | ast.Assign | ast.keyword) and site.guess(node) == "bool"


def augmented(site: Site) -> Iterator[Change]:
    """Another operator in an augmented assignment, a plain one for it, and the other way round."""
    node = site.node
    if isinstance(node, ast.AugAssign):
        symbol = _SYMBOLS[type(node.op)]
        start, end = site.source.span(node.target)[1], site.source.span(node.value)[0]
        found = site.source.text.find(f"{symbol}=", start, end)
        if found < 0:
            return
        options = {**_ARITHMETIC[symbol], "": 0.4}
        if symbol in "+-":
            options["*"] = 0.2
        for other, weight in options.items():
            yield Change(
                spans=((found, found + len(symbol) + 1, f"{other}="),),
                weight=weight,
                kind="augmented",
                why=f"assign with `{other}=` instead of `{symbol}=`",
            )
    elif isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        if not isinstance(target, ast.Name | ast.Attribute | ast.Subscript):
            return
        start, end = site.source.span(target)[1], site.source.span(node.value)[0]
        found = site.source.text.find("=", start, end)
        for symbol, weight in {"+": 0.35, "-": 0.15, "*": 0.15, "|": 0.05}.items():
            yield Change(
                spans=((found, found + 1, f"{symbol}="),),
                weight=weight * (1.0 if site.in_loop() else 0.6),
                kind="augmented",
                why=f"accumulate with `{symbol}=`",
            )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 40 else text[:37] + "…"


ALL = (comparisons, arithmetic, booleans, unary, augmented)
