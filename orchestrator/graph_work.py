"""The works of nodes: what each does, in terms of the loop, the story and the review."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator import loop
from orchestrator.declaration import Agent, Declaration, Node, RepairLoop
from orchestrator.events import Status
from orchestrator.graph_run import Given, Work
from orchestrator.graph_run import execute as execute_graph
from orchestrator.graph_select import profiled, select
from orchestrator.graph_works import WORKS
from orchestrator.loop import Outcome
from orchestrator.ports import Run
from orchestrator.review import reviewed
from orchestrator.story import story

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
    assert isinstance(given.node, RepairLoop)
    found = await profiled(given)
    run, most = given.run, given.node.max_attempts
    if most is not None:
        budget = replace(run.task.budget, attempts=min(most, run.task.budget.attempts))
        run.task = replace(run.task, budget=budget)
    repairing = loop.RepairLoop(
        run,
        base=run.tree,
        profile=found.profile,
        shown=found.run,
        until=given.node.until,
        brief=given.node.policy.context == "brief",
    )
    outcome = await repairing.execute()
    return outcome, {"failing": list(repairing.failing)}


async def _certify(given: Given) -> Done:
    """Two fresh runs of the base's tests on the patch it works on."""
    profile = (await profiled(given)).profile
    runs = await loop.run_twice(given.run, given.base, given.run.tree, profile, attempt=1, label="certify")
    return loop.judged_outcome(await loop.conclude(given.run, profile, runs, 1)), {}


_WORKS: Mapping[tuple[str, str], Work] = {
    ("run", "test"): _test,
    ("run", "profile"): _profile,
    ("run", "confirm"): _confirm,
    ("run", "verify"): _verify,
    ("run", "certify"): _certify,
    ("code", "story"): _story,
    ("review", "review"): _review,
}
