"""Loop fuel: each turn of a loop in the task's files burns some, so that a hang ends whatever the load.

It bounds loops only; time limits bound the rest.
"""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
from collections.abc import Collection
from types import CodeType
from typing import Any

_NAME = "__raysmith_burn__"
_left = 1 << 62
PLENTY = 1 << 62
#: Where statements hold statements; loops stand nowhere else.
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


class Exhausted(BaseException):
    """A test used up the loop turns it was given."""


def _burn() -> None:
    global _left  # noqa: PLW0603
    _left -= 1
    if _left < 0:
        raise Exhausted


def fill(turns: int) -> None:
    """Give the next test `turns` turns of loops."""
    global _left  # noqa: PLW0603
    _left = turns


def left() -> int:
    """Turns not yet used."""
    return _left


def compiled(source: str | bytes, filename: str, flags: int = 0) -> CodeType:
    """`source` with burning loops; raises what `compile` raises."""
    tree = compile(source, filename, "exec", flags=flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    left: list[Any] = [tree]
    while left:
        node = left.pop()
        for name in _BLOCKS:
            left += getattr(node, name, ())
        if isinstance(node, (ast.While, ast.For, ast.AsyncFor)):
            node.body.insert(0, _burning(node))
    code: CodeType = compile(tree, filename, "exec", flags=flags, dont_inherit=True)
    return code


def install(filenames: Collection[str]) -> None:
    """Have these files compiled by `compiled` when this process imports them."""
    setattr(builtins, _NAME, _burn)
    files = frozenset(filenames)
    original = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: Any, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return compiled(self.get_data(path), path) if path in files else original(self, fullname)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def _burning(loop: ast.AST) -> ast.stmt:
    call = ast.Expr(value=ast.Call(func=ast.Name(id=_NAME, ctx=ast.Load()), args=[], keywords=[]))
    for node in ast.walk(call):
        # The loop's own line, so that neither coverage nor tracebacks show another one.
        ast.copy_location(node, loop)
        node.end_lineno, node.end_col_offset = loop.lineno, loop.col_offset  # type: ignore[attr-defined]
    return call
