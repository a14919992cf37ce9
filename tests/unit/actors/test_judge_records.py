"""Records are believed when signature, number and phases are right, and only then."""

from __future__ import annotations

import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.judge.records import Told, read
from actors.judge.text import clean
from orchestrator.verdict import Outcome

KEY = b"k" * 32


def line(number: int, kind: str, key: bytes = KEY, **data: Any) -> bytes:
    text = json.dumps({"n": number, "kind": kind, **data}).encode()
    return hmac.digest(key, text, "sha256").hex().encode() + b" " + text + b"\n"


def phase(number: int, when: str, outcome: str = "passed", test: str = "t", xfail: bool = False) -> bytes:
    return line(number, "phase", id=test, when=when, outcome=outcome, xfail=xfail, duration=0.1, detail="d")


def lines(*phases: tuple[str, str], xfail: bool = False) -> list[bytes]:
    told = [line(0, "collected", ids=["t"], inexact=[])]
    told += [
        phase(n, when, outcome, xfail=xfail and when == "call") for n, (when, outcome) in enumerate(phases, 1)
    ]
    return [*told, line(len(told), "end", exit=0)]


GOOD = lines(("setup", "passed"), ("call", "passed"), ("teardown", "passed"))


def told(parts: list[bytes]) -> Told:
    return read(b"".join(parts), KEY)


def test_an_honest_run_is_read_whole() -> None:
    run = told(GOOD)

    assert run.complete
    assert run.irregular == ()
    assert [(case.id, case.outcome) for case in run.cases] == [("t", Outcome.PASSED)]
    assert run.cases[0].duration_s == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("phases", "xfail", "outcome"),
    [
        ([("setup", "failed"), ("teardown", "passed")], False, Outcome.ERROR),
        ([("setup", "passed"), ("call", "failed"), ("teardown", "passed")], False, Outcome.FAILED),
        ([("setup", "passed"), ("call", "failed"), ("teardown", "failed")], False, Outcome.FAILED),
        ([("setup", "passed"), ("call", "passed"), ("teardown", "failed")], False, Outcome.ERROR),
        ([("setup", "skipped"), ("teardown", "passed")], False, Outcome.SKIPPED),
        ([("setup", "passed"), ("call", "skipped"), ("teardown", "passed")], False, Outcome.SKIPPED),
        ([("setup", "passed"), ("call", "skipped"), ("teardown", "passed")], True, Outcome.XFAILED),
        ([("setup", "passed"), ("call", "passed"), ("teardown", "passed")], True, Outcome.XPASSED),
        ([("setup", "skipped"), ("teardown", "failed")], False, Outcome.ERROR),
    ],
)
def test_phases_make_an_outcome(phases: list[tuple[str, str]], xfail: bool, outcome: Outcome) -> None:
    assert told(lines(*phases, xfail=xfail)).cases[0].outcome is outcome


@pytest.mark.parametrize(
    "parts",
    [
        [*GOOD[:2], b"junk\n", *GOOD[2:]],
        [*GOOD[:2], GOOD[1], *GOOD[2:]],
        [*GOOD[:2], *GOOD[3:]],
        [GOOD[0], GOOD[2], GOOD[1], *GOOD[3:]],
        [*GOOD, line(5, "phase", id="t", when="call", outcome="passed", xfail=False, duration=0, detail="")],
        [
            GOOD[0],
            phase(1, "setup"),
            phase(2, "call", "failed"),
            phase(3, "call"),
            phase(4, "teardown"),
            line(5, "end"),
        ],
        [GOOD[0], phase(1, "setup"), phase(2, "teardown"), line(3, "end", exit=0)],
        [
            GOOD[0],
            *[phase(n, when, test="u") for n, when in enumerate(("setup", "call", "teardown"), 1)],
            line(4, "end"),
        ],
        [line(0, "collected", key=b"x" * 32, ids=["t"], inexact=[]), *GOOD[1:]],
        [GOOD[0], line(1, "collected", ids=["t"], inexact=[]), line(2, "end", exit=0)],
        [GOOD[0], line(1, "told", what=1), line(2, "end", exit=0)],
        [GOOD[0], line(1, "phase", id=[], when={}), line(2, "end", exit=0)],
        [line(0, "collected", ids=3, inexact=[]), line(1, "end", exit=0)],
        [b"\xff\xfe\x00 \n", *GOOD],
    ],
)
def test_anything_an_honest_reporter_never_does_is_irregular(parts: list[bytes]) -> None:
    assert told(parts).irregular


def test_without_its_end_a_run_is_not_complete() -> None:
    run = told(GOOD[:-1])

    assert not run.complete
    assert run.irregular == ()
    assert told([]).started is False


def test_a_failed_subtest_fails_its_test() -> None:
    sub = line(
        2, "subtest", id="t", when="call", outcome="failed", xfail=False, duration=0, detail="in the sub"
    )
    run = told(
        [GOOD[0], phase(1, "setup"), sub, phase(3, "call"), phase(4, "teardown"), line(5, "end", exit=0)]
    )

    assert run.cases[0].outcome is Outcome.FAILED
    assert "in the sub" in run.cases[0].detail


@given(st.binary(max_size=200))
def test_no_bytes_without_the_key_ever_count(data: bytes) -> None:
    run = read(data, KEY)

    assert run.cases == ()
    assert not run.complete


@given(st.text())
def test_cleaned_text_holds_nothing_that_steers(text: str) -> None:
    assert not set(clean(text)) & {"\x1b", "\x07", "\r", "\x00", "\u202e", "\u2066", "\u200b", "\u2028"}


def test_long_text_keeps_its_head_and_tail() -> None:
    text = clean("a" * 5000 + "b" * 5000, 300)

    assert text.startswith("a" * 100)
    assert text.endswith("b" * 200)
    assert "9700 characters left out" in text
