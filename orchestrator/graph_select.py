"""Fan-in: of what several nodes gave, one, or all together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator import loop
from orchestrator.declaration import Select
from orchestrator.events import Status
from orchestrator.graph_fan import clashes
from orchestrator.graph_run import Given
from orchestrator.loop import Outcome
from orchestrator.node_output import Output
from orchestrator.patch import Changes, unified_diff
from orchestrator.steps import Profiled
from orchestrator.tree import Tree
from orchestrator.verdict import TestProfile, Verdict, combined, judge

Done = tuple[Outcome, Mapping[str, Any]]
TOGETHER = "together"


async def profiled(given: Given, language: str | None = None) -> Profiled:
    """The base's profile: that of the node whose step `inputs.profile` names, else one of its own."""
    return await _profile(given, given.inputs.get("profile") or "profile", language)


async def all_profiled(given: Given) -> list[Profiled]:
    """The base's profiles whose steps `inputs.profiles` names; without it the one of `profiled`."""
    steps = given.inputs.get("profiles")
    if not steps:
        return [await profiled(given)]
    return [await _profile(given, step, None) for step in steps]


async def _profile(given: Given, step: str, language: str | None) -> Profiled:
    task = given.run.task
    return await loop.profile_of(
        given.run, given.base, task.tests, task.protect, step=step, language=language
    )


async def select(given: Given) -> Done:
    """The work of a `select` node."""
    assert isinstance(given.node, Select)
    outputs = dict(_each(given))
    if given.node.rule == "best_patch":
        return await _best_patch(given, outputs, merge=given.node.merge)
    return _all(outputs) if given.node.rule == "all" else _first_green(outputs)


def _each(given: Given) -> Iterator[tuple[str, Output]]:
    """What is chosen from; of a fan-out each of its items."""
    assert isinstance(given.node, Select)
    for name in given.node.of:
        output = given.others[name]
        if output.items:
            yield from ((f"{name}[{number}]", item) for number, item in enumerate(output.items))
        else:
            yield name, output


def _first_green(outputs: Mapping[str, Output]) -> Done:
    """The first that was done; without one, the first that failed."""
    for name, output in sorted(outputs.items(), key=lambda each: not each[1].green):
        if output.outcome is not None:
            return output.outcome, {"chosen": [name], "failing": []}
    return Outcome(status=Status.SUCCEEDED, reason="nothing_to_do"), {"chosen": [], "failing": []}


def _all(outputs: Mapping[str, Output]) -> Done:
    """All patches in one; two that change one file in different ways cannot be."""
    bad = [output.outcome for output in outputs.values() if output.outcome and not output.green]
    if bad:
        return bad[0], {"chosen": [], "failing": []}
    green = {name: output.outcome for name, output in outputs.items() if output.outcome}
    clashing = clashes(list(green.values()))
    if clashing:
        told = f"two patches change {', '.join(clashing)}"
        conflict = Outcome(status=Status.FAILED, reason="conflict", explanation=told)
        return conflict, {"chosen": [], "failing": []}
    return _merged(list(green.values())), {"chosen": list(green), "failing": []}


def _merged(outcomes: list[Outcome]) -> Outcome:
    changes: dict[str, Any] = {}
    for outcome in outcomes:
        changes |= outcome.changes
    return Outcome(
        status=Status.SUCCEEDED,
        reason="merged",
        changes=changes,
        attempts=max((each.attempts for each in outcomes), default=0),
        candidates=sum(each.candidates for each in outcomes),
        repairer=", ".join(dict.fromkeys(each.repairer for each in outcomes if each.repairer)) or None,
        explanation="; ".join(each.explanation for each in outcomes if each.explanation),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """A patch and what the tests showed of it; the lower its rank the better."""

    chosen: tuple[str, ...]
    outcome: Outcome
    verdict: Verdict
    size: int

    @property
    def failing(self) -> list[str]:
        verdict = self.verdict
        return [*verdict.failed, *verdict.errors, *verdict.missing, *verdict.flaky]

    @property
    def rank(self) -> tuple[int, int, int]:
        return (len(self.failing), -len(self.verdict.passed), self.size)


async def _best_patch(given: Given, outputs: Mapping[str, Output], *, merge: bool) -> Done:
    """The patch that leaves the fewest tests failing, of equal ones the one with the smallest diff."""
    candidates: dict[tuple[str, ...], Outcome] = {
        (name,): each.outcome for name, each in outputs.items() if each.outcome and each.outcome.changes
    }
    if merge and len(candidates) > 1 and not clashes(list(candidates.values())):
        together = tuple(name for (name, *_) in candidates)
        candidates[together] = _merged(list(candidates.values()))
    if not candidates:
        return _without_patch(list(outputs.values())), {"chosen": [], "failing": []}
    profiles = [found.profile for found in await all_profiled(given)]
    tried = [await _tried(given, profiles, chosen, outcome) for chosen, outcome in candidates.items()]
    best = min(tried, key=lambda each: each.rank)
    status = Status.SUCCEEDED if best.verdict.green else Status.FAILED
    reason = "chosen" if best.verdict.green else "tests_failed"
    outcome = replace(best.outcome, status=status, reason=reason, verdict=best.verdict)
    return outcome, {"chosen": list(best.chosen), "failing": best.failing}


def _without_patch(outputs: Sequence[Output]) -> Outcome:
    """Why there is nothing to choose; where all failed for one reason, that."""
    failed = [each.outcome for each in outputs if each.outcome and not each.green]
    reasons = {each.reason for each in failed}
    if len(reasons) == 1:
        return Outcome(status=Status.FAILED, reason=reasons.pop(), explanation=failed[0].explanation)
    return Outcome(status=Status.FAILED, reason="no_candidate", explanation="no node gave a patch")


async def _tried(
    given: Given, profiles: Sequence[TestProfile], chosen: tuple[str, ...], outcome: Outcome
) -> _Tried:
    tree = given.base.with_files(outcome.changes)
    label = TOGETHER if len(chosen) > 1 else chosen[0]
    verdicts = []
    for profile in profiles:
        step = f"try-{label}{suffix(profile)}"
        run = await loop.run_once(given.run, given.base, tree, profile, attempt=0, step=step, seed=0)
        minimum = given.run.task.judge_minimum
        verdicts.append(judge(profile, [run], judge_minimum=minimum, runs_needed=1))
    size = _size(given.base, outcome.changes)
    return _Tried(chosen=chosen, outcome=outcome, verdict=combined(verdicts), size=size)


def suffix(profile: TestProfile) -> str:
    """What tells the steps of one language's tests from those of Python's."""
    return "" if profile.language == "python" else f"-{profile.language}"


def _size(base: Tree, changes: Changes) -> int:
    """Lines that a patch adds or removes."""
    lines = unified_diff(base, changes).splitlines()
    return sum(line.startswith(("+", "-")) and not line.startswith(("+++", "---")) for line in lines)
