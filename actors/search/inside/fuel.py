"""Loop fuel: each turn of a loop in the task's files burns some, so that a hang ends whatever the load.

It bounds loops only; time limits bound the rest. Burning is done by iterators of the interpreter's own, since
a function of ours would cost more than most loops' bodies.
"""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
from collections import deque
from collections.abc import Collection, Iterator
from functools import partial
from itertools import chain, compress, islice, repeat
from operator import length_hint
from types import CodeType
from typing import Any

#: `while a:` becomes `while burn() and (a):`, `for a in b:` becomes `for a in fed((b)):`.
_BURN = "__raysmith_burn__"
_FED = "__raysmith_fed__"
PLENTY = 1 << 62
_SEGMENT = 1000
#: Where statements hold statements; loops stand nowhere else.
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


class Exhausted(BaseException):
    """A test used up the loop turns it was given."""


class _Tank:
    """An iterator of segments of fuel. An empty one gives itself, whose next item is the exception."""

    def __init__(self) -> None:
        self.more = 0
        self.unlimited = True
        self.segment: Iterator[bool] = iter(())

    def __iter__(self) -> _Tank:
        return self

    def __next__(self) -> Iterator[bool]:
        if not self.more and not self.unlimited:
            return _Empty(self)
        self.segment = repeat(True, self.more or _SEGMENT)
        self.more = 0
        return self.segment


class _Empty:
    def __init__(self, tank: _Tank) -> None:
        self._tank = tank

    def __iter__(self) -> _Empty:
        return self

    def __next__(self) -> bool:
        if self._tank.more or self._tank.unlimited:
            raise StopIteration
        raise Exhausted


_tank = _Tank()
_flow = chain.from_iterable(_tank)


def fill(turns: int) -> None:
    """Give the next test `turns` turns of loops."""
    _tank.unlimited = turns >= PLENTY
    if _tank.unlimited:
        return
    # The same tank for good, since a generator that outlives its test goes on with the iterator it has.
    held = length_hint(_tank.segment)
    _tank.more = max(turns - held, 0)
    deque(islice(_tank.segment, max(held - turns, 0)), maxlen=0)


def left() -> int:
    """Turns not yet used."""
    return PLENTY if _tank.unlimited else _tank.more + length_hint(_tank.segment)


def compiled(source: str | bytes, filename: str, flags: int = 0) -> CodeType:
    """`source` with burning loops; raises what `compile` raises."""
    tree = compile(source, filename, "exec", flags=flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    for loop in _loops(tree):
        if isinstance(loop, ast.While):
            burnt = ast.Call(func=ast.Name(id=_BURN, ctx=ast.Load()), args=[], keywords=[])
            loop.test = _placed(
                ast.BoolOp(op=ast.And(), values=[_placed(burnt, loop.test), loop.test]), loop.test
            )
        else:
            fed = ast.Call(func=ast.Name(id=_FED, ctx=ast.Load()), args=[loop.iter], keywords=[])
            loop.iter = _placed(fed, loop.iter)
    code: CodeType = compile(tree, filename, "exec", flags=flags, dont_inherit=True)
    return code


def taps(tree: ast.AST) -> list[tuple[ast.expr, str, str]]:
    """Expressions of loops, and what to write before and after each, to the effect of `compiled`."""
    return [
        (loop.test, f"{_BURN}() and (", ")")
        if isinstance(loop, ast.While)
        else (loop.iter, f"{_FED}((", "))")
        for loop in _loops(tree)
    ]


def install(filenames: Collection[str]) -> None:
    """Have these files compiled by `compiled` when this process imports them."""
    setattr(builtins, _BURN, _flow.__next__)
    setattr(builtins, _FED, partial(compress, selectors=_flow))
    files = frozenset(filenames)
    original = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: Any, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return compiled(self.get_data(path), path) if path in files else original(self, fullname)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def _loops(tree: ast.AST) -> list[ast.While | ast.For]:
    """Loops that can be fed; an asynchronous one gives control away, so that time limits do."""
    found: list[ast.While | ast.For] = []
    left: list[Any] = [tree]
    while left:
        node = left.pop()
        for name in _BLOCKS:
            left += getattr(node, name, ())
        if isinstance(node, (ast.While, ast.For)):
            found.append(node)
    return found


def _placed(node: ast.expr, at: ast.expr) -> ast.expr:
    for each in (node, getattr(node, "func", node)):
        ast.copy_location(each, at)
    return node
