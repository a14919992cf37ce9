"""The works of nodes: what each does, in terms of the loop, the story and the review."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from orchestrator import graph_building, loop
from orchestrator.declaration import Agent, Declaration, Node, RepairLoop
from orchestrator.errors import TaskError
from orchestrator.events import Status
from orchestrator.graph_run import Given, Work
from orchestrator.graph_run import execute as execute_graph
from orchestrator.graph_select import all_profiled, profiled, select, suffix
from orchestrator.graph_works import WORKS
from orchestrator.languages import javascript_tests, python_tests
from orchestrator.loop import Outcome
from orchestrator.ports import Call, Run
from orchestrator.release import release
from orchestrator.review import reviewed
from orchestrator.steps import Role, Scanned, ScanRequest, Severity
from orchestrator.story import story
from orchestrator.verdict import combined
from orchestrator.written_tests import admit, write

Done = tuple[Outcome, Mapping[str, Any]]


async def execute(graph: Declaration, run: Run) -> Outcome:
    """How `graph` ends on `run`.

    Raises:
        RaysmithError: A node failed with it, and its policy is to stop.
    """
    return await execute_graph(graph, run, _work_of)


def _work_of(node: Node) -> Work:
    if isinstance(node, Agent):
        return _WORKS[node.role, node.work or next(iter(WORKS[node.role]))]
    return _repair if isinstance(node, RepairLoop) else select


async def _profile(given: Given) -> Done:
    found = await profiled(given)
    data = {"profile": given.run.place.step("profile"), "failing": list(found.profile.failing)}
    return Outcome(status=Status.SUCCEEDED, reason="done"), data


async def _confirm(given: Given) -> Done:
    return await loop.already_passing(given.run, await profiled(given)), {}


async def _test(given: Given) -> Done:
    return await loop.test(given.run), {}


async def _verify(given: Given) -> Done:
    return await loop.verify(given.run), {}


async def _story(given: Given) -> Done:
    return await story(given.run), {}


async def _review(given: Given) -> Done:
    assert given.on is not None and given.on.outcome is not None
    # Relative to the run's tree, as the reviewer is to see them.
    outcome = await reviewed(given.run, given.on.outcome, given.base)
    return replace(outcome, changes={}), {}


async def _repair(given: Given) -> Done:
    """Repairs the run's folder, starting from a patch; with `checked` that patch, tests and all."""
    assert isinstance(given.node, RepairLoop)
    checked = given.inputs.get("checked")
    named = checked or given.inputs.get("profile")
    found = await profiled(replace(given, inputs={"profile": named}), given.node.language)
    run, most = given.run, given.node.max_attempts
    if most is not None:
        budget = replace(run.task.budget, attempts=min(most, run.task.budget.attempts))
        run.task = replace(run.task, budget=budget)
    base = run.tree if checked else given.base
    repairing = loop.RepairLoop(
        run,
        base=base,
        profile=found.profile,
        shown=found.run,
        until=given.node.until,
        brief=given.node.policy.context == "brief",
    )
    if patch := base.changes_to(run.tree):
        shown = await loop.run_once(run, base, run.tree, found.profile, attempt=0, step="start", seed=0)
        outcome = await repairing.go_on_from(patch, shown)
    else:
        outcome = await repairing.execute()
    whole = run.tree.changes_to(base.with_files(outcome.changes))
    return replace(outcome, changes=whole), {
        "failing": list(repairing.failing),
        "profile": named or run.place.step("profile"),
        "metrics": {
            "tests": len(found.profile.expected),
            "failing": len(repairing.failing),
            "failing_at_first": len(found.profile.failing),
            "attempts": outcome.attempts,
            "candidates": outcome.candidates,
        },
    }


async def _certify(given: Given) -> Done:
    """Two fresh runs of the base's tests on the patch it works on; of every language's."""
    verdicts = []
    for found in await all_profiled(given):
        label = f"certify{suffix(found.profile)}"
        runs = await loop.run_twice(
            given.run, given.base, given.run.tree, found.profile, attempt=1, label=label
        )
        verdicts.append(await loop.conclude(given.run, found.profile, runs, 1))
    outcome = loop.judged_outcome(combined(verdicts))
    assert given.on is not None and given.on.outcome is not None
    before = given.on.outcome
    told = replace(before, status=outcome.status, reason=outcome.reason, verdict=outcome.verdict, changes={})
    return told, {}


