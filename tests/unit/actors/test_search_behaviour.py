from __future__ import annotations

from actors.search.behaviour import agreed, function_edited, near
from actors.search.board import Found
from actors.search.edits import Candidate, Edit
from actors.search.source import Source

TEXT = "def f(a):\n    return a\n\n\ndef g(b):\n    return b\n"


def found(*, start: int = 22, rank: float = 0.5, kind: str = "number", line: int = 2) -> Found:
    edit = Edit(path="m.py", start=start, end=start + 1, replacement="x")
    candidate = Candidate(edits=(edit,), kind=kind, weight=0.5, explanation="", line=line)
    return Found(candidate=candidate, fixed=frozenset({"t"}), failing=(), rank=rank)


def test_the_function_that_all_repairs_edit_is_found() -> None:
    source = Source("m.py", TEXT.encode())

    assert function_edited(source, [found(), found(start=8)]) == "f"
    assert function_edited(source, [found(), found(start=40)]) is None


def test_inputs_near_the_tests_own_are_new_and_the_same_every_time() -> None:
    calls = [["3", "'ab'"], ["[1, 2]", "{'k': 1}"]]

    inputs = near(calls)

    assert inputs == near(calls)
    assert ["4", "'ab'"] in inputs
    assert not any(call in inputs for call in calls)


def test_behaviour_that_several_kinds_of_repairs_agree_on_goes_first() -> None:
    lonely = found(rank=0.5, kind="clamp")
    one, two, three = found(rank=0.4), found(rank=0.3, kind="guard"), found(rank=0.3, kind="case")

    ordered = agreed([lonely, one, two, three], [["1"], ["2"], ["2"], ["2"]])

    assert ordered[0] is one


def test_many_forms_of_one_idea_are_one_opinion() -> None:
    best = found(rank=0.5, kind="wrap", line=4)
    same = [found(rank=0.4, kind="term", line=3) for _ in range(4)]

    assert agreed([best, *same], [["1"], *[["2"]] * 4])[0] is best


def test_a_repair_of_unknown_behaviour_keeps_its_own_merit() -> None:
    one, other = found(rank=0.5), found(rank=0.4)

    assert agreed([one, other], [[], ["1"]])[0] is one
