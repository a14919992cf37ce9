"""How a failure is known again, and what the loop learns from one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import FAILING, PASSING, FakeRun, improvement, repair, repaired, run_of
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.lessons import CERTIFIED, REFUSED, Lesson, closest, lesson, signature_of, terms_of
from orchestrator.task import Budget, Task
from orchestrator.tree import Tree
from orchestrator.verdict import Outcome, TestCase, TestRun

SAID = """
    def test_total():
>       assert total([1, 2]) == 3
E       TypeError: unsupported operand type(s) for +: 'int' and 'Money'
E       at 0x7f3a in frame 17

shop/cart.py:12: TypeError
"""


def test_a_signature_is_what_went_wrong_without_numbers() -> None:
    assert signature_of({"t::a": SAID}).splitlines() == [
        "E       TypeError: unsupported operand type(s) for +: 'int' and 'Money'",
        "E       at N in frame N",
        "shop/cart.py:N: TypeError",
    ]


def test_output_in_no_known_form_is_known_by_its_end() -> None:
    assert signature_of({"t::a": "one\ntwo\nthree\n\nfour\n"}) == "two\nthree\nfour"
    assert signature_of({}) == ""


def told(words: str, patch: str = "p", **more: Any) -> Lesson:
    return Lesson(signature=words, outcome=CERTIFIED, patch=patch, **more)


def test_the_closest_come_first_and_strangers_not_at_all() -> None:
    asked = terms_of("TypeError unsupported operand money cart")
    known = [
        told("KeyError missing user", "a"),
        told("TypeError unsupported operand money", "b"),
        told("TypeError unsupported operand money cart", "c"),
        told("TypeError unsupported operand money cart", "c"),
        told("TypeError", "d"),
    ]

    assert [each.patch for each in closest(asked, known)] == ["c", "b"]
    assert closest((), known) == closest(asked, []) == []


@given(st.text(), st.text())
def test_whatever_programs_say_has_words_or_none(said: str, patch: str) -> None:
    made = lesson({"t": said}, outcome=CERTIFIED, patch=patch, notes="")

    assert made is None or (made.terms and all(word.isalnum() and word.isascii() for word in made.terms))
    assert made is None or closest(made.terms, [made]) == [made]


BASE = {"test_a.py::one": FAILING}
TASK = Task(id="t", model="m", budget=Budget(attempts=1))


def saying(outcomes: Any, seed: int) -> TestRun:
    cases = tuple(
        TestCase(id=test, outcome=outcome, detail=SAID if outcome is FAILING else "")
        for test, outcome in outcomes.items()
    )
    return run_of(outcomes, cases=cases, seed=seed)


def outcomes(candidate: Tree) -> dict[str, Outcome]:
    return {"test_a.py::one": PASSING if candidate.files["a.py"].content == b"fixed" else FAILING}


@pytest.mark.parametrize(
    ("written", "outcome", "notes"),
    [("fixed", CERTIFIED, "fixed"), ("wrong", REFUSED, "unsupported operand")],
)
async def test_a_repair_teaches_what_became_of_its_patch(written: str, outcome: str, notes: str) -> None:
    run = FakeRun(
        BASE, repairs=[repaired(improvement(written))], judge=outcomes, runs=saying, task=TASK, shown=saying
    )

    ended = await repair(run)

    assert ended.lesson is not None
    assert (ended.lesson.outcome, f"+{written}" in ended.lesson.patch) == (outcome, True)
    assert notes in ended.lesson.notes
    assert "typeerror" in ended.lesson.terms


async def test_a_run_that_tried_nothing_teaches_nothing() -> None:
    ended = await repair(FakeRun(BASE, task=replace(TASK, model=None), shown=saying))

    assert ended.lesson is None
