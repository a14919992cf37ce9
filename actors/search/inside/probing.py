"""One candidate tried inside a child that several candidates share. Nothing here is a verdict."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from . import fuel
from .guard import Guard
from .nearness import nearer
from .suite import Result, Suite
from .swap import Plan

MAX_FAILING = 12
Tank = Callable[[str], int]


@contextmanager
def applied(plan: Plan) -> Iterator[None]:
    """The plan's code in its functions for a while."""
    old = [(function, function.__code__) for function, _ in plan]
    for function, code in plan:
        function.__code__ = code
    try:
        yield
    finally:
        for function, code in old:
            function.__code__ = code


class Disk:
    """A candidate's files on disk, for tests that start processes or import late; the parent puts back."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._laid: set[str] = set()

    def lay(self, contents: Mapping[str, bytes]) -> None:
        """Write `contents`, and the originals over what the candidate before left."""
        before = {path: self._guard.contents[path] for path in self._laid - contents.keys()}
        self._guard.write({**before, **contents})
        self._laid = set(contents)


def behaviour(function: Callable[..., Any], arguments: Sequence[str]) -> str:
    """What the function gives for arguments in words: its value, or the type of its exception."""
    fuel.fill(20_000)
    try:
        return repr(function(*(ast.literal_eval(argument) for argument in arguments)))[:300]
    except (Exception, fuel.Exhausted) as error:
        return f"!{type(error).__name__}"


def probe(
    suite: Suite,
    failing: Sequence[str],
    base: Mapping[str, Result],
    turns: Tank,
    screen: Sequence[str] = (),
) -> dict[str, Any]:
    """How many failing tests pass or fail otherwise than on the base; which got further, and how near.

    Where any passes, `broken` tells how many tests of `screen` do not any more, no more of them than passed.
    """
    fixed, changed, hung = 0, 0, 0
    moved: list[str] = []
    near: dict[str, float] = {}
    for test in failing:
        fuel.fill(turns(test))
        result = suite.quick(test) or suite.run(test)
        before = base.get(test) or result
        if result[0] == "passed":
            fixed += 1
        elif result[1] == "Exhausted":
            hung += 1
            if hung > 1 or not fixed:
                break
        elif result[2] > before[2] > 0:
            moved.append(test)
        elif result[2] == before[2] and result[1:4] != before[1:4]:
            share = nearer(before[3] if before[1] == "AssertionError" else "", result[3])
            near.update({test: round(share, 3)} if share else {})
        changed += result[:3] != before[:3] or (result[3] != before[3] and bool(result[3]))
    broken = _broken(suite, screen, turns, fixed) if fixed and not hung else 0
    fuel.fill(fuel.PLENTY)
    status = "timeout" if hung else "ran"
    return {
        "status": status,
        "fixed": fixed,
        "moved": moved,
        "near": near,
        "changed": changed,
        "broken": broken,
    }


def _broken(suite: Suite, screen: Sequence[str], turns: Tank, most: int) -> int:
    broken = 0
    for test in screen:
        fuel.fill(turns(test))
        result = suite.quick(test)
        broken += result is not None and result[0] != "passed"
        if broken >= most:
            break
    return broken
