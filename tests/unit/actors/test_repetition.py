"""Which replies are endless, and what is left of them."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from actors.engines.repetition import COPIES, period_of, without_copies

FUNCTION = "def test_add():\n    assert add(1, 2) == 3\n\n\n"


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("intro " + "x" * 200, 1),
        ("```\n" + "\n" * 200, 1),
        ("Sure. " + "I will now write it. " * 30, 21),
        ("import add\n" + FUNCTION * 5, len(FUNCTION)),
        # Cut in the middle of a copy.
        ("import add\n" + FUNCTION * 5 + FUNCTION[:20], len(FUNCTION)),
    ],
)
def test_an_end_that_repeats_itself_is_found(text: str, period: int) -> None:
    assert period_of(text, 150) == period


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 149,
        # Three copies may be meant.
        "import add\n" + FUNCTION * 3,
        "".join(f"    assert add({n}, 1) == {n + 1}\n" for n in range(100)),
        # It went on to something else.
        "x" * 1000 + " and then it ended",
    ],
)
def test_what_goes_on_is_left_alone(text: str) -> None:
    assert period_of(text, 150) == 0


def test_nothing_is_found_where_nothing_is_looked_for() -> None:
    assert period_of("x" * 10_000, 0) == 0


@given(
    head=st.text(max_size=200),
    piece=st.text(min_size=1, max_size=120),
    copies=st.integers(COPIES + 1, 12),
    more=st.integers(0, 119),
)
def test_what_is_left_ends_after_the_first_copy(head: str, piece: str, copies: int, more: int) -> None:
    text = head + piece * copies + piece[:more]
    assume(len(text) - len(head) >= 48 + 2 * len(piece))

    period = period_of(text, 40)

    assert period
    left = without_copies(text, period)
    assert text.startswith(left) and len(left) <= len(head) + len(piece)
    assert (left + left[-period:] * (len(text) // period + 1)).startswith(text)
