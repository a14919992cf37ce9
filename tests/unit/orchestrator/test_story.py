"""Graph `story`: who is asked for what, and what a review may change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import PASSING, FakeRun, tree

from cluster.graphs import shipped
from orchestrator.errors import EngineDown, StoreError
from orchestrator.graph_work import execute
from orchestrator.plan import Plan, PlannedFile, PlanWhen
from orchestrator.steps import Finding, Planned, Reviewed, Severity, Usage, Written
from orchestrator.story import story
from orchestrator.task import AgentSettings, Task
from orchestrator.tree import Tree
from orchestrator.verdict import Strength

BASE = {"tests/test_a.py::one": PASSING}
TASK = Task(id="t", graph="story", goal="A service with several parts", model="m")
PLAN = Plan(
    project="service",
    files=tuple(PlannedFile(path=path) for path in ("a.py", "b.py", "tests/test_a.py")),
)
WRITTEN = {
    "code": Written(files=dict(tree(a="1", b="2").files), usage=Usage(completion=10), engine="openai"),
    "test": Written(files=dict(tree(tests__test_a="3").files), usage=Usage(completion=5)),
}
FOUND = Finding(path="a.py", line=1, severity=Severity.HIGH, kind="security", message="look")


def a_run(**changes: Any) -> FakeRun:
    values: dict[str, Any] = {"written": WRITTEN, "task": TASK, "tree": Tree()}
    return FakeRun(BASE, **{**values, **changes})


def asked(run: FakeRun, method: str) -> list[Any]:
    return [call.request for call in run.calls if call.method == method]


async def test_a_plan_says_what_coder_and_tester_write() -> None:
    run = a_run(planned=Planned(plan=PLAN, usage=Usage(completion=3)))

    outcome = await story(run)

    code, tests = asked(run, "write")
    assert [file.path for file in code.wanted] == ["a.py", "b.py"]
    assert [file.path for file in tests.wanted] == ["tests/test_a.py"]
    assert code.plan == tests.plan == PLAN
    assert (outcome.reason, outcome.usage.completion) == ("certified", 18)


async def test_without_a_usable_plan_the_goal_is_written_all_the_same() -> None:
    run = a_run()

    outcome = await story(run)

    assert [request.wanted for request in asked(run, "write")] == [(), ()]
    assert outcome.reason == "certified"


@pytest.mark.parametrize(
    "run",
    [
        a_run(task=replace(TASK, goal="in app.py")),
        a_run(task=replace(TASK, agents=AgentSettings(plan=PlanWhen.NEVER))),
        a_run(tree=tree(old="x")),
    ],
)
async def test_a_single_file_a_folder_and_a_switch_do_without_a_planner(run: FakeRun) -> None:
    await story(run)

    assert [call.method for call in run.calls][:2] == ["write", "write"]


REVIEWED = replace(TASK, agents=AgentSettings(review=True))


async def test_what_a_reviewer_finds_is_told_and_changes_nothing() -> None:
    run = a_run(task=REVIEWED, reviewed=Reviewed(findings=(FOUND,), usage=Usage(completion=7)))

    outcome = await execute(shipped("story"), run)

    (request,) = asked(run, "review")
    assert set(request.changes) == {"a.py", "b.py", "tests/test_a.py"}
    assert (outcome.status, outcome.reason, outcome.findings) == ("succeeded", "certified", (FOUND,))
    assert outcome.usage.completion == 22


@pytest.mark.parametrize("changes", [{"reviewed": EngineDown("gone")}, {"seconds_left": 1.0}])
async def test_a_review_that_fails_or_has_no_time_leaves_the_certificate(changes: dict[str, Any]) -> None:
    run = a_run(task=REVIEWED, **changes)

    outcome = await execute(shipped("story"), run)

    assert (outcome.reason, outcome.findings) == ("certified", ())


async def test_a_store_that_is_gone_is_no_matter_of_the_review() -> None:
    with pytest.raises(StoreError):
        await execute(shipped("story"), a_run(task=REVIEWED, reviewed=StoreError("gone")))


@pytest.mark.parametrize(
    "changes", [{"task": TASK}, {"task": replace(REVIEWED, graph="repair"), "tree": tree(a="x", test_a="y")}]
)
async def test_nothing_is_reviewed_unasked_or_where_nothing_was_changed(changes: dict[str, Any]) -> None:
    run = a_run(**changes)

    await execute(shipped(run.task.graph), run)

    assert asked(run, "review") == []


@pytest.mark.parametrize(
    ("survivors", "reason"), [(("a.py:1: returns None",), "certified"), (("x",) * 3, "not_certified")]
)
async def test_tests_that_notice_too_little_give_no_certificate(
    survivors: tuple[str, ...], reason: str
) -> None:
    strength = Strength(tests=2, mutants=4, survivors=survivors)
    run = a_run(task=replace(TASK, judge_strength=0.5), strength=strength)

    outcome = await story(run)

    (request,) = asked(run, "strength")
    assert (request.code, sorted(request.tree.files)) == (
        ("a.py", "b.py"),
        ["a.py", "b.py", "tests/test_a.py"],
    )
    assert outcome.reason == reason and outcome.verdict is not None
    assert outcome.verdict.strength == strength
    assert run.recorded[-1][1]["verdict"]["strength"] == strength.score


async def test_strength_is_not_measured_unasked() -> None:
    run = a_run()

    outcome = await story(run)

    assert asked(run, "strength") == []
    assert outcome.verdict is not None and outcome.verdict.strength is None
