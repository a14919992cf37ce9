"""How near a failing comparison came to holding."""

from __future__ import annotations

import pytest

from actors.search.inside.nearness import distance, nearer


def test_equal_values_are_no_distance_apart_and_alien_ones_are_far() -> None:
    assert distance("assert 3 == 3") == 0
    assert distance("assert 'abc' == 4") == 1
    assert distance("assert None == [1]") == 1


@pytest.mark.parametrize(
    ("far", "near"),
    [
        ("assert 9 == 4", "assert 5 == 4"),
        ("AssertionError: assert 'xyz' == 'abc'", "AssertionError: assert 'abz' == 'abc'"),
        ("assert [1] == [1, 2, 3]", "assert [1, 2] == [1, 2, 3]"),
        ("assert {'a': 1} == {'a': 2, 'b': 3}", "assert {'a': 2} == {'a': 2, 'b': 3}"),
        ("assert None == 3", "assert '3' == 3"),
        ("assert {1} == {2}\n  Extra items", "assert {1, 2} == {2}"),
    ],
)
def test_a_value_that_is_more_like_the_expected_one_is_nearer(far: str, near: str) -> None:
    assert nearer(far, near) > 0
    assert nearer(near, far) == 0


def test_an_exception_is_further_away_than_any_value() -> None:
    assert 0 < nearer("", "assert None == 3") < nearer("", "assert 2 == 3") < 1


def test_what_cannot_be_read_tells_nothing() -> None:
    assert distance("assert <object> == 3") is None
    assert distance("KeyError: 3") is None
    assert nearer("assert f() < 3", "assert 1 == 1") == 0
