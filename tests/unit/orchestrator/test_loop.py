"""What the repair loop promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import FAILING, PASSING, FakeRun, improvement, repair, repaired, run_of, tree

from orchestrator import loop
from orchestrator.errors import EngineMissing
from orchestrator.events import Kind, Status
from orchestrator.loop import verify
from orchestrator.steps import Usage, Written
from orchestrator.story import story
from orchestrator.task import Budget, Task
from orchestrator.tree import File, Tree

BASE = {"test_a.py::one": FAILING, "test_a.py::two": PASSING}
GREEN = dict.fromkeys(BASE, PASSING)


def green_when(content: str):
    """Outcomes that are green exactly for a tree whose a.py holds `content`."""
    return lambda candidate: GREEN if candidate.files["a.py"].content == content.encode() else BASE


async def test_a_certified_candidate_ends_the_run_with_its_patch() -> None:
    run = FakeRun(BASE, repairs=[repaired(improvement("fixed"), candidates=7)], judge=green_when("fixed"))

    outcome = await repair(run)

    assert (outcome.status, outcome.reason, outcome.attempts) == (Status.SUCCEEDED, "certified", 1)
    assert outcome.changes == {"a.py": File(content=b"fixed")}
    assert outcome.verdict is not None and outcome.verdict.certified
    assert (outcome.repairer, outcome.candidates) == ("search", 7)


async def test_tests_that_already_pass_need_no_repair() -> None:
    run = FakeRun(GREEN)

    outcome = await repair(run)

    assert (outcome.status, outcome.reason, outcome.changes) == (Status.SUCCEEDED, "already_passing", {})
    assert "repair" not in [call.method for call in run.calls]


async def test_two_fresh_runs_in_different_orders_stand_behind_a_certificate() -> None:
    run = FakeRun(BASE, repairs=[repaired(improvement("fixed"))], judge=green_when("fixed"))

    await repair(run)

    seeds = [call.request.seed for call in run.calls if call.method == "test"]
    assert len(seeds) == 2 and len(set(seeds)) == 2


async def test_a_refused_candidate_is_not_built_on_and_not_offered_again() -> None:
    run = FakeRun(
        BASE,
        repairs=[repaired(improvement("wrong")), repaired(improvement("fixed"))],
        judge=green_when("fixed"),
    )

    outcome = await repair(run)

    second = [call.request for call in run.calls if call.method == "repair"][1]
    assert outcome.reason == "certified" and outcome.attempts == 2
    assert second.tree == run.tree
    assert second.rejected == (run.tree.with_files({"a.py": File(content=b"wrong")}).digest,)


async def test_a_runner_up_is_tried_before_repairing_again() -> None:
    found = repaired(improvement("wrong"), alternatives=(improvement("fixed"),))
    run = FakeRun(BASE, repairs=[found], judge=green_when("fixed"))

    outcome = await repair(run)

    assert outcome.reason == "certified" and outcome.attempts == 1
    assert outcome.changes == {"a.py": File(content=b"fixed")}


async def test_partial_progress_is_kept_and_built_on() -> None:
    base = {"test_a.py::one": FAILING, "test_a.py::two": FAILING}
    run = FakeRun(base, repairs=[repaired(improvement("half", failing=["test_a.py::two"]))])

    outcome = await repair(run)

    second = [call.request for call in run.calls if call.method == "repair"][1]
    assert second.tree.files["a.py"].content == b"half" and second.failing == ("test_a.py::two",)
    assert outcome.reason == "stuck" and outcome.changes == {"a.py": File(content=b"half")}
    assert run.kept_patches == [({"a.py": File(content=b"half")}, ("test_a.py::two",))]


async def test_a_search_that_ends_empty_handed_says_why() -> None:
    exhausted = await repair(FakeRun(BASE, repairs=[repaired(None, exhausted=True)]))
    cut_short = await repair(FakeRun(BASE, repairs=[repaired(None, exhausted=False)]))

    assert exhausted.reason == "no_candidate"
    assert cut_short.reason == "budget_exhausted"


async def test_no_repair_starts_beyond_a_budget() -> None:
    out_of_time = FakeRun(BASE, seconds_left=0.0)
    out_of_cpu = FakeRun(
        BASE,
        repairs=[repaired(improvement("half", failing=["test_a.py::one"]), cpu_s=10.0)],
        task=Task(id="t", budget=Budget(search_cpu_s=10.0)),
    )

    assert (await repair(out_of_time)).reason == "budget_exhausted"
    assert (await repair(out_of_cpu)).reason == "budget_exhausted"
    assert [call.method for call in out_of_time.calls] == ["profile"]
    assert [call.method for call in out_of_cpu.calls].count("repair") == 1


async def test_attempts_are_bounded() -> None:
    wrong = [repaired(improvement(f"wrong {number}")) for number in range(5)]
    run = FakeRun(BASE, repairs=wrong, task=Task(id="t", budget=Budget(attempts=2)))

    outcome = await repair(run)

    assert (outcome.status, outcome.reason, outcome.attempts) == (Status.FAILED, "attempts_exhausted", 2)


async def test_an_integrity_alarm_parks_the_run_for_a_person() -> None:
    run = FakeRun(
        BASE,
        repairs=[repaired(improvement("cheat"))],
        judge=green_when("cheat"),
        runs=lambda outcomes, seed: run_of(outcomes, findings=("a.py:1 calls os._exit",)),
    )

    outcome = await repair(run)

    assert (outcome.status, outcome.reason) == (Status.PARKED, "integrity_alarm")
    assert outcome.verdict is not None and not outcome.verdict.certified


async def test_a_replayed_run_takes_up_the_progress_that_was_kept() -> None:
    base = {"test_a.py::one": FAILING, "test_a.py::two": FAILING}
    run = FakeRun(base, memory=({"a.py": File(content=b"half")}, ("test_a.py::two",)))

    await repair(run)

    first = next(call.request for call in run.calls if call.method == "repair")
    assert first.tree.files["a.py"].content == b"half" and first.failing == ("test_a.py::two",)


async def test_every_verdict_is_recorded() -> None:
    run = FakeRun(
        BASE,
        repairs=[repaired(improvement("wrong")), repaired(improvement("fixed"))],
        judge=green_when("fixed"),
    )

    await repair(run)

    verdicts = [
        data["verdict"]["certified"] for kind, data, _ in run.recorded if kind is Kind.VERDICT_REACHED
    ]
    assert verdicts == [False, True]


async def test_a_story_is_written_tested_and_repaired() -> None:
    run = FakeRun(
        BASE,
        written={
            "code": Written(files={"a.py": File(content=b"first")}, usage=Usage(prompt=3), engine="recorded"),
            "test": Written(files={"test_a.py": File(content=b"tests")}, usage=Usage(prompt=4)),
        },
        repairs=[repaired(improvement("fixed"))],
        judge=green_when("fixed"),
        task=Task(id="t", goal="add", model="recorded:x", graph="story"),
        tree=Tree(),
    )

    outcome = await story(run)

    assert outcome.reason == "certified" and outcome.usage.prompt == 7
    assert outcome.changes == {"a.py": File(content=b"fixed"), "test_a.py": File(content=b"tests")}


async def test_a_story_that_is_green_at_once_is_certified_without_repair() -> None:
    run = FakeRun(
        GREEN,
        written={
            "code": Written(files={"a.py": File(content=b"good")}, engine="recorded"),
            "test": Written(files={"test_a.py": File(content=b"tests")}),
        },
        task=Task(id="t", goal="add", model="recorded:x", graph="story"),
        tree=Tree(),
    )

    outcome = await story(run)

    assert (outcome.reason, outcome.repairer) == ("certified", "recorded")
    assert set(outcome.changes) == {"a.py", "test_a.py"}


async def test_a_goal_without_a_model_says_what_is_missing() -> None:
    with pytest.raises(EngineMissing, match="--model"):
        await story(FakeRun(BASE, task=Task(id="t", goal="add", graph="story")))


async def test_a_test_run_judges_the_tree_as_it_is() -> None:
    failing = await loop.test(FakeRun(BASE))
    passing = await loop.test(FakeRun(GREEN))

    assert (failing.status, failing.reason) == (Status.FAILED, "tests_failed")
    assert (passing.status, passing.reason) == (Status.SUCCEEDED, "certified")


async def test_verify_judges_the_candidate_under_the_tests_of_the_base() -> None:
    run = FakeRun(BASE, candidate=tree(a="fixed"), judge=green_when("fixed"))

    outcome = await verify(run)

    assert outcome.reason == "certified"
    assert all(call.request.base == run.tree for call in run.calls if call.method == "test")


async def test_tests_that_disagree_with_themselves_are_flaky_not_green() -> None:
    run = FakeRun(
        GREEN,
        runs=lambda outcomes, seed: run_of(dict.fromkeys(outcomes, FAILING if seed else PASSING)),
    )

    outcome = await loop.test(run)

    assert (outcome.status, outcome.reason) == (Status.FAILED, "flaky")


async def test_order_dependent_suites_keep_their_order() -> None:
    run = FakeRun(BASE, repairs=[repaired(improvement("fixed"))], judge=green_when("fixed"))
    original = run.call

    async def call(request):
        answer = await original(request)
        if request.method == "profile":
            return replace(answer, profile=replace(answer.profile, fixed_order=True))
        return answer

    run.call = call

    await repair(run)

    assert {request.request.seed for request in run.calls if request.method == "test"} == {0}
