"""What executing a graph promises: when nodes start, what becomes of them, and what a replay repeats."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fakes import FAILING, PASSING, FakeRun, improvement, repaired, tree

from cluster.graphs import parsed
from orchestrator.declaration import Declaration, Node, Retry
from orchestrator.errors import AgentError, BudgetSpent, SandboxError, StoreError, TaskError
from orchestrator.events import Status
from orchestrator.graph_run import Given, execute, pause_s
from orchestrator.graph_work import execute as execute_shipped
from orchestrator.loop import Outcome
from orchestrator.steps import Allowance, Improvement, Usage
from orchestrator.task import Budget, Task
from orchestrator.tree import File
from orchestrator.verdict import Level

STEP = {"kind": "agent", "role": "run", "work": "profile"}
DONE = Outcome(status=Status.SUCCEEDED, reason="done")
BAD = Outcome(status=Status.FAILED, reason="tests_failed")


def graph(nodes: Mapping[str, Any], **more: Any) -> Declaration:
    return parsed(json.dumps({"name": "g", "nodes": nodes, "result": [list(nodes)[-1]], **more}), "g.yaml")


class Works:
    """Works by node: an outcome, an error, or an event to wait for; tells what began and ended."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.began: list[str] = []
        self.ended: list[str] = []
        self.given: dict[str, Given] = {}

    def __call__(self, _node: Node) -> Callable[[Given], Any]:
        return self._work

    async def _work(self, given: Given) -> tuple[Outcome, Mapping[str, Any]]:
        name = given.run.place.path
        self.began.append(name)
        self.given[name] = given
        answer = self.answers.get(name, DONE)
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = DONE
        if isinstance(answer, Exception):
            raise answer
        self.ended.append(name)
        outcome, data = answer if isinstance(answer, tuple) else (answer, {})
        return outcome, data


def writes(path: str, text: str) -> Outcome:
    return Outcome(status=Status.SUCCEEDED, reason="done", changes={path: File(content=text.encode())})


