"""Works of nodes that build from a goal: requirements, structure, writing, quality, form, service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from orchestrator import loop
from orchestrator.building import (
    QUALITY_STEP,
    FormatRequest,
    Formatted,
    Layered,
    LayersRequest,
    Measured,
    QualityRequest,
    Requirements,
    RequirementsRequest,
    Served,
    ServiceEnd,
    ServiceRequest,
)
from orchestrator.errors import TaskError
from orchestrator.events import Status
from orchestrator.graph_run import Given
from orchestrator.graph_select import profiled
from orchestrator.loop import Outcome
from orchestrator.plan import Part, Plan, PlannedFile, is_test_path, part_of
from orchestrator.ports import Call
from orchestrator.steps import Planned, PlanRequest, Role, Severity, WriteRequest, Written
from orchestrator.story import with_strength
from orchestrator.task import model_of
from orchestrator.verdict import judge

Done = tuple[Outcome, Mapping[str, Any]]
_MOST_TOLD = 8


async def requirements(given: Given) -> Done:
    """What the goal requires; a goal that no model can take apart stands for itself."""
    task = given.run.task
    request = RequirementsRequest(goal=task.goal or "", model=model_of(task), name=task.id)
    call = Call(
        step="requirements", role=Role.PLAN, method="requirements", request=request, returns=Requirements
    )
    found = await given.run.call(call)
    items = found.items or ((task.goal or "").strip(),)
    told = f"taken as it is: {found.refused}" if found.refused else f"{len(items)} requirements"
    data = {"requirements": list(items), "service": found.service, "metrics": {"requirements": len(items)}}
    return Outcome(status=Status.SUCCEEDED, reason="analysed", explanation=told), data


async def structure(given: Given) -> Done:
    """Which files are to be written, each with what it is for."""
    planned = await _planned(given, "plan")
    plan = planned.plan
    if plan is None:
        told = f"no reply was a plan: {planned.refused}"
        return Outcome(status=Status.FAILED, reason="no_plan", explanation=told), dict.fromkeys(_STRUCTURE)
    data = {
        "plan": given.run.place.step("plan"),
        "project": plan.project,
        "paths": [file.path for file in plan.files],
        "dependencies": list(plan.dependencies),
        "metrics": {"files": len(plan.files), "tests": len(plan.tests)},
    }
    told = f"{plan.project}, {len(plan.files)} files"
    return Outcome(status=Status.SUCCEEDED, reason="planned", explanation=told), data


_STRUCTURE = ("plan", "project", "paths", "dependencies")


async def _planned(given: Given, step: str) -> Planned:
    """The plan of the node whose step is named, or a new one."""
    task = given.run.task
    request = PlanRequest(goal=_goal(given), model=model_of(task), name=task.id)
    return await given.run.call(
        Call(step=step, role=Role.PLAN, method="plan", request=request, returns=Planned)
    )


def _goal(given: Given) -> str:
    """The goal, with what it requires where that was found out."""
    goal, wanted = given.run.task.goal or "", given.inputs.get("requirements") or ()
    if len(wanted) < 2:
        return goal
    return "\n".join([goal, "", "It has to hold that:", *(f"- {each}" for each in wanted)])


async def write(given: Given) -> Done:
    """Files for the goal: those of a part of the plan, else those that `ask` asks for."""
    run, role = given.run, Role(getattr(given.node, "role", Role.CODE))
    plan = await _plan_of(given)
    goal = "\n\n".join(filter(None, (_goal(given), given.inputs.get("ask"))))
    wanted: tuple[PlannedFile, ...] = ()
    if plan is not None:
        part = Part.TESTS if role is Role.TEST else _part(given)
        wanted = tuple(file for file in part_of(plan, part) if file.path not in run.tree.files)
        # A plan may name no test; whoever writes them chooses then.
        is_untested = role is Role.TEST and not any(map(is_test_path, run.tree.files))
        if not wanted and not is_untested:
            told = f"the plan has no more {part} to write"
            return Outcome(status=Status.SUCCEEDED, reason="nothing_to_do", explanation=told), {"missing": []}
    request = WriteRequest(
        goal=goal, tree=run.tree, model=model_of(run.task), name=run.task.id, plan=plan, wanted=wanted
    )
    written = await run.call(Call(step="write", role=role, method="write", request=request, returns=Written))
    told = f"{len(written.files)} files written"
    if written.missing:
        told += f"; never came: {', '.join(written.missing)}"
    await run.keep(written.files, (), told)
    metrics = {
        "files": len(written.files),
        "lines": sum(file.content.count(b"\n") for file in written.files.values()),
        "missing": len(written.missing),
    }
    outcome = Outcome(
        status=Status.SUCCEEDED,
        reason="written",
        changes=dict(written.files),
        repairer=written.engine or None,
        explanation=told,
    )
    return outcome, {"missing": list(written.missing), "metrics": metrics}


async def _plan_of(given: Given) -> Plan | None:
    step = given.inputs.get("plan")
    return (await _planned(given, str(step))).plan if step else None


def _part(given: Given) -> Part:
    part = str(given.inputs.get("part") or Part.SOURCES)
    if part not in list(Part):
        raise TaskError(f"`part` is {part!r:.50}", f"it has to be one of {', '.join(Part)}")
    return Part(part)


async def check(given: Given) -> Done:
    """The tests of what a node works on, frozen as they are; which fail is for the nodes after it."""
    run = given.run
    tests = tuple(path for path in sorted(run.tree.files) if is_test_path(path))
    found = await loop.profile_of(run, run.tree, run.task.tests, (*run.task.protect, *tests))
    profile, shown = found.profile, found.run
    verdict = judge(profile, [shown], judge_minimum=run.task.judge_minimum, runs_needed=1)
    await run.keep({}, profile.failing, f"{len(profile.expected)} tests, {len(profile.failing)} fail")
    data = {
        "profile": run.place.step("profile"),
        "failing": list(profile.failing),
        "packages": [line.split()[0] for line in profile.packages],
        "metrics": {
            "tests": len(profile.expected),
            "failing": len(profile.failing),
            "packages": len(profile.packages),
            "cpu_s": round(shown.cpu_s, 3),
        },
    }
    told = f"{len(profile.expected)} tests, {len(profile.failing)} of them fail"
    outcome = Outcome(status=Status.SUCCEEDED, reason="tested", verdict=verdict, explanation=told)
    return outcome, data


async def accept(given: Given) -> Done:
    """The certificate of what a node works on by its own tests: twice, in fresh sandboxes."""
    run = given.run
    found = await profiled(given)
    runs = await loop.run_twice(run, run.tree, run.tree, found.profile, attempt=1, label="certify")
    outcome = loop.judged_outcome(await loop.conclude(run, found.profile, runs, 1))
    code = tuple(path for path in run.tree.files if path.endswith(".py") and not is_test_path(path))
    outcome = await with_strength(run, outcome, found.profile, code)
    verdict = outcome.verdict
    assert verdict is not None
    metrics = {
        "passed": len(verdict.passed),
        "failed": len(verdict.failed) + len(verdict.errors) + len(verdict.missing),
        "flaky": len(verdict.flaky),
        "cpu_s": round(sum(each.cpu_s for each in runs), 3),
    }
    told = f"{metrics['passed']} tests passed, {metrics['failed']} did not, twice in fresh sandboxes"
    return replace(outcome, changes={}, explanation=told), {"metrics": metrics}


async def quality(given: Given) -> Done:
    """Scores of quality, security and maintainability.

    Below `minimum`, or with a security finding from `fail_on` on, the node fails.
    """
    least = _number(given, "minimum", 0.0)
    gravest = str(given.inputs.get("fail_on") or Severity.HIGH)
    if gravest not in list(Severity):
        raise TaskError(f"`fail_on` is {gravest!r:.50}", f"it has to be one of {', '.join(Severity)}")
    request = QualityRequest(base=given.base, tree=given.run.tree)
    found = await given.run.call(
        Call(step=QUALITY_STEP, role=Role.RUN, method="quality", request=request, returns=Measured)
    )
    grave = list(Severity)[: list(Severity).index(Severity(gravest)) + 1]
    bad = [each for each in found.findings if each.severity in grave and each.kind != "quality"]
    scores = {**found.scores(), "findings": len(found.findings)}
    data = {
        **{name: scores[name] for name in ("score", "quality", "security", "maintainability")},
        "findings": [asdict(each) for each in found.findings],
        "metrics": scores,
    }
    if bad:
        return _judged(Status.FAILED, "insecure", _listed(bad), found), data
    if found.score < least:
        told = f"the score is {found.score:g} of 100, and {least:g} is asked for; {_listed(found.findings)}"
        return _judged(Status.FAILED, "poor_quality", told, found), data
    return _judged(Status.SUCCEEDED, "measured", f"{found.score:g} of 100", found), data


def _judged(status: Status, reason: str, told: str, found: Measured) -> Outcome:
    return Outcome(status=status, reason=reason, explanation=told, findings=found.findings)


def _listed(findings: Any) -> str:
    shown = [f"{each.path}:{each.line} {each.message}" for each in findings[:_MOST_TOLD]]
    more = len(findings) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


async def form(given: Given) -> Done:
    """The Python of what a node works on in one form; what a program does stays the same."""
    length = int(_number(given, "line_length", 100))
    if not 20 <= length <= 320:
        raise TaskError(f"`line_length` is {length}", "it has to be 20 to 320")
    request = FormatRequest(tree=given.run.tree, line_length=length)
    found = await given.run.call(
        Call(step="format", role=Role.RUN, method="form", request=request, returns=Formatted)
    )
    told = f"{len(found.files)} of {found.looked_at} files changed"
    if found.unreadable:
        told += f"; no Python: {', '.join(found.unreadable)}"
    metrics = {
        "changed": len(found.files),
        "looked_at": found.looked_at,
        "unreadable": len(found.unreadable),
    }
    outcome = Outcome(
        status=Status.SUCCEEDED, reason="formatted", changes=dict(found.files), explanation=told
    )
    return outcome, {"changed": sorted(found.files), "metrics": metrics}


async def serve(given: Given) -> Done:
    """The service of what a node works on, started in the sandbox and asked over HTTP."""
    run, inputs = given.run, given.inputs
    packages = (await profiled(given)).profile.packages if inputs.get("profile") else ()
    request = ServiceRequest(
        tree=run.tree,
        packages=packages,
        app=str(inputs.get("app") or ""),
        command=str(inputs.get("command") or ""),
        health=str(inputs.get("health") or ""),
        openapi=str(inputs.get("openapi", "/openapi.json") or ""),
        timeout_s=min(_number(given, "timeout_s", 60.0), max(1.0, run.remaining_s())),
        python=run.task.python,
    )
    served = await run.call(
        Call(step="serve", role=Role.RUN, method="serve", request=request, returns=Served)
    )
    told = served.to_json()
    data = {"service": told, "metrics": told}
    is_fine = served.end is ServiceEnd.HEALTHY or (
        served.end is ServiceEnd.NO_SERVICE and not inputs.get("required")
    )
    status = Status.SUCCEEDED if is_fine else Status.FAILED
    return Outcome(status=status, reason=str(served.end), explanation=served.explanation), data


async def layers(given: Given) -> Done:
    """Whether imports point inward: a layer may import itself and those before it, never one after it."""
    request = LayersRequest(tree=given.run.tree, order=_order(given.inputs["order"]))
    layered = await given.run.call(
        Call(step="layers", role=Role.RUN, method="layers", request=request, returns=Layered)
    )
    found = layered.findings
    data = {
        "findings": [asdict(each) for each in found],
        "metrics": {"layers": len(request.order), "findings": len(found)},
    }
    if found:
        outcome = Outcome(status=Status.FAILED, reason="layers_broken", explanation=_listed(found))
        return replace(outcome, findings=found), data
    return Outcome(status=Status.SUCCEEDED, reason="layered", explanation="imports point inward"), data


def _order(given: Any) -> tuple[tuple[str, ...], ...]:
    """Layers from the innermost on; a list of names in it lies side by side.

    Raises:
        TaskError: It is no list of names and lists of names.
    """
    groups = [[each] if isinstance(each, str) else each for each in given] if isinstance(given, list) else []
    if not groups or not all(
        isinstance(group, list) and all(isinstance(each, str) and each for each in group) for group in groups
    ):
        raise TaskError(f"`order` is {given!r:.100}", "list the layers' folders, the innermost first")
    return tuple(map(tuple, groups))


def _number(given: Given, name: str, default: float) -> float:
    value = given.inputs.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise TaskError(f"`{name}` is {value!r:.50}", "it has to be a number of 0 or more")
    return float(value)
