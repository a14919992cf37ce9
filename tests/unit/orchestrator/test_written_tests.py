"""Tests that are written beside a repair: who writes them, and which are taken in."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
from fakes import FAILING, PASSING, FakeRun, run_of

from cluster.graphs import parsed
from orchestrator.events import Status
from orchestrator.graph_work import execute
from orchestrator.loop import Outcome
from orchestrator.steps import Observed, Profiled, ProfileRequest, Proposed, ProposedCall, Repaired, Written
from orchestrator.task import Task
from orchestrator.tree import File
from orchestrator.verdict import Outcome as TestOutcome
from orchestrator.verdict import Strength, TestProfile
from orchestrator.written_tests import without_tests

BASE = {"test_a.py::one": FAILING}
NEW = "from a import f\n\n\ndef test_x():\n    assert f(0) == 1\n\n\ndef test_y():\n    assert f(1) == 2\n"
CALL = ProposedCall(path="test_a.py", imports="from a import f", name="f", expression="f(0)")
NODES: dict[str, Any] = {
    "plan": {"kind": "agent", "role": "run", "work": "profile"},
    "fix": {"kind": "repair_loop", "inputs": {"profile": "$plan.profile"}},
    "writer": {
        "kind": "agent", "role": "test", "work": "write", "inputs": {"profile": "$plan.profile"},
        "policy": {"on_failure": "continue"},
    },
    "checker": {
        "kind": "agent", "role": "run", "work": "admit", "patch_of": "fix",
        "inputs": {"profile": "$plan.profile", "tests": "$writer.tests", "calls": "$writer.calls"},
        "policy": {"on_failure": "continue", "test_strength": 0.5},
    },
    "end": {"kind": "select", "of": ["checker", "fix"], "rule": "first_green"},
}  # fmt: skip


def files_of(text: str) -> dict[str, File]:
    return {"test_new.py": File(content=text.encode())}


class Writing(FakeRun):
    """Profiles new tests as `shows` says: outcomes by test name."""

    shows: ClassVar[dict[str, TestOutcome]] = {"test_x": PASSING, "test_y": PASSING}
    flaky: ClassVar[frozenset[str]] = frozenset()

    async def answer(self, call: Any) -> Any:
        if isinstance(call.request, ProfileRequest) and call.request.tests:
            files = {path: call.request.tree.files[path].content.decode() for path in call.request.tests}
            seen = {
                f"{path}::{name}": outcome
                for path, text in files.items()
                for name, outcome in self.shows.items()
                if f"def {name}(" in text
            }
            flaky = frozenset(test for test in seen if test.partition("::")[2] in self.flaky)
            return Profiled(profile=TestProfile(expected=seen, flaky=flaky), run=run_of(seen))
        return await super().answer(call)


async def ended(run: FakeRun, **policy: Any) -> Outcome:
    nodes = {**NODES, "checker": {**NODES["checker"], "policy": {**NODES["checker"]["policy"], **policy}}}
    return await execute(parsed(json.dumps({"name": "g", "nodes": nodes, "result": ["end"]}), "g"), run)


def writing(**more: Any) -> Writing:
    from fakes import improvement

    repairs = [Repaired(best=improvement("fixed"), repairer="search")]
    values: dict[str, Any] = {
        "proposed": Proposed(calls=(CALL,)),
        "observed": Observed(files=files_of(NEW), tried=1),
        "strength": Strength(tests=2, mutants=4, survivors=("a.py:1",)),
    }
    return Writing(
        BASE,
        repairs=repairs,
        judge=lambda candidate: (
            {"test_a.py::one": PASSING} if candidate.files["a.py"].content == b"fixed" else BASE
        ),
        **{**values, **more},
    )


async def test_what_passes_on_the_patch_and_notices_enough_joins_it() -> None:
    run = writing()

    outcome = await ended(run)

    assert outcome.status is Status.SUCCEEDED and sorted(outcome.changes) == ["a.py", "test_new.py"]
    assert "2 tests added in test_new.py" in outcome.explanation
    assert run.ends["checker"]["metrics"] == {"added": 2, "strength": 0.75}


async def test_tests_that_fail_on_the_patch_come_by_luck_or_pass_on_a_stub_are_cut_out() -> None:
    class Some(Writing):
        shows: ClassVar = {"test_x": PASSING, "test_y": FAILING, "test_z": PASSING, "test_w": PASSING}
        flaky: ClassVar = frozenset({"test_w"})

    text = NEW + "\n\ndef test_z():\n    pass\n\n\ndef test_w():\n    pass\n"
    run = writing(
        observed=Observed(files=files_of(text)), strength=Strength(tests=2, idle=("test_new.py::test_z",))
    )
    run.__class__ = Some

    outcome = await ended(run)

    added = outcome.changes["test_new.py"]
    assert added is not None and "def test_x" in added.content.decode()
    assert not any(f"def test_{name}" in added.content.decode() for name in "yzw")


@pytest.mark.parametrize(
    "more",
    [
        {"strength": Strength(tests=2, mutants=4, survivors=("1", "2", "3"))},
        {"strength": Strength(tests=2, idle=("test_new.py::test_x", "test_new.py::test_y"))},
        {"observed": Observed(), "proposed": Proposed()},
    ],
)
async def test_without_tests_that_are_worth_it_the_patch_goes_on_alone(more: dict[str, Any]) -> None:
    run = writing(**more)

    outcome = await ended(run)

    assert outcome.status is Status.SUCCEEDED and sorted(outcome.changes) == ["a.py"]
    assert run.ends["checker"]["reason"] in ("tests_refused", "nothing_to_add")


async def test_the_threshold_is_the_nodes_own() -> None:
    outcome = await ended(writing(), test_strength=0.8)

    assert sorted(outcome.changes) == ["a.py"]


async def test_a_model_writes_tests_too_and_replaces_no_file() -> None:
    theirs = {"test_a.py": File(content=b"def test_one(): pass\n"), **files_of(NEW)}
    run = writing(
        observed=Observed(),
        proposed=Proposed(),
        written={"test": Written(files=theirs, engine="recorded")},
        task=Task(id="t", model="recorded:x"),
    )

    outcome = await ended(run)

    assert sorted(outcome.changes) == ["a.py", "test_new.py"]
    (asked,) = [call.request for call in run.calls if call.method == "write"]
    assert "test_a.py::one" in asked.goal and asked.model == "recorded:x"


async def test_tests_outside_the_allowed_paths_are_left_out() -> None:
    outcome = await ended(writing(), allowed_paths=["tests/*"])

    assert sorted(outcome.changes) == ["a.py"]


def test_a_test_is_cut_out_with_its_decorators_and_the_rest_stays() -> None:
    text = (
        "import pytest\n\nN = 1  # kept\n\n\n"
        "@pytest.mark.parametrize('n', [1, 2])\ndef test_a(n):\n    pass\n\n\n"
        "class TestB:\n    def test_c(self):\n        pass\n"
    )

    kept = without_tests(files_of(text), ["test_new.py::test_a[2]"])

    assert b"test_a" not in kept["test_new.py"].content and b"N = 1  # kept" in kept["test_new.py"].content
    assert without_tests(files_of(text), ["test_new.py::test_a[1]", "test_new.py::TestB::test_c"]) == {}
    assert without_tests(files_of(text), ["test_new.py"]) == {}
