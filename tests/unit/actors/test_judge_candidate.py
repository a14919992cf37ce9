"""Which judge's word stands when both were asked."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import FAILING, PASSING, run_of, tree

from actors.judge import candidate
from actors.judge.assemble import Assembled
from actors.judge.separate import Apart
from orchestrator.steps import TestRequest
from orchestrator.verdict import JudgeKind, TestProfile, TestRun

APART, BESIDE = JudgeKind.SEPARATE_PROCESS, JudgeKind.IN_PROCESS
GREEN, RED = {"t": PASSING}, {"t": FAILING}
NOTES = ("a test needs __eq__",)
WORD = ("what passes beside the tests does not pass in a process of its own",)


def apart(outcomes: Any, *notes: str, doubts: tuple[str, ...] = ()) -> Apart:
    return Apart(run=run_of(outcomes, judge=APART, cpu_s=1.0), notes=notes, doubts=doubts, calls=1)


async def stands(
    monkeypatch: pytest.MonkeyPatch, runs: list[Apart], beside: Any, *, seed: int = 0, test: str = ""
) -> TestRun:
    """The run whose word stands; every one of `runs` is asked for."""
    left = list(runs)

    async def run_apart(*_: Any, **__: Any) -> Apart:
        return left.pop(0)

    async def run_beside(*_: Any, **__: Any) -> tuple[TestRun, tuple[str, ...]]:
        assert beside is not None
        return run_of(beside, judge=BESIDE, cpu_s=1.0), ()

    monkeypatch.setattr(candidate, "run_apart", run_apart)
    monkeypatch.setattr(candidate, "_beside", run_beside)
    base = tree(a="1", test_a=test)
    profile = TestProfile(expected={"t": FAILING}, judge=APART, protected=frozenset({"test_a.py"}))
    request = TestRequest(base=base, candidate=base, profile=profile, seed=seed)
    run = await candidate.run_candidate(None, None, request, Assembled(tree=base, dropped=("x",)))  # type: ignore[arg-type]
    assert left == []
    assert run.dropped == ("x",)
    return run


@pytest.mark.parametrize(
    ("runs", "beside", "kind", "outcomes", "findings"),
    [
        pytest.param([apart(GREEN)], None, APART, GREEN, (), id="green apart is believed"),
        pytest.param([apart(RED)], RED, BESIDE, RED, (), id="red in both has the better words"),
        pytest.param([apart(RED, *NOTES)], GREEN, BESIDE, GREEN, (), id="what cannot cross is judged beside"),
        pytest.param([apart(GREEN, *NOTES)], GREEN, BESIDE, GREEN, (), id="a note is heard on green too"),
        pytest.param([apart(RED), apart(RED)], GREEN, BESIDE, GREEN, WORD, id="judges that differ"),
        pytest.param([apart(RED), apart(GREEN)], GREEN, APART, RED, (), id="luck stands as it fell"),
    ],
)
async def test_whose_word_stands(
    monkeypatch: pytest.MonkeyPatch,
    runs: list[Apart],
    beside: Any,
    kind: JudgeKind,
    outcomes: Any,
    findings: tuple[str, ...],
) -> None:
    run = await stands(monkeypatch, runs, beside)

    assert (run.judge, run.outcomes, run.findings) == (kind, outcomes, findings)


async def test_a_failure_apart_that_honest_code_may_have_is_no_contradiction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = apart(RED, doubts=("a test changes what the code gave it",))
    assert (await stands(monkeypatch, [changed], GREEN)).findings == ()
    asks = "from m import conf\ndef test_one():\n    assert conf() is conf()\n"
    assert (await stands(monkeypatch, [apart(RED)], GREEN, test=asks)).findings == ()
    plain = asks.replace("is conf()", "is None")
    assert (await stands(monkeypatch, [apart(RED), apart(RED)], GREEN, test=plain)).findings == WORD


async def test_a_failure_apart_in_another_order_only_is_no_contradiction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_order = [apart(RED), apart(RED), apart(GREEN)]
    assert (await stands(monkeypatch, in_order, GREEN, seed=3)).findings == ()
    never = [apart(RED), apart(RED), apart(RED)]
    assert (await stands(monkeypatch, never, GREEN, seed=3)).findings == WORD
