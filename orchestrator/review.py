"""Graphs end with a review where the task asks for one: findings about a certified patch, never a gate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from orchestrator.errors import RaysmithError, StoreError
from orchestrator.events import Status
from orchestrator.loop import Outcome
from orchestrator.ports import Call, Run
from orchestrator.steps import Reviewed, ReviewRequest, Role

# Less wall time than this is left to the run's end.
_SPARE_S = 2.0


def with_review(execute: Callable[[Run], Awaitable[Outcome]]) -> Callable[[Run], Awaitable[Outcome]]:
    """`execute`, and then a review of what it certified; whatever becomes of it, the outcome stands."""

    async def reviewed(run: Run) -> Outcome:
        outcome = await execute(run)
        if not _is_wanted(run, outcome):
            return outcome
        try:
            async with asyncio.timeout(run.remaining_s() - _SPARE_S):
                found = await _review(run, outcome)
        except StoreError:
            raise
        except (RaysmithError, TimeoutError):
            return outcome
        return replace(outcome, findings=found.findings, usage=outcome.usage + found.usage)

    return reviewed


def _is_wanted(run: Run, outcome: Outcome) -> bool:
    is_patch = outcome.status is Status.SUCCEEDED and bool(outcome.changes)
    return bool(run.task.agents.review and run.task.model and is_patch)


async def _review(run: Run, outcome: Outcome) -> Reviewed:
    request = ReviewRequest(
        tree=run.tree, changes=outcome.changes, model=run.task.model or "", goal=run.task.goal
    )
    return await run.call(
        Call(step=Role.REVIEW, role=Role.REVIEW, method="review", request=request, returns=Reviewed)
    )
