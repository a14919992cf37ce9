"""Conditions are judged by noted values, and nothing but harmless expressions is ever evaluated."""

import ast

import pytest

from actors.search.mutators.sifting import sifted
from actors.search.mutators.site import Evidence, Site
from actors.search.snapshots import Snapshots
from actors.search.source import Source

SHOTS = Snapshots(
    failing=[{"amount": "9", "self.balance": "5"}],
    passing=[{"amount": "2", "self.balance": "5"}, {"amount": "5", "self.balance": "5"}],
)


def test_a_condition_is_told_for_every_visit() -> None:
    assert SHOTS.truth("amount > self.balance") == ((True,), (False, False))
    assert SHOTS.truth("amount >= self.balance") == ((True,), (False, True))
    assert SHOTS.truth("other > 1") == ((None,), (None, None))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "amount.__class__",
        "self.__dict__",
        "self.balance.bit_length()",
        "open('x')",
        "[x for x in (1,)]",
        "(lambda: 1)()",
        "9 ** 9 ** 9",
        "'a' * 10_000_000_000",
        "amount >",
    ],
)
def test_anything_that_reaches_further_is_not_evaluated(text: str) -> None:
    assert SHOTS.truth(text) is None


def judged(options: list[tuple[str, float]], old: str = "False", form: str = "{}") -> dict[str, float]:
    source = Source("m.py", b"def f(self, amount):\n    self.balance -= amount\n")
    assert source.tree is not None
    function = source.tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    site = Site(source, function.body[0], Evidence(snapshots={("m.py", 2): SHOTS}))
    return dict(sifted(site, options, old, form))


def test_a_condition_that_changes_no_failing_test_is_left_out() -> None:
    assert set(judged([("amount < 0", 0.5), ("amount > self.balance", 0.5)])) == {"amount > self.balance"}
    assert judged([("amount > 0", 0.5)], old="amount > 1", form="(amount > 1) and ({})") == {}


def test_one_that_spares_passing_tests_goes_before_one_that_does_not() -> None:
    found = judged([("amount >= self.balance", 0.5), ("amount > self.balance", 0.5)])
    assert found["amount > self.balance"] > found["amount >= self.balance"]


def test_of_conditions_that_say_the_same_the_first_is_preferred() -> None:
    found = judged([("amount > self.balance", 0.5), ("amount == 9", 0.5)])
    assert found["amount > self.balance"] > found["amount == 9"]