async def _analyse(given: Given) -> Done:
    """Which tests fail, of which language."""
    wanted = {"python": python_tests(given.base), "javascript": javascript_tests(given.base)}
    steps = {name: "profile" if name == "python" else f"profile-{name}" for name in wanted if wanted[name]}
    if not steps:
        raise TaskError("the folder holds no tests that could fail", "name the folder that holds them")
    inputs = [replace(given, inputs={"profile": step}) for step in steps.values()]
    found = await asyncio.gather(
        *(profiled(each, language) for each, language in zip(inputs, steps, strict=True))
    )
    failing = {name: list(each.profile.failing) for name, each in zip(steps, found, strict=True)}
    named = {name: given.run.place.step(step) for name, step in steps.items()}
    data = {
        "python": failing.get("python", []),
        "javascript": failing.get("javascript", []),
        "failing": [test for tests in failing.values() for test in tests],
        "profile": named.get("python"),
        "javascript_profile": named.get("javascript"),
        "profiles": list(named.values()),
    }
    counts = ", ".join(f"{len(tests)} of {name} fail" for name, tests in failing.items())
    return Outcome(status=Status.SUCCEEDED, reason="analysed", explanation=counts), data


async def _scan(given: Given) -> Done:
    """Security findings about the patch; those from `fail_on` on fail the node."""
    least = str(given.inputs.get("fail_on") or Severity.MEDIUM)
    if least not in list(Severity):
        raise TaskError(f"`fail_on` is {least!r:.50}", f"it has to be one of {', '.join(Severity)}")
    request = ScanRequest(base=given.base, candidate=given.run.tree)
    scanned = await given.run.call(
        Call(step="scan", role=Role.RUN, method="scan", request=request, returns=Scanned)
    )
    grave = list(Severity)[: list(Severity).index(Severity(least)) + 1]
    bad = [each for each in scanned.findings if each.severity in grave]
    data = {
        "findings": [asdict(each) for each in scanned.findings],
        "dependencies": list(scanned.dependencies),
        "metrics": {"findings": len(scanned.findings), "dependencies": len(scanned.dependencies)},
    }
    told = "; ".join(f"{each.path}:{each.line} {each.message}" for each in bad)
    status, reason = (Status.FAILED, "insecure") if bad else (Status.SUCCEEDED, "clean")
    return Outcome(status=status, reason=reason, explanation=told, findings=scanned.findings), data


async def _release(given: Given) -> Done:
    """The next version and the changelog, on top of the patch."""
    assert given.on is not None and given.on.outcome is not None
    patch = given.on.outcome
    number = given.inputs.get("pr_number")
    # Which model it was, and where that is served, is nobody's business but the run's.
    notes = [re.sub(r"^\S+ rewrote ", "Rewrote ", each) for each in patch.explanation.split("; ") if each]
    notes = notes or ["Repaired"]
    told = [f"{note} (#{number})" if number is not None else note for note in notes]
    made = release(given.run.tree, str(given.inputs.get("part") or "patch"), told)
    metrics = {"version": made.version, "pr_number": number}
    return replace(patch, changes=made.changes), {"version": made.version, "metrics": metrics}


_WORKS: Mapping[tuple[str, str], Work] = {
    ("run", "test"): _test,
    ("run", "profile"): _profile,
    ("run", "confirm"): _confirm,
    ("run", "verify"): _verify,
    ("run", "certify"): _certify,
    ("run", "analyse"): _analyse,
    ("run", "scan"): _scan,
    ("run", "admit"): admit,
    ("test", "write"): write,
    ("run", "check"): graph_building.check,
    ("run", "accept"): graph_building.accept,
    ("run", "quality"): graph_building.quality,
    ("run", "form"): graph_building.form,
    ("run", "layers"): graph_building.layers,
    ("run", "serve"): graph_building.serve,
    ("plan", "structure"): graph_building.structure,
    ("plan", "requirements"): graph_building.requirements,
    ("code", "write"): graph_building.write,
    ("test", "goal"): graph_building.write,
    ("release", "release"): _release,
    ("code", "story"): _story,
    ("review", "review"): _review,
}
