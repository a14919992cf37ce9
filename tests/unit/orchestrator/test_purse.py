"""Shares of a budget: never more than there is, and what is left over goes to others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.purse import Purse
from orchestrator.steps import Allowance, Usage


def test_shares_are_even_and_what_was_not_spent_is_shared_again() -> None:
    used: dict[str, int] = {}
    purse = Purse(
        lambda: Allowance(tokens=90 - sum(used.values())), lambda name: Usage(prompt=used.get(name, 0))
    )

    first = [purse.reserve(name, 3 - number) for number, name in enumerate("abc")]
    used["a"] = 10
    purse.settle("a")

    assert [each.tokens for each in first] == [30, 30, 30]
    assert purse.reserve("d").tokens == 20


def test_what_no_budget_bounds_no_share_bounds() -> None:
    purse = Purse(lambda: Allowance(gpu_s=9.0), lambda _name: Usage())

    assert purse.reserve("a", 2) == Allowance(gpu_s=4.5)


@given(
    whole=st.integers(0, 1000),
    moves=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 4), st.integers(0, 400)), max_size=30),
)
def test_what_is_reserved_and_spent_is_never_more_than_there_is(
    whole: int, moves: list[tuple[str, int, int]]
) -> None:
    used: dict[str, int] = {}
    purse = Purse(
        lambda: Allowance(tokens=whole - sum(used.values())), lambda name: Usage(prompt=used.get(name, 0))
    )
    held: dict[str, tuple[int, int]] = {}

    for name, sharers, spends in moves:
        if name in held:
            share, before = held.pop(name)
            used[name] = before + min(spends, share)
            purse.settle(name)
        else:
            share = purse.reserve(name, sharers).tokens or 0
            held[name] = (share, used.get(name, 0))
        assert sum(used.values()) + sum(share for share, _ in held.values()) <= whole
