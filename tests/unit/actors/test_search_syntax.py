from __future__ import annotations

import pytest

from actors.search.edits import apply
from actors.search.source import Source
from actors.search.syntax import repairs


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("def f(a)\n    return a\n", "def f(a):\n    return a\n"),
        ("x = (1, 2\ny = 3\n", "x = (1, 2)\ny = 3\n"),
        ("x = [1, 2))\n", None),
        ("x = f(1))\n", "x = f(1)\n"),
        ("if x = 1:\n    pass\n", "if x == 1:\n    pass\n"),
        ("def f():\nreturn 1\n", "def f():\n    return 1\n"),
        ("x = 'abc\n", "x = 'abc'\n"),
    ],
)
def test_one_token_is_repaired_where_one_is_enough(wrong: str, right: str | None) -> None:
    found = [apply(wrong.encode(), one.edits).decode() for one in repairs(Source("m.py", wrong.encode()))]

    assert (right in found) if right else not found


def test_a_file_that_parses_needs_nothing() -> None:
    assert repairs(Source("m.py", b"x = 1\n")) == []


def test_a_file_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="10000"):
        Source("m.py", b"x = 1\n" * 10_001)
