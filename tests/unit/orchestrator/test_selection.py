"""Equal candidates are one with votes; of different ones the smaller change is judged first."""

from __future__ import annotations

from fakes import improvement

from orchestrator.selection import diff_lines, distinct, in_order, normalised
from orchestrator.steps import Improvement
from orchestrator.tree import File, FileMode, Tree

BASE = Tree(files={"a.py": File(content=b"def f():\n    return 1\n"), "b.txt": File(content=b"b\n")})


def offered(*contents: str) -> list[Improvement]:
    return [improvement(content) for content in contents]


def test_what_differs_in_comments_and_layout_is_one_candidate_with_votes() -> None:
    plain = "def f():\n    return 2\n"
    found = in_order(
        BASE, offered(f"# two\n{plain}", plain, "def f():\n    return (2)\n\n\n", "def f():\n    return 3\n")
    )

    assert [(each.votes, each.explanation) for each in found] == [(3, plain), (1, "def f():\n    return 3\n")]


def test_the_smaller_diff_goes_first_and_votes_decide_between_equal_ones() -> None:
    long = "def f():\n    x = 1\n    y = 2\n    return x + y\n"
    three, four = "def f():\n    return 3\n", "def f():\n    return 4\n"

    found = in_order(BASE, offered(long, long, long, three, four, four))

    assert [(each.explanation, each.votes) for each in found] == [(four, 2), (three, 1), (long, 3)]


def test_the_order_of_whoever_tested_them_is_kept() -> None:
    long, short = "def f():\n    x = 2\n    return x\n", "def f():\n    return 2\n"

    assert [each.explanation for each in distinct(BASE, offered(long, short, long))] == [long, short]


def test_what_is_no_python_is_compared_by_its_lines() -> None:
    def form(text: str | None, mode: FileMode = FileMode.FILE) -> object:
        return normalised(BASE, {"b.txt": None if text is None else File(content=text.encode(), mode=mode)})

    assert form("b  \n\n") == form("b\n") == frozenset()
    assert len({form("c\n"), form("b\n", FileMode.EXECUTABLE), form(None), form(" b\n")}) == 4
    broken = File(content=b"def f(:\n")
    deep = File(content=b"x = " + b"(" * 5000 + b")" * 5000 + b"\n")
    assert normalised(BASE, {"a.py": broken}) != normalised(BASE, {"a.py": deep})


def test_added_and_removed_lines_are_counted() -> None:
    assert diff_lines(BASE, {"a.py": File(content=b"def f():\n    return 2\n    # -- end\n")}) == 3
    assert diff_lines(BASE, {"b.txt": None}) == 1
    assert diff_lines(BASE, {}) == 0
