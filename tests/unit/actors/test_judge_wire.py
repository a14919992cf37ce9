"""Plain values cross unchanged; anything else is refused or referred to."""

# ruff: noqa: E501 - tables of small values
from __future__ import annotations

import datetime
import json
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.judge.apart.wire import Broken, decode, encode


def refuse(value: Any) -> Any:
    raise LookupError(f"{value!r} is no plain value")


def crossed(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value, refuse))), refuse)


_KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False)
_HASHABLE = st.recursive(_KEYS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner), max_leaves=5)
_VALUES = st.recursive(
    _HASHABLE
    | st.decimals(allow_nan=False)
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(_HASHABLE, inner) | st.sets(_HASHABLE),
    max_leaves=10,
)


@given(_VALUES)
def test_plain_values_cross_unchanged(value: Any) -> None:
    after = crossed(value)

    assert after == value and type(after) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        True, 1, 1.0, -0.0, 2**300, "\ud800", b"", bytearray(b"x"), 1 + 2j,
        Decimal("1.10"), Fraction(1, 3), UUID(int=3),
        datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC), datetime.timedelta(-1, 2, 3),
        {1: {"ref": 3}}, [[[]]],
    ],
)  # fmt: skip
def test_kinds_are_kept(value: Any) -> None:
    after = crossed(value)

    assert repr(after) == repr(value)


class Yes(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


@pytest.mark.parametrize("value", [Yes(1), object(), len, Yes, {"a": [Yes(1)]}, (i for i in ())])
def test_what_may_answer_for_itself_never_crosses(value: Any) -> None:
    with pytest.raises(LookupError):
        encode(value, refuse)


@pytest.mark.parametrize(
    "data",
    [
        [], [1], {}, {"list": 3}, {"list": None}, {"dict": [[1]]}, {"dict": [[{"list": []}, 1]]}, {"bytes": 3},
        {"Decimal": "x"}, {"UUID": "1"}, {"date": "tomorrow"}, {"timedelta": ["a"]}, {"object": 1}, {"set": [{"list": []}]},
        {"complex": "1+"}, {"Fraction": "1/0"},
    ],
)  # fmt: skip
def test_what_nobody_wrote_is_refused(data: Any) -> None:
    with pytest.raises(Broken):
        decode(data, refuse)
