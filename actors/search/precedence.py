"""When an expression put into a place needs parentheses. Levels as in the grammar, loosest first."""

from __future__ import annotations

import ast
from functools import lru_cache

TUPLE, YIELD, TEST, OR, AND, NOT, COMPARE, BIT_OR, BIT_XOR, BIT_AND, SHIFT, ARITHMETIC, TERM, FACTOR = range(
    1, 15
)
POWER, AWAIT, ATOM = 15, 16, 17

_BINARY: dict[type[ast.operator], int] = {
    ast.Add: ARITHMETIC,
    ast.Sub: ARITHMETIC,
    ast.Mult: TERM,
    ast.Div: TERM,
    ast.FloorDiv: TERM,
    ast.Mod: TERM,
    ast.MatMult: TERM,
    ast.Pow: POWER,
    ast.LShift: SHIFT,
    ast.RShift: SHIFT,
    ast.BitAnd: BIT_AND,
    ast.BitXor: BIT_XOR,
    ast.BitOr: BIT_OR,
}


def level(node: ast.AST) -> int:  # noqa: PLR0911 - a table by node
    """How tightly an expression's own outermost operator binds."""
    match node:
        case ast.NamedExpr():
            return 0
        case ast.Tuple():
            return TUPLE
        case ast.Yield() | ast.YieldFrom():
            return YIELD
        case ast.IfExp() | ast.Lambda():
            return TEST
        case ast.BoolOp(op=ast.Or()):
            return OR
        case ast.BoolOp():
            return AND
        case ast.UnaryOp(op=ast.Not()):
            return NOT
        case ast.Compare():
            return COMPARE
        case ast.BinOp(op=op):
            return _BINARY[type(op)]
        case ast.UnaryOp():
            return FACTOR
        case ast.Await():
            return AWAIT
    return ATOM


@lru_cache(maxsize=50_000)
def level_of_text(text: str) -> int:
    """`level` of an expression in words; text that is no expression counts as loosest."""
    try:
        return level(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        return 0


def needed(parent: ast.AST | None, field: str) -> int:  # noqa: PLR0911 - a table by node
    """The level that a place demands of what stands in it."""
    match parent:
        case ast.BinOp(op=ast.Pow()):
            return AWAIT if field == "left" else FACTOR
        case ast.BinOp(op=op):
            return _BINARY[type(op)] + (field == "right")
        case ast.UnaryOp(op=op):
            return NOT if isinstance(op, ast.Not) else FACTOR
        case ast.BoolOp(op=op):
            return AND if isinstance(op, ast.Or) else NOT
        case ast.Compare() | ast.Starred():
            return BIT_OR
        case ast.Await():
            return ATOM
        case ast.Attribute() | ast.Subscript(value=_) | ast.Call() if field in ("value", "func"):
            return ATOM
        case ast.IfExp():
            return TEST if field == "orelse" else OR
        case ast.comprehension():
            return OR
        case ast.Subscript() | ast.Return() | ast.Assign() | ast.For() | ast.Expr() | ast.Yield():
            return TUPLE
    return TEST
