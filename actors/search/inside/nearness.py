"""How far a failing comparison is from holding, read from pytest's message of it."""

from __future__ import annotations

import ast
import difflib
from functools import lru_cache

_MAX_TEXT = 300
_NO_VALUE = 1.2
#: Of values that read alike but are of different types.
_ALIKE = 0.3


@lru_cache(maxsize=512)
def distance(message: str) -> float | None:
    """0 for equal and 1 for nothing in common in `assert X == Y`; None where the values cannot be read."""
    line = message.split("\n", maxsplit=1)[0].removeprefix("AssertionError: ")
    if not line.startswith("assert ") or " == " not in line or len(line) > _MAX_TEXT:
        return None
    actual, _, expected = line.removeprefix("assert ").partition(" == ")
    try:
        return _apart(ast.literal_eval(actual), ast.literal_eval(expected))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def nearer(before: str, after: str) -> float:
    """Which share of the way from `before` to a comparison that holds was made, in [0, 1].

    An empty `before` is an exception, further away than any value.
    """
    old, new = distance(before) if before else _NO_VALUE, distance(after)
    return max(0.0, (old - new) / old) if old and new is not None else 0.0


def _apart(one: object, other: object) -> float:  # noqa: PLR0911 - a table by type
    if isinstance(one, int | float) and isinstance(other, int | float):
        return min(1.0, abs(one - other) / (1 + abs(other)))
    if type(one) is not type(other):
        return _ALIKE if str(one) == str(other) else 1.0
    if isinstance(one, str) and isinstance(other, str):
        return 1.0 - difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        most = max(len(one), len(other))
        parts = [_apart(a, b) for a, b in zip(one, other, strict=False)]
        return (sum(parts) + most - len(parts)) / most if most else 0.0
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() | other.keys()
        parts = [_apart(one[key], other[key]) if key in one and key in other else 1.0 for key in keys]
        return sum(parts) / len(parts) if parts else 0.0
    if isinstance(one, set) and isinstance(other, set):
        return len(one ^ other) / len(one | other) if one | other else 0.0
    return float(one != other)
