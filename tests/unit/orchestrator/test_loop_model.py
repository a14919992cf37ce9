"""What the loop tells a repairer that asks a model, and how it goes on with one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fakes import FAILING, PASSING, FakeRun, improvement, repair, repaired, run_of

from orchestrator.loop import DETAIL_CHARACTERS, failure_details
from orchestrator.steps import RepairRequest
from orchestrator.task import Budget, Task
from orchestrator.tree import Tree
from orchestrator.verdict import CollectionError, Outcome, TestCase, TestRun

BASE = {"test_a.py::one": FAILING, "test_a.py::two": PASSING}
TASK = Task(id="t", model="m", budget=Budget(attempts=3))


def requests(run: FakeRun) -> list[RepairRequest]:
    return [call.request for call in run.calls if call.method == "repair"]  # type: ignore[misc]


def failing_run(outcomes: Any, seed: int) -> TestRun:
    cases = tuple(
        TestCase(id=test, outcome=outcome, detail=f"{test} said so") for test, outcome in outcomes.items()
    )
    return run_of(outcomes, cases=cases, seed=seed)


async def test_what_a_refused_candidate_failed_with_goes_into_the_next_request() -> None:
    run = FakeRun(
        BASE,
        repairs=[repaired(improvement("wrong")), repaired(None, exhausted=True)],
        runs=failing_run,
        task=TASK,
    )

    await repair(run)

    first, second = requests(run)
    assert first.refused is None
    assert second.refused is not None
    assert dict(second.refused.changes) == dict(improvement("wrong").changes)
    assert second.refused.details == {"test_a.py::one": "test_a.py::one said so"}
    assert len(second.rejected) == 1


async def test_a_model_goes_on_after_the_search_has_spent_its_share() -> None:
    spent = repaired(improvement("wrong"), cpu_s=1000.0)
    run = FakeRun(BASE, repairs=[spent, spent], task=TASK)

    await repair(run)

    assert [request.cpu_s for request in requests(run)][1:] == [0.0, 0.0]


async def test_without_a_model_a_spent_search_ends_the_run() -> None:
    spent = repaired(improvement("wrong"), cpu_s=1000.0)
    run = FakeRun(BASE, repairs=[spent, spent], task=replace(TASK, model=None))

    outcome = await repair(run)

    assert (outcome.reason, len(requests(run))) == ("budget_exhausted", 1)


async def test_the_repairer_of_the_certified_candidate_is_named() -> None:
    model = replace(improvement("fixed"), repairer="model")

    def outcomes(candidate: Tree) -> dict[str, Outcome]:
        return dict.fromkeys(BASE, PASSING) if candidate.files["a.py"].content == b"fixed" else BASE

    run = FakeRun(
        BASE, repairs=[repaired(improvement("wrong"), alternatives=(model,))], judge=outcomes, task=TASK
    )

    outcome = await repair(run)

    assert (outcome.reason, outcome.repairer) == ("certified", "model")


def test_details_are_of_failures_cut_and_bounded() -> None:
    cases = [TestCase(id=f"t::{number}", outcome=FAILING, detail="x" * 10_000) for number in range(50)]
    run = TestRun(
        cases=(TestCase(id="t::fine", outcome=PASSING, detail="no"), *cases),
        collection_errors=(CollectionError(path="test_b.py", detail="SyntaxError"),),
    )

    details = failure_details([run, run])

    assert list(details)[:2] == ["test_b.py", "t::0"]
    assert len(details) == 20
    assert all(len(text) < DETAIL_CHARACTERS + 10 for text in details.values())
