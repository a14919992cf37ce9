"""What the works that build an application do, and how the shipped graphs use them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from fakes import FAILING, PASSING, FakeRun, improvement, repaired, tree

from cluster.graphs import parsed, shipped
from orchestrator.building import Formatted, Layered, Measured, Requirements, Served, ServiceEnd
from orchestrator.errors import EngineMissing, TaskError
from orchestrator.events import Status
from orchestrator.graph_work import execute
from orchestrator.loop import Outcome
from orchestrator.plan import Plan, PlannedFile
from orchestrator.ports import Call
from orchestrator.steps import Finding, Planned, Severity, Usage, Written
from orchestrator.task import Budget, Task
from orchestrator.tree import File, Tree

ONE = "tests/test_a.py::one"
PLAN = Plan(
    project="service",
    files=tuple(PlannedFile(path=path) for path in ("a.py", "README.md", "tests/test_a.py")),
)
GOOD = Measured(quality=90.0, security=80.0, maintainability=70.0)
LEAK = Finding(path="a.py", line=3, severity=Severity.HIGH, kind="secret", message="looks like a key")


def file(text: str) -> File:
    return File(content=text.encode())


@dataclass
class Building(FakeRun):
    """A run whose agents also build; `answers` are by method, `by_wanted` by the path that is wanted."""

    base: Mapping[str, Any] = field(default_factory=lambda: {ONE: PASSING})
    answers: dict[str, Any] = field(default_factory=dict)
    by_wanted: Mapping[str, Written] = field(default_factory=dict)
    planned: Planned = field(default_factory=lambda: Planned(plan=PLAN))
    task: Task = field(default_factory=lambda: Task(id="t", goal="A service", model="m"))
    tree: Tree = field(default_factory=Tree)

    async def answer(self, call: Call[Any]) -> Any:
        if call.method in self.answers:
            return self.answers[call.method]
        if call.method == "write":
            wanted = call.request.wanted  # type: ignore[attr-defined]
            return self.by_wanted[wanted[0].path if wanted else "tests/test_a.py"]
        return await super().answer(call)


def building(**changes: Any) -> Building:
    answers = {
        "requirements": Requirements(items=("It answers", "It stays"), service=True),
        "quality": GOOD,
        "form": Formatted(files={"a.py": file("formed")}, looked_at=2),
        "serve": Served(end=ServiceEnd.HEALTHY, explanation="/health answers 200"),
        **changes.pop("answers", {}),
    }
    by_wanted = {
        "a.py": Written(files={"a.py": file("code")}, engine="recorded", usage=Usage(requests=1)),
        "README.md": Written(files={"README.md": file("read")}, engine="recorded"),
        "tests/test_a.py": Written(files={"tests/test_a.py": file("tests")}, engine="recorded"),
    }
    return Building(answers=answers, by_wanted=by_wanted, **changes)


async def new_app(run: Building) -> Outcome:
    return await execute(shipped("new-app"), run)


def asked(run: Building, method: str) -> list[Any]:
    return [call.request for call in run.calls if call.method == method]


STAGES = ["requirements", "structure", "code", "extras", "tests", "validation", "formatting", "execution"]


async def test_a_goal_goes_through_eight_stages_and_leaves_a_checkpoint_after_each() -> None:
    run = building()

    outcome = await new_app(run)

    assert (outcome.status, outcome.reason) == (Status.SUCCEEDED, "certified")
    assert [name for name in run.ended if "/" not in name] == STAGES
    assert {path: each.content for path, each in outcome.changes.items() if each} == {
        "a.py": b"formed",
        "README.md": b"read",
        "tests/test_a.py": b"tests",
    }
    assert outcome.repairer == "recorded"
    for name in STAGES:
        assert run.ends[name]["status"] == "done" and set(run.ends[name]) >= {
            "metrics",
            "resources",
            "tokens",
        }
    assert run.ends["validation"]["metrics"]["score"] == 80.0
    assert run.ends["code"]["resources"]["requests"] == 1 and run.ends["extras"]["resources"]["requests"] == 0


async def test_every_writer_is_asked_for_its_part_of_the_plan_only() -> None:
    run = building()

    await new_app(run)

    requests = asked(run, "write")
    assert [[each.path for each in request.wanted] for request in requests] == [
        ["a.py"],
        ["README.md"],
        ["tests/test_a.py"],
    ]
    assert "- It stays" in requests[0].goal and asked(run, "plan")[0].goal == requests[0].goal
    assert sorted(requests[2].tree.files) == ["README.md", "a.py"]


async def test_what_a_writer_gave_beside_its_part_is_not_asked_for_again() -> None:
    run = building()
    both = Written(files={"a.py": file("code"), "README.md": file("read")})
    run.by_wanted = {**run.by_wanted, "a.py": both}

    await new_app(run)

    assert [request.wanted[0].path for request in asked(run, "write")] == ["a.py", "tests/test_a.py"]
    assert run.ends["extras"]["reason"] == "nothing_to_do"


async def test_tests_that_the_plan_forgot_are_written_all_the_same() -> None:
    run = building(planned=Planned(plan=Plan(project="service", files=PLAN.files[:2])))

    outcome = await new_app(run)

    assert asked(run, "write")[-1].wanted == () and "tests/test_a.py" in outcome.changes


async def test_a_goal_that_nobody_can_take_apart_stands_for_itself() -> None:
    run = building(answers={"requirements": Requirements(refused="no JSON")})

    outcome = await new_app(run)

    assert outcome.reason == "certified" and asked(run, "plan")[0].goal == "A service"
    assert "no JSON" in run.ends["requirements"]["explanation"]


async def test_without_a_plan_the_run_ends_with_the_reason() -> None:
    outcome = await new_app(building(planned=Planned(plan=None, refused="a circle")))

    assert (outcome.status, outcome.reason) == (
        Status.FAILED,
        "no_plan",
    ) and "a circle" in outcome.explanation


async def test_code_whose_tests_fail_is_repaired_and_the_stages_go_on_with_the_repair() -> None:
    def judge(candidate: Tree) -> dict[str, Any]:
        is_mended = candidate.files["a.py"].content in (b"mended", b"formed")
        return {ONE: PASSING if is_mended else FAILING}

    run = building(judge=judge, base={ONE: FAILING}, repairs=[repaired(improvement("mended"))])
    # The formatted tree is tested anew, and passes.
    answer = run.answer

    async def once_mended(call: Call[Any]) -> Any:
        if call.method == "profile" and call.step.startswith("execution"):
            run.base = {ONE: PASSING}
        return await answer(call)

    run.answer = once_mended  # type: ignore[method-assign]

    outcome = await new_app(run)

    assert (outcome.reason, outcome.repairer) == ("certified", "search")
    (request,) = asked(run, "form")
    assert request.tree.files["a.py"].content == b"mended"
    assert run.ends["tests/repair"]["status"] == "done"


async def test_code_that_cannot_be_repaired_ends_the_run_and_is_kept() -> None:
    run = building(base={ONE: FAILING}, task=Task(id="t", goal="g", model="m", budget=Budget(attempts=2)))

    outcome = await new_app(run)

    assert (outcome.status, outcome.reason) == (Status.FAILED, "no_candidate")
    assert sorted(outcome.changes) == ["README.md", "a.py", "tests/test_a.py"]
    assert sorted(run.kept_patches[-1][0]) == ["README.md", "a.py", "tests/test_a.py"]
    assert run.kept_patches[-1][1] == (ONE,)
    assert asked(run, "quality") == []


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        (Measured(quality=10.0, security=80.0, maintainability=20.0), "poor_quality"),
        (Measured(quality=90.0, security=60.0, maintainability=90.0, findings=(LEAK,)), "insecure"),
    ],
)
async def test_code_that_does_not_pass_validation_is_kept_and_not_started(
    measured: Measured, reason: str
) -> None:
    run = building(answers={"quality": measured})

    outcome = await new_app(run)

    assert (outcome.status, outcome.reason) == (Status.FAILED, reason)
    assert sorted(outcome.changes) == ["README.md", "a.py", "tests/test_a.py"] and asked(run, "serve") == []


@pytest.mark.parametrize("end", [each for each in ServiceEnd if each is not ServiceEnd.HEALTHY])
async def test_a_service_that_does_not_answer_ends_the_run_with_its_reason(end: ServiceEnd) -> None:
    run = building(answers={"serve": Served(end=end, explanation="why")})

    outcome = await new_app(run)

    assert (outcome.status, outcome.reason, outcome.explanation) == (Status.FAILED, str(end), "why")
    assert outcome.changes["a.py"] == file("formed")


@pytest.mark.parametrize("service", [False, None])
async def test_a_goal_for_no_service_needs_none(service: bool | None) -> None:
    requirements = Requirements(items=("It adds",), service=service)
    run = building(answers={"requirements": requirements, "serve": Served(end=ServiceEnd.NO_SERVICE)})

    assert (await new_app(run)).reason == "certified"


async def test_inputs_reach_the_stages_they_are_for() -> None:
    inputs = {"quality": "81", "health": "/up", "service_timeout_s": "7"}
    run = building(task=Task(id="t", goal="g", model="m", inputs=inputs))

    assert (await new_app(run)).reason == "poor_quality"

    again = building(task=Task(id="t", goal="g", model="m", inputs={**inputs, "quality": 80}))
    assert (await new_app(again)).reason == "certified"
    (served,) = asked(again, "serve")
    assert (served.health, served.timeout_s, served.openapi) == ("/up", 7.0, "/openapi.json")


async def test_a_goal_without_a_model_is_the_caller_s_to_mend() -> None:
    with pytest.raises(EngineMissing):
        await new_app(building(task=Task(id="t", goal="g")))


def one_node(work: str, inputs: Mapping[str, Any], **more: Any) -> Any:
    node = {"kind": "agent", "role": "run", "work": work, "inputs": inputs, **more}
    return parsed(json.dumps({"name": "g", "nodes": {"a": node}, "result": ["a"]}), "g.yaml")


@pytest.mark.parametrize(
    ("work", "inputs", "told"),
    [
        ("quality", {"minimum": "high"}, "`minimum` is 'high'"),
        ("quality", {"minimum": -1}, "`minimum` is -1"),
        ("quality", {"fail_on": "grave"}, "`fail_on` is 'grave'"),
        ("form", {"line_length": 3}, "`line_length` is 3"),
        ("serve", {"timeout_s": True}, "`timeout_s` is True"),
        ("layers", {"order": "domain"}, "`order` is 'domain'"),
        ("layers", {"order": [["a", 1]]}, "`order` is [['a', 1]]"),
        ("layers", {"order": []}, "`order` is []"),
    ],
)
async def test_an_input_of_the_wrong_kind_is_refused_with_its_value(
    work: str, inputs: Mapping[str, Any], told: str
) -> None:
    with pytest.raises(TaskError, match=re.escape(told)):
        await execute(one_node(work, inputs), building())


async def test_layers_whose_imports_point_outward_fail_the_node() -> None:
    found = Finding(path="a.py", line=1, severity=Severity.MEDIUM, kind="layers", message="a imports b")
    run = building(answers={"layers": Layered(findings=(found,))})

    outcome = await execute(one_node("layers", {"order": ["a", ["b", "c"]]}), run)

    assert (outcome.reason, outcome.findings) == ("layers_broken", (found,))
    assert asked(run, "layers")[0].order == (("a",), ("b", "c"))


async def test_a_writer_is_told_which_paths_its_policy_allows() -> None:
    node = {"kind": "agent", "role": "code", "work": "write", "policy": {"allowed_paths": ["app/*"]}}
    graph = parsed(
        json.dumps({"name": "g", "nodes": {"a": {**node, "inputs": {"ask": "Now."}}}, "result": ["a"]}), "g"
    )
    run = building(answers={"write": Written(files=dict(tree(app__x="1").files))})

    outcome = await execute(graph, run)

    (request,) = asked(run, "write")
    assert request.allowed == ("app/*",) and request.goal == "A service\n\nNow."
    assert list(outcome.changes) == ["app/x.py"]
