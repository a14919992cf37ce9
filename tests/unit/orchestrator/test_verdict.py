"""What `judge` concludes, and what it never calls green."""

from __future__ import annotations

import pytest
from fakes import FAILING, PASSING, run_of
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.verdict import (
    CollectionError,
    JudgeKind,
    Level,
    Outcome,
    RunEnd,
    TestCase,
    TestProfile,
    judge,
)

EXPECTED = {"a": FAILING, "b": PASSING, "c": Outcome.SKIPPED, "d": Outcome.XFAILED}
GREEN = {"a": PASSING, "b": PASSING, "c": Outcome.SKIPPED, "d": Outcome.XFAILED}
PROFILE = TestProfile(expected=EXPECTED)


def test_two_green_runs_are_certified() -> None:
    verdict = judge(PROFILE, [run_of(GREEN), run_of(GREEN, seed=1)])

    assert verdict.certified
    assert (verdict.passed, verdict.skipped) == (("a", "b"), ("c", "d"))


def test_one_green_run_is_not_enough() -> None:
    verdict = judge(PROFILE, [run_of(GREEN)])

    assert verdict.green and not verdict.certified


@pytest.mark.parametrize(
    "change",
    [
        {"end": RunEnd.TIMEOUT},
        {"end": RunEnd.OUTPUT_LIMIT},
        {"end": RunEnd.OUT_OF_MEMORY},
        {"complete": False},
        {"exit_code": 1},
        {"exit_code": None},
        {"irregular": ("a duplicate record",)},
        {"warm": True},
        {"findings": ("a.py:1 calls os._exit",)},
        {"collection_errors": (CollectionError(path="test_x.py", detail="boom"),)},
    ],
)
def test_anything_irregular_vetoes_the_certificate(change: dict[str, object]) -> None:
    verdict = judge(PROFILE, [run_of(GREEN), run_of(GREEN, **change)])

    assert not verdict.certified and verdict.findings


@pytest.mark.parametrize(
    ("outcomes", "group", "test"),
    [
        ({**GREEN, "b": FAILING}, "failed", "b"),
        ({**GREEN, "b": Outcome.ERROR}, "errors", "b"),
        ({**GREEN, "b": Outcome.SKIPPED}, "failed", "b"),
        ({**GREEN, "b": Outcome.XFAILED}, "failed", "b"),
        ({**GREEN, "a": Outcome.SKIPPED}, "failed", "a"),
        ({test: outcome for test, outcome in GREEN.items() if test != "b"}, "missing", "b"),
        ({**GREEN, "new": PASSING}, "failed", "new"),
    ],
)
def test_a_test_that_did_not_plainly_pass_is_not_green(
    outcomes: dict[str, Outcome], group: str, test: str
) -> None:
    verdict = judge(PROFILE, [run_of(outcomes), run_of(outcomes)])

    assert getattr(verdict, group) == (test,)
    assert not verdict.green and not verdict.certified


def test_a_duplicate_report_is_a_missing_test() -> None:
    run = run_of(GREEN, cases=(*run_of(GREEN).cases, TestCase(id="b", outcome=PASSING)))

    assert judge(PROFILE, [run, run]).missing == ("b",)


def test_runs_that_disagree_are_flaky() -> None:
    verdict = judge(PROFILE, [run_of(GREEN), run_of({**GREEN, "b": FAILING})])

    assert verdict.flaky == ("b",) and not verdict.certified


def test_the_weakest_judge_and_sandbox_speak_for_the_verdict() -> None:
    strong = run_of(GREEN, judge=JudgeKind.SEPARATE_PROCESS, level=Level.KERNEL)
    weak = run_of(GREEN, judge=JudgeKind.IN_PROCESS, level=Level.WEAK)

    verdict = judge(PROFILE, [strong, weak], judge_minimum=JudgeKind.SEPARATE_PROCESS)

    assert (verdict.judge, verdict.sandbox_level) == (JudgeKind.IN_PROCESS, Level.WEAK)
    assert not verdict.certified and "judge.minimum" in verdict.findings[-1]


def test_no_test_at_all_is_never_green() -> None:
    assert not judge(TestProfile(expected={}), [run_of({}), run_of({})]).certified


@given(
    base=st.dictionaries(st.text(min_size=1, max_size=3), st.sampled_from(Outcome), max_size=6),
    runs=st.lists(
        st.dictionaries(st.text(min_size=1, max_size=3), st.sampled_from(Outcome), max_size=6),
        min_size=1,
        max_size=3,
    ),
)
def test_every_expected_test_lands_in_exactly_one_group(
    base: dict[str, Outcome], runs: list[dict[str, Outcome]]
) -> None:
    verdict = judge(TestProfile(expected=base), [run_of(outcomes) for outcomes in runs])

    groups = [verdict.passed, verdict.failed, verdict.skipped, verdict.errors, verdict.missing, verdict.flaky]
    placed = [test for group in groups for test in group]
    assert sorted(placed) == sorted({*base, *(test for outcomes in runs for test in outcomes)})
    if verdict.certified:
        assert all(outcomes.get(test) in (PASSING, base[test]) for outcomes in runs for test in base)


def test_what_fails_by_luck_is_no_failure_and_no_repair_is_spent_on_it() -> None:
    profile = TestProfile(expected={"a": FAILING, "b": PASSING, "c": FAILING}, flaky=frozenset({"a", "b"}))

    verdict = judge(profile, [run_of({"a": FAILING, "b": FAILING, "c": PASSING})] * 2)
    lucky = judge(profile, [run_of({"a": PASSING, "b": PASSING, "c": PASSING})] * 2)

    assert profile.failing == ("c",)
    assert (verdict.flaky, verdict.failed, verdict.passed) == (("a", "b"), (), ("c",))
    assert not verdict.certified
    assert lucky.certified
