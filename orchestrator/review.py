"""A review of a certified patch, where the task asks for one: findings for people, never a gate."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from orchestrator.errors import RaysmithError, StoreError
from orchestrator.loop import Outcome
from orchestrator.ports import Call, Run
from orchestrator.steps import Reviewed, ReviewRequest, Role
from orchestrator.tree import Tree

# Less wall time than this is left to the run's end.
_SPARE_S = 2.0


async def reviewed(run: Run, outcome: Outcome, base: Tree) -> Outcome:
    """`outcome` with what a reviewer finds in its changes to `base`; whatever becomes of that, it stands."""
    try:
        async with asyncio.timeout(run.remaining_s() - _SPARE_S):
            found = await _review(run, outcome, base)
    except StoreError:
        raise
    except (RaysmithError, TimeoutError):
        return outcome
    return replace(outcome, findings=found.findings)


async def _review(run: Run, outcome: Outcome, base: Tree) -> Reviewed:
    request = ReviewRequest(
        tree=base, changes=outcome.changes, model=run.task.model or "", goal=run.task.goal
    )
    return await run.call(
        Call(step=Role.REVIEW, role=Role.REVIEW, method="review", request=request, returns=Reviewed)
    )
