"""One candidate tried inside a child that several candidates share. Nothing here is a verdict."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from . import fuel
from .guard import Guard
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


def probe(suite: Suite, failing: Sequence[str], base: Mapping[str, Result], turns: Tank) -> dict[str, Any]:
    """How many failing tests pass, got further, or fail in another way than on the base."""
    fixed, moved, changed, hung = 0, 0, 0, 0
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
            moved += 1
        changed += result[:3] != before[:3] or (result[3] != before[3] and bool(result[3]))
    fuel.fill(fuel.PLENTY)
    status = "timeout" if hung else "ran"
    return {"status": status, "fixed": fixed, "moved": moved, "changed": changed}