async def until(happened: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not happened():  # noqa: ASYNC110 - what is waited for is a plain value
            await asyncio.sleep(0)


async def test_a_node_starts_when_its_own_needs_have_ended_whatever_else_still_runs() -> None:
    nodes = {
        "a1": STEP,
        "b1": STEP,
        "a2": {**STEP, "needs": ["a1"]},
        "end": {**STEP, "needs": ["a2", "b1"]},
    }
    slow = asyncio.Event()
    works = Works(b1=slow)

    running = asyncio.create_task(execute(graph(nodes), FakeRun({}), works))
    await until(lambda: "a2" in works.ended)
    assert "b1" not in works.ended and "end" not in works.began
    slow.set()

    assert (await running).status is Status.SUCCEEDED
    assert works.ended[-1] == "end"


async def test_what_has_ended_is_never_done_again() -> None:
    nodes = {"a": STEP, "b": {**STEP, "needs": ["a"]}, "c": {**STEP, "needs": ["b"]}}
    run = FakeRun({})
    first = Works(c=AgentError("no"), b=(writes("b.py", "b"), {"x": [1]}))
    with pytest.raises(AgentError):
        await execute(graph(nodes), run, first)

    again = Works()
    outcome = await execute(graph(nodes), run, again)

    assert again.began == ["c"] and outcome.status is Status.SUCCEEDED
    assert again.given["c"].others["b"].outcome == writes("b.py", "b")
    assert list(run.ended) == ["a", "b", "c"]


async def test_a_failure_stops_the_run_and_its_siblings() -> None:
    nodes = {"a": STEP, "b": STEP, "c": {**STEP, "needs": ["a", "b"]}}
    never = asyncio.Event()
    works = Works(a=BAD, b=never)

    outcome = await execute(graph(nodes), FakeRun({}), works)

    assert (outcome.status, outcome.reason) == (Status.FAILED, "tests_failed")
    assert works.ended == ["a"] and "c" not in works.began


@pytest.mark.parametrize("answer", [BAD, AgentError("no reply"), SandboxError("gone")])
async def test_a_node_that_may_fail_leaves_the_choice_to_those_after_it(answer: Any) -> None:
    may = {"policy": {"on_failure": "continue"}}
    nodes = {
        "a": {**STEP, **may},
        "b": STEP,
        "pick": {"kind": "select", "of": ["a", "b"], "rule": "first_green"},
    }
    run, works = FakeRun({}), Works(a=answer, b=writes("b.py", "b"))

    def find(node: Node) -> Any:
        from orchestrator.graph_select import select

        return select if node.kind == "select" else works._work

    outcome = await execute(graph(nodes), run, find)

    assert outcome.changes == writes("b.py", "b").changes
    assert run.ends["a"]["status"] == "failed"


async def test_a_failure_that_went_on_is_not_tried_again_by_a_replay() -> None:
    nodes = {"a": {**STEP, "policy": {"on_failure": "continue"}}, "b": {**STEP, "needs": ["a"]}}
    run = FakeRun({})
    with pytest.raises(TaskError):
        await execute(graph(nodes), run, Works(a=AgentError("no"), b=TaskError("cut off")))

    again = Works()
    await execute(graph(nodes), run, again)

    assert again.began == ["b"]


async def test_errors_of_the_store_are_nobodys_to_go_on_from() -> None:
    nodes = {"a": {**STEP, "policy": {"on_failure": "continue", "retry": {"attempts": 5}}}}
    works = Works(a=StoreError("disk"))

    with pytest.raises(StoreError):
        await execute(graph(nodes), FakeRun({}), works)
    assert works.began == ["a"]


async def test_a_node_is_tried_again_after_the_errors_that_its_policy_names() -> None:
    retry = {"attempts": 3, "errors": ["agent"], "backoff_s": 0}
    nodes = {"a": {**STEP, "policy": {"retry": retry}}}
    works = Works(a=[AgentError("1"), AgentError("2"), DONE])
    other = Works(a=[AgentError("1"), SandboxError("2"), DONE])

    assert (await execute(graph(nodes), FakeRun({}), works)).status is Status.SUCCEEDED
    with pytest.raises(SandboxError):
        await execute(graph(nodes), FakeRun({}), other)
    assert (len(works.began), len(other.began)) == (3, 2)


def test_pauses_grow_up_to_a_bound_and_differ_between_nodes() -> None:
    retry = Retry(attempts=9, backoff_s=1, factor=2, longest_s=5, jitter=0.5)

    pauses = [pause_s(retry, number, "a") for number in range(1, 6)]

    assert all(whole / 2 <= pause <= whole for pause, whole in zip(pauses, (1, 2, 4, 5, 5), strict=True))
    assert pauses == [pause_s(retry, number, "a") for number in range(1, 6)]
    assert pauses != [pause_s(retry, number, "b") for number in range(1, 6)]
    assert pause_s(Retry(jitter=0), 1, "a") == 1


@pytest.mark.parametrize("policy", [{"timeout_s": 0.02}, {"budget": {"wall_s": 0.02}}])
async def test_a_node_ends_at_its_limit(policy: dict[str, Any]) -> None:
    nodes = {"a": {**STEP, "policy": {**policy, "on_failure": "continue"}}, "b": {**STEP, "needs": ["a"]}}
    works = Works(a=asyncio.Event())

    outcome = await execute(graph(nodes), FakeRun({}), works)

    assert outcome.status is Status.SUCCEEDED and works.ended == ["b"]
    assert works.given["b"].others["a"].fields()["reason"] in ("timeout", "budget_exhausted")


async def test_conditions_skip_nodes_and_those_that_need_their_values() -> None:
    nodes = {
        "plan": STEP,
        "fix": {"kind": "repair_loop", "when": "$plan.failing"},
        "check": {"kind": "agent", "role": "run", "work": "certify", "patch_of": "fix"},
        "other": {**STEP, "when": {"equal": ["$plan.failing", []]}},
        "end": {**STEP, "needs": ["check", "other"]},
    }
    run = FakeRun({})
    works = Works(plan=(DONE, {"failing": [], "profile": ""}))

    await execute(graph(nodes), run, works)

    assert works.began == ["plan", "other", "end"]
    assert [run.ends[name]["status"] for name in ("fix", "check")] == ["skipped", "skipped"]


async def test_a_fan_out_is_done_for_each_item_and_gives_them_all() -> None:
    nodes = {
        "plan": STEP,
        "each": {
            "kind": "agent", "role": "run", "work": "confirm",
            "for_each": "$plan.failing", "inputs": {"profile": "$item"}, "max_parallel": 2,
        },
        "end": {**STEP, "when": "$each.items.1.green", "needs": ["each"]},
    }  # fmt: skip
    works = Works(plan=(DONE, {"failing": ["x", "y", "z"], "profile": ""}))
    works.answers |= {"each[0]": writes("a.py", "1"), "each[1]": writes("b.py", "2")}

    await execute(graph(nodes), FakeRun({}), works)

    assert [works.given[f"each[{number}]"].inputs["profile"] for number in range(3)] == ["x", "y", "z"]
    assert sorted(works.given["end"].others["each"].outcome.changes) == ["a.py", "b.py"]  # type: ignore[union-attr]


async def test_one_item_that_fails_fails_the_fan_out() -> None:
    nodes = {"plan": STEP, "each": {**STEP, "for_each": "$plan.failing"}}
    planned = (DONE, {"failing": [1, 2], "profile": ""})

    bad = await execute(graph(nodes), FakeRun({}), Works(**{"plan": planned, "each[1]": BAD}))
    with pytest.raises(AgentError):
        await execute(graph(nodes), FakeRun({}), Works(**{"plan": planned, "each[1]": AgentError("x")}))

    assert bad.reason == "tests_failed"


async def test_a_sub_graph_runs_inside_with_its_own_inputs() -> None:
    inner = {
        "name": "inner",
        "inputs": {"who": {"required": True}},
        "nodes": {"x": {**STEP, "when": {"equal": ["$inputs.who", "ann"]}}, "y": {**STEP, "needs": ["x"]}},
        "result": ["y"],
    }
    nodes = {
        "first": STEP,
        "sub": {"kind": "graph", "graph": "inner", "inputs": {"who": "$inputs.by"}, "patch_of": "first"},
        "end": {**STEP, "needs": ["sub"], "when": "$sub.green"},
    }
    works = Works(**{"first": writes("a.py", "1"), "sub/y": writes("b.py", "2")})
    run = FakeRun({}, task=Task(id="t", inputs={"by": "ann"}))

    await execute(graph(nodes, graphs={"inner": inner}, inputs={"by": {}}), run, works)

    assert works.began == ["first", "sub/x", "sub/y", "end"]
    assert list(run.ended) == ["first", "sub/x", "sub/y", "sub", "end"]
    assert works.given["sub/x"].run.tree.files["a.py"].content == b"1"
    assert sorted(works.given["end"].others["sub"].outcome.changes) == ["a.py", "b.py"]  # type: ignore[union-attr]


GATED = {
    "fix": STEP,
    "gate": {"kind": "approval", "message": "Ship it?", "patch_of": "fix"},
    "ship": {**STEP, "patch_of": "gate"},
}


async def test_a_gate_parks_the_run_and_keeps_its_patch() -> None:
    run = FakeRun({})

    outcome = await execute(graph(GATED), run, Works(fix=writes("a.py", "1")))

    assert (outcome.status, outcome.reason) == (Status.PARKED, "awaiting_approval")
    assert outcome.changes == writes("a.py", "1").changes
    assert run.asked == {"gate": {"message": "Ship it?", "files": ["a.py"]}}


async def test_a_yes_lets_the_run_go_on_from_there() -> None:
    run = FakeRun({})
    await execute(graph(GATED), run, Works(fix=writes("a.py", "1")))
    run.decide("gate", approved=True)

    works = Works()
    outcome = await execute(graph(GATED), run, works)

    assert works.began == ["ship"] and outcome.status is Status.SUCCEEDED
    assert works.given["ship"].run.tree.files["a.py"].content == b"1"


async def test_a_no_ends_the_run_and_keeps_the_patch() -> None:
    run = FakeRun({})
    run.decide("gate", approved=False)
    works = Works(fix=writes("a.py", "1"))

    outcome = await execute(graph(GATED), run, works)

    assert (outcome.status, outcome.reason) == (Status.FAILED, "rejected")
    assert works.began == ["fix"] and outcome.changes == writes("a.py", "1").changes


async def test_a_decision_while_others_work_is_taken_up_at_once() -> None:
    nodes = {**GATED, "slow": STEP, "end": {**STEP, "needs": ["ship", "slow"]}}
    run, slow = FakeRun({}), asyncio.Event()
    works = Works(slow=slow)

    running = asyncio.create_task(execute(graph(nodes), run, works))
    await until(lambda: run.asked)
    run.decide("gate", approved=True)
    await until(lambda: "ship" in works.ended)
    assert not running.done()
    slow.set()

    assert (await running).status is Status.SUCCEEDED


async def test_a_gate_inside_a_sub_graph_parks_the_whole_run_too() -> None:
    inner = {"name": "inner", "nodes": GATED, "result": ["ship"]}
    nodes = {"sub": {"kind": "graph", "graph": "inner"}, "end": {**STEP, "needs": ["sub"]}}
    run = FakeRun({})
    declared = graph(nodes, graphs={"inner": inner})

    parked = await execute(declared, run, Works())
    run.decide("sub/gate", approved=True)
    works = Works()
    outcome = await execute(declared, run, works)

    assert parked.reason == "awaiting_approval" and outcome.status is Status.SUCCEEDED
    assert works.began == ["sub/ship", "end"]


# ---- the works that ship, under a node's policy

BASE = {"test_a.py::one": FAILING, "test_a.py::two": PASSING}
GREEN = dict.fromkeys(BASE, PASSING)
LOOP = {"kind": "repair_loop"}


def fixed(content: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda candidate: GREEN if candidate.files["a.py"].content == content.encode() else BASE


async def test_steps_and_facts_of_a_node_carry_its_name() -> None:
    run = FakeRun(BASE, repairs=[repaired(improvement("fixed"))], judge=fixed("fixed"))

    outcome = await execute_shipped(graph({"fix": LOOP}), run)

    assert outcome.reason == "certified"
    assert {call.step.partition("/")[0] for call in run.calls} == {"fix"}
    assert all(data["node"] == "fix" for _, data, _ in run.recorded)


async def test_a_profile_that_another_node_made_is_not_made_again() -> None:
    run = FakeRun(BASE, repairs=[repaired(improvement("fixed"))], judge=fixed("fixed"))
    nodes = {"plan": STEP, "fix": {**LOOP, "inputs": {"profile": "$plan.profile"}}}

    await execute_shipped(graph(nodes), run)

    assert [call.step for call in run.calls if call.method == "profile"] == ["plan/profile"]


async def test_a_patch_outside_the_allowed_paths_is_not_taken() -> None:
    found = repaired(improvement("fixed"))
    policy = {"allowed_paths": ["web/*"]}

    run = FakeRun(BASE, repairs=[found], judge=fixed("fixed"))
    refused = await execute_shipped(graph({"fix": {**LOOP, "policy": policy}}), run)
    run = FakeRun(BASE, repairs=[found], judge=fixed("fixed"))
    taken = await execute_shipped(graph({"fix": {**LOOP, "policy": {"allowed_paths": ["*.py"]}}}), run)

    assert (refused.status, refused.changes) == (Status.FAILED, {})
    assert taken.reason == "certified"


async def test_a_policy_bounds_attempts_model_sandbox_and_what_engines_may_cost() -> None:
    wrong = [repaired(improvement(f"wrong {number}"), usage=Usage(prompt=30)) for number in range(9)]
    policy = {"budget": {"tokens": 100, "attempts": 2}, "model": "recorded:x", "sandbox_minimum": "kernel"}
    run = FakeRun(BASE, repairs=wrong, task=Task(id="t", budget=Budget(attempts=5)))

    outcome = await execute_shipped(graph({"fix": {**LOOP, "policy": policy}}), run)

    repairs = [call for call in run.calls if call.method == "repair"]
    assert (outcome.reason, outcome.attempts) == ("attempts_exhausted", 2)
    assert [call.allowance for call in repairs] == [Allowance(tokens=100), Allowance(tokens=70)]
    assert {call.request.model for call in repairs} == {"recorded:x"}
    tests = [call.request for call in run.calls if call.method in ("test", "profile")]
    assert {request.minimum for request in tests} == {Level.KERNEL}


async def test_a_policy_may_ask_more_of_the_tests_that_are_written() -> None:
    works = Works()
    nodes = {"a": {**STEP, "policy": {"test_strength": 0.7}}, "b": {**STEP, "needs": ["a"]}}

    await execute(graph(nodes), FakeRun({}, task=Task(id="t", judge_strength=0.5)), works)

    assert [works.given[name].run.task.judge_strength for name in ("a", "b")] == [0.7, 0.5]


async def test_a_loop_until_improved_ends_with_the_first_progress() -> None:
    base = {"test_a.py::one": FAILING, "test_a.py::two": FAILING}
    half = repaired(improvement("half", failing=["test_a.py::two"]))
    run = FakeRun(base, repairs=[half, half])
    nodes = {"fix": {**LOOP, "until": "improved"}, "end": {**STEP, "patch_of": "fix"}}

    outcome = await execute_shipped(graph(nodes), run)

    assert outcome.status is Status.SUCCEEDED and sorted(outcome.changes) == ["a.py"]
    assert [call.method for call in run.calls].count("repair") == 1


def chooser(run: FakeRun, works: Works, **more: Any) -> Any:
    nodes = {"one": STEP, "two": STEP, "pick": {"kind": "select", "of": ["one", "two"], **more}}

    def find(node: Node) -> Any:
        from orchestrator.graph_select import select

        return select if node.kind == "select" else works._work

    return execute(graph(nodes), run, find)


async def test_the_best_patch_is_that_which_passes_most_then_the_smallest() -> None:
    long, short, wrong = (writes("a.py", text) for text in ("fixed\n\n\n", "fixed", "wrong"))
    run = FakeRun(
        BASE,
        judge=lambda candidate: GREEN if b"fixed" in candidate.files["a.py"].content else BASE,
        tree=tree(a="start"),
    )

    by_size = await chooser(run, Works(one=long, two=short), rule="best_patch")
    run.done.clear()
    run.ended.clear()
    by_tests = await chooser(run, Works(one=wrong, two=long), rule="best_patch")
    run.done.clear()
    run.ended.clear()
    none = await chooser(run, Works(one=wrong, two=wrong), rule="best_patch")

    assert by_size.changes == short.changes and by_tests.changes == long.changes
    assert (none.status, none.reason) == (Status.FAILED, "tests_failed")


async def test_patches_of_different_files_are_also_tried_together() -> None:
    both = lambda candidate: GREEN if "b.py" in candidate.files else BASE  # noqa: E731
    run = FakeRun(BASE, judge=lambda c: both(c) if c.files["a.py"].content == b"1" else BASE)

    outcome = await chooser(
        run, Works(one=writes("a.py", "1"), two=writes("b.py", "2")), rule="best_patch", merge=True
    )

    assert sorted(outcome.changes) == ["a.py", "b.py"] and outcome.status is Status.SUCCEEDED


async def test_all_together_refuses_two_ways_to_change_one_file() -> None:
    merged = await chooser(FakeRun(BASE), Works(one=writes("a.py", "1"), two=writes("b.py", "2")), rule="all")
    clash = await chooser(FakeRun(BASE), Works(one=writes("a.py", "1"), two=writes("a.py", "2")), rule="all")

    assert sorted(merged.changes) == ["a.py", "b.py"]
    assert (clash.status, clash.reason) == (Status.FAILED, "conflict")


# ---- fan-out of loops and graphs, and what they may spend together


def inner_graph(**more: Any) -> dict[str, Any]:
    return {"name": "inner", "inputs": {"who": {}}, "nodes": GATED, "result": ["ship"], **more}


EACH = {"kind": "graph", "graph": "inner", "for_each": "$plan.failing", "inputs": {"who": "$item"}}
PLANNED = (DONE, {"failing": ["x", "y"], "profile": ""})


async def test_a_graph_with_a_gate_in_it_is_done_for_each_item_and_each_gate_is_its_own() -> None:
    declared = graph({"plan": STEP, "each": EACH}, graphs={"inner": inner_graph()})
    run = FakeRun({})
    fixed = {"each[0]/fix": writes("x.py", "1"), "each[1]/fix": writes("y.py", "2")}

    parked = await execute(declared, run, Works(plan=PLANNED, **fixed))
    run.decide("each[0]/gate", approved=True)
    still = await execute(declared, run, works := Works())
    run.decide("each[1]/gate", approved=True)
    outcome = await execute(declared, run, Works())

    assert parked.reason == still.reason == "awaiting_approval" and works.began == ["each[0]/ship"]
    assert outcome.status is Status.SUCCEEDED and sorted(outcome.changes) == ["x.py", "y.py"]


async def test_a_no_in_one_item_fails_the_fan_out() -> None:
    declared = graph({"plan": STEP, "each": EACH}, graphs={"inner": inner_graph()})
    run = FakeRun({})
    run.decide("each[0]/gate", approved=True)
    run.decide("each[1]/gate", approved=False)

    outcome = await execute(declared, run, Works(plan=PLANNED))

    assert (outcome.status, outcome.reason) == (Status.FAILED, "rejected")


async def test_items_that_change_one_file_in_different_ways_are_a_conflict_and_can_be_chosen_from() -> None:
    nodes = {
        "plan": STEP,
        "each": {**STEP, "for_each": "$plan.failing", "policy": {"on_failure": "continue"}},
        "pick": {"kind": "select", "of": ["each"], "rule": "first_green"},
    }
    works = Works(**{"plan": PLANNED, "each[0]": BAD, "each[1]": writes("a.py", "2")})
    clash = Works(**{"plan": PLANNED, "each[0]": writes("a.py", "1"), "each[1]": writes("a.py", "2")})
    run = FakeRun({})

    outcome = await execute(graph(nodes), run, selecting(works))
    again = await execute(graph(nodes), run, selecting(Works()))
    other = FakeRun({})
    first = await execute(graph(nodes), other, selecting(clash))

    assert outcome == again and outcome.changes == writes("a.py", "2").changes
    assert other.ends["each"]["reason"] == "conflict" and first.changes == writes("a.py", "1").changes


def selecting(works: Works) -> Any:
    from orchestrator.graph_select import select

    return lambda node: select if node.kind == "select" else works._work


async def test_an_error_of_one_item_leaves_the_others_be_where_the_node_may_fail() -> None:
    nodes = {
        "plan": STEP,
        "each": {**STEP, "for_each": "$plan.failing", "policy": {"on_failure": "continue"}},
        "end": {**STEP, "when": {"not": "$each.green"}},
    }
    works = Works(**{"plan": PLANNED, "each[0]": AgentError("no"), "each[1]": writes("a.py", "2")})

    await execute(graph(nodes), FakeRun({}), works)

    items = works.given["end"].others["each"].items
    assert [each.status for each in items] == ["failed", "done"] and items[0].fields()["reason"] == "agent"


async def test_what_a_failed_node_did_not_give_is_null_to_those_after_it() -> None:
    nodes = {
        "plan": {**STEP, "policy": {"on_failure": "continue"}},
        "a": {**STEP, "when": "$plan.failing"},
        "b": {**STEP, "when": {"equal": ["$plan.status", "failed"]}, "needs": ["a"]},
        "each": {**STEP, "for_each": "$plan.failing", "needs": ["b"]},
    }
    works = Works(plan=AgentError("no"))

    outcome = await execute(graph(nodes), FakeRun({}), works)

    assert works.began == ["plan", "b"] and outcome.status is Status.SUCCEEDED


async def test_the_model_of_a_node_may_be_an_item() -> None:
    nodes = {"plan": STEP, "each": {**STEP, "for_each": "$plan.failing", "policy": {"model": "$item"}}}
    works = Works(plan=PLANNED)

    await execute(graph(nodes), FakeRun({}), works)

    assert [works.given[f"each[{number}]"].run.task.model for number in (0, 1)] == ["x", "y"]


async def test_a_budget_is_reserved_before_a_fan_out_and_settled_after_each_item() -> None:
    wide = {"kind": "repair_loop", "for_each": "$plan.failing", "max_parallel": 1}
    run = FakeRun({}, task=Task(id="t", budget=Budget(tokens=300)))
    works = Works(plan=(DONE, {"failing": [1, 2, 3], "profile": ""}))
    left: list[int | None] = []

    async def spends(given: Given) -> tuple[Outcome, Mapping[str, Any]]:
        left.append(given.run.left().tokens)
        if given.run.place.path != "each[1]":
            run.done[f"{given.run.place.path}/x", 0] = Usable(Usage(prompt=10))
        await asyncio.sleep(0)
        return DONE, {}

    await execute(
        graph({"plan": STEP, "each": wide}),
        run,
        lambda node: works._work if node.kind == "agent" else spends,
    )

    # A third; then half of what the first left; then all that the two left.
    assert left == [100, 145, 290]


class Usable:
    """A step's result that tells what it cost."""

    def __init__(self, usage: Usage) -> None:
        self.usage = usage


async def test_nodes_side_by_side_share_what_is_left_and_one_after_the_other_do_not() -> None:
    loop = {"kind": "repair_loop"}
    nodes = {"a": loop, "b": loop, "scan": STEP, "c": {**loop, "needs": ["a", "b", "scan"]}}
    works = Works()
    run = FakeRun({}, task=Task(id="t", budget=Budget(tokens=100, gpu_s=8, cost_usd=2)))
    seen: dict[str, Allowance] = {}

    async def looks(given: Given) -> tuple[Outcome, Mapping[str, Any]]:
        seen[given.run.place.path] = given.run.left()
        return DONE, {}

    await execute(graph(nodes), run, lambda node: works._work if node.kind == "agent" else looks)

    half, whole = Allowance(tokens=50, gpu_s=4, cost_usd=1), Allowance(tokens=100, gpu_s=8, cost_usd=2)
    assert seen == {"a": half, "b": half, "c": whole}


TWO = {"test_a.py::one": FAILING, "test_a.py::two": FAILING}


async def test_a_loop_goes_on_from_the_patch_of_another() -> None:
    def shows(candidate: Any) -> Mapping[str, Any]:
        done = {b"half": 1, b"whole": 2}.get(candidate.files["a.py"].content, 0)
        return {test: PASSING if number < done else FAILING for number, test in enumerate(TWO)}

    half, whole = improvement("half", failing=["test_a.py::two"]), improvement("whole")
    run = FakeRun(TWO, repairs=[repaired(half), repaired(whole)], judge=shows)
    nodes = {
        "first": {"kind": "repair_loop", "until": "improved"},
        "second": {"kind": "repair_loop", "patch_of": "first"},
        "third": {"kind": "repair_loop", "patch_of": "second"},
    }

    outcome = await execute_shipped(graph(nodes), run)

    asked = [call.request.failing for call in run.calls if call.method == "repair"]
    assert asked == [tuple(TWO), ("test_a.py::two",)]
    assert outcome.reason == "certified" and outcome.changes == whole.changes


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([BudgetSpent("tokens"), BudgetSpent("tokens")], "budget_exhausted"),
        ([BudgetSpent("tokens"), AgentError("no")], "no_candidate"),
    ],
)
async def test_without_any_patch_the_reason_that_all_share_is_told(errors: list[Any], reason: str) -> None:
    may = {"policy": {"on_failure": "continue"}}
    nodes = {
        "a": {**STEP, **may},
        "b": {**STEP, **may},
        "pick": {"kind": "select", "of": ["a", "b"], "rule": "best_patch"},
    }

    outcome = await execute(graph(nodes), FakeRun({}), selecting(Works(a=errors[0], b=errors[1])))

    assert (outcome.status, outcome.reason) == (Status.FAILED, reason)


async def test_a_release_does_not_tell_where_its_model_is_served() -> None:
    found = improvement("fixed")
    told = Improvement(changes=found.changes, failing=(), explanation="http://10.0.0.7/v1#m rewrote a.py")
    run = FakeRun(BASE, repairs=[repaired(told)], judge=fixed("fixed"))
    nodes = {"fix": LOOP, "out": {"kind": "agent", "role": "release", "patch_of": "fix"}}

    outcome = await execute_shipped(graph(nodes), run)

    changelog = outcome.changes["CHANGELOG.md"]
    assert changelog is not None and b"- Rewrote a.py\n" in changelog.content
