"""What a repair says of itself."""

from __future__ import annotations

from actors.search.board import Found, Goal
from actors.search.edits import Candidate, Edit
from actors.search.explaining import confidence, explained

GOAL = Goal(failing=("t.py::f", "t.py::g"), others=("t.py::p",))


def found(line: int) -> Found:
    edit = Edit(path="m.py", start=0, end=1, replacement="x")
    candidate = Candidate(edits=(edit,), kind="number", weight=0.5, explanation="m.py:3: 2 for 1", line=line)
    return Found(candidate=candidate, fixed=frozenset({"t.py::f"}), failing=("t.py::g",), rank=0.5)


def test_a_repair_says_why_there_what_it_repairs_and_how_sure_it_is() -> None:
    lines = {"t.py::f": {"m.py": [3]}, "t.py::g": {"m.py": [4]}, "t.py::p": {"m.py": [3]}}

    text = explained(found(3), lines, GOAL, ["t.py::f"], 0.8)

    assert text == ("m.py:3: 2 for 1 (run by 1 of 2 failing tests and 1 others, repairs f, confidence high)")


def test_a_line_that_no_test_ran_is_not_said_to_be_run() -> None:
    assert explained(found(9), {}, GOAL, [], 0.3) == "m.py:3: 2 for 1 (confidence medium)"


def test_a_fitted_value_is_said_to_be_one() -> None:
    assert confidence(0.04) == "low: it may fit the tests only"
