"""Graph `story`: a goal in words becomes a plan where it needs one, then code, tests and a certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.events import Kind, Status
from orchestrator.loop import Outcome, RepairLoop, profile_of, verdict_to_json
from orchestrator.plan import Plan, is_worth_planning
from orchestrator.ports import Call, Run
from orchestrator.steps import Planned, PlanRequest, Role, StrengthRequest, WriteRequest, Written
from orchestrator.task import model_of
from orchestrator.tree import File, Tree
from orchestrator.verdict import Strength, TestProfile, weighed


async def story(run: Run) -> Outcome:
    """Plan the goal, write its code, write tests for the code, then repair until green."""
    planned = await _plan(run)
    plan = planned.plan
    code = await _write(run, Role.CODE, run.tree, plan)
    tests = await _write(run, Role.TEST, run.tree.with_files(code.files), plan)
    written = {**tests.files, **code.files}
    base = run.tree.with_files(written)
    profiled = await profile_of(run, base, (), tuple(tests.files))
    loop = RepairLoop(
        run,
        base=base,
        profile=profiled.profile,
        shown=profiled.run,
        written=written,
        usage=planned.usage + code.usage + tests.usage,
    )
    told = _told(written, planned, (*code.missing, *tests.missing))
    await run.keep(written, profiled.profile.failing, told)
    if profiled.profile.failing:
        outcome = await loop.execute()
    else:
        outcome = await loop.accept_base(repairer=code.engine)
    return await with_strength(run, outcome, profiled.profile, tuple(code.files))


async def with_strength(run: Run, outcome: Outcome, profile: TestProfile, code: tuple[str, ...]) -> Outcome:
    """A certified outcome with the strength of the tests that were written for it, where the task asks."""
    verdict, minimum = outcome.verdict, run.task.judge_strength
    if not minimum or verdict is None or not verdict.certified:
        return outcome
    request = StrengthRequest(
        tree=run.tree.with_files(outcome.changes),
        profile=profile,
        code=code,
        minimum=verdict.sandbox_level,
        python=run.task.python,
    )
    call = Call(step="strength", role=Role.RUN, method="strength", request=request, returns=Strength)
    verdict = weighed(verdict, await run.call(call), minimum)
    await run.record(Kind.VERDICT_REACHED, {"verdict": verdict_to_json(verdict)})
    if verdict.certified:
        return replace(outcome, verdict=verdict)
    return replace(outcome, verdict=verdict, status=Status.FAILED, reason="not_certified")


async def _plan(run: Run) -> Planned:
    task = run.task
    starts_empty = not run.tree.files
    if not is_worth_planning(task.goal or "", task.agents.plan, starts_empty=starts_empty):
        return Planned(plan=None)
    request = PlanRequest(goal=task.goal or "", model=model_of(run.task), name=task.id)
    return await run.call(
        Call(step=Role.PLAN, role=Role.PLAN, method="plan", request=request, returns=Planned)
    )


async def _write(run: Run, role: Role, tree: Tree, plan: Plan | None) -> Written:
    task = run.task
    wanted = () if plan is None else plan.tests if role is Role.TEST else plan.sources
    request = WriteRequest(
        goal=task.goal or "", tree=tree, model=model_of(run.task), name=task.id, plan=plan, wanted=wanted
    )
    return await run.call(Call(step=role, role=role, method="write", request=request, returns=Written))


def _told(written: Mapping[str, File], planned: Planned, missing: tuple[str, ...]) -> str:
    told = [f"{len(written)} files written"]
    if planned.plan is not None:
        told.append(f"as planned ({planned.plan.project}, {len(planned.plan.files)} files)")
    elif planned.refused:
        told.append(f"without a plan: {planned.refused[:200]}")
    if missing:
        told.append(f"never came: {', '.join(missing)}")
    return "; ".join(told)
