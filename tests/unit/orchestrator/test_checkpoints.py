"""Checkpoints and scores of a run, read from its log."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.building import Measured
from orchestrator.checkpoints import checkpoints, quality, resources
from orchestrator.codec import to_json
from orchestrator.events import NodeState, RunState, Status, StepState
from orchestrator.report import result
from orchestrator.steps import Finding, Severity, Usage

MEASURED = Measured(
    quality=90.0,
    security=60.0,
    maintainability=75.0,
    findings=(Finding(path="a.py", line=1, severity=Severity.HIGH, kind="secret", message="a key"),),
)


def ended(name: str, **data: Any) -> NodeState:
    told = {"reason": "done", "explanation": "", "wall_s": 1.5, "metrics": {}, "files": [], **data}
    return NodeState(
        node=name, status="done", started_at="1", ended_at="2", artifact=f"digest of {name}", data=told
    )


def step(name: str, result: str) -> StepState:
    return StepState(step=name, attempt=0, status="completed", epoch=1, dispatch_id=None, result=result)


def state(status: Status, nodes: list[NodeState], steps: list[StepState], reason: str = "") -> RunState:
    return RunState(
        run_id="r-1",
        status=status,
        reason=reason or None,
        nodes={each.node: each for each in nodes},
        steps={(each.step, each.attempt): each for each in steps},
    )


def test_stages_are_told_in_order_with_the_nodes_inside_them() -> None:
    spent = resources(Usage(requests=2, gpu_s=0.5), 1.25)
    nodes = [ended("code", resources=spent, files=["a.py"]), ended("tests"), ended("tests/write")]

    code, tests = checkpoints(state(Status.SUCCEEDED, nodes, [step("code/write", "written")]))

    assert (code["stage"], code["status"], code["wall_s"], code["files"]) == ("code", "done", 1.5, ["a.py"])
    assert code["artifacts"] == {"output": "digest of code", "code/write": "written"}
    assert code["resources"] == {"cpu_s": 1.25, "gpu_s": 0.5, "cost_usd": 0.0, "requests": 2, "tokens": {}}
    assert [each["stage"] for each in tests["parts"]] == ["tests/write"] and tests["artifacts"].keys() == {
        "output"
    }


@pytest.mark.parametrize(
    ("status", "reason", "told"),
    [
        (Status.FAILED, "insecure", ("failed", "insecure")),
        (Status.CANCELLED, "cancelled_by_user", ("cancelled", "cancelled_by_user")),
        (Status.RUNNING, "", ("running", "")),
    ],
)
def test_a_stage_without_an_end_stands_as_its_run_does(
    status: Status, reason: str, told: tuple[str, str]
) -> None:
    begun = NodeState(node="validation", status="running", started_at="1")

    (found,) = checkpoints(state(status, [begun], [], reason))

    assert (found["status"], found["reason"]) == told and found["ended_at"] is None


def test_scores_are_those_measured_last_whatever_became_of_the_stage() -> None:
    kept = {
        "old": to_json(Measured(quality=1.0, security=1.0, maintainability=1.0)),
        "new": to_json(MEASURED),
    }
    steps = [step("a/quality", "old"), step("b/quality", "new"), step("quality/other", "old")]
    run = state(Status.FAILED, [ended("code")], steps, "insecure")

    found = quality(run, kept.__getitem__)

    assert found is not None and found["score"] == 75.0 and found["findings"][0]["path"] == "a.py"
    assert quality(state(Status.FAILED, [], []), kept.__getitem__) is None
    told = result(run, kept.__getitem__)
    assert told["quality"] == found and [each["stage"] for each in told["checkpoints"]] == ["code"]
    assert "checkpoints" not in result(state(Status.FAILED, [], []), kept.__getitem__)
