"""The loop: code, test, run, and repair until certified or out of budget. It decides; others execute.

Every function here may be executed again from its start after a crash: `Run.call` answers
from the log what was done before, so nothing here may depend on the clock or on chance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.events import Kind, Status
from orchestrator.languages import language_of
from orchestrator.lessons import CERTIFIED, REFUSED, Lesson, lesson, signature_of
from orchestrator.packages import profiled_with
from orchestrator.patch import Changes, unified_diff
from orchestrator.ports import Call, Run
from orchestrator.steps import (
    Finding,
    Improvement,
    Profiled,
    ProfileRequest,
    Refused,
    Repaired,
    RepairRequest,
    Role,
    TestRequest,
    Usage,
)
from orchestrator.tree import Tree
from orchestrator.verdict import Outcome as TestOutcome
from orchestrator.verdict import TestProfile, TestRun, Verdict, judge

# Runner-ups of one repair that are put to the judge before the loop repairs again.
CERTIFICATIONS_PER_ATTEMPT = 3

# What failing tests said goes to a model that repairs: of so many tests, so many characters each.
DETAILED_TESTS = 20
DETAIL_CHARACTERS = 4000
# Of both, where a node's policy asks for a brief context.
BRIEF_SHARE = 0.25


# How a loop ends that was to end with any progress.
IMPROVED = "improved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a graph ended. `changes` are relative to the run's tree, the best that was reached."""

    status: Status
    reason: str
    verdict: Verdict | None = None
    changes: Changes = field(default_factory=dict)
    attempts: int = 0
    repairer: str | None = None
    candidates: int = 0
    usage: Usage = field(default_factory=Usage)
    explanation: str = ""
    findings: tuple[Finding, ...] = ()
    lesson: Lesson | None = None


async def test(run: Run) -> Outcome:
    """The verdict on the run's tree as it is."""
    profiled = await profile_of(run, run.tree, run.task.tests, run.task.protect)
    return await _judged(run, run.tree, profiled, first=profiled.run)


async def verify(run: Run) -> Outcome:
    """The verdict on the run's candidate under the protected tests of its tree."""
    assert run.candidate is not None
    profiled = await profile_of(run, run.tree, run.task.tests, run.task.protect)
    return await _judged(run, run.candidate, profiled, first=None)


class RepairLoop:
    """Repairs one base until a candidate is certified. The best so far is never lost.

    `shown` is the run of the base; `written` are changes relative to the run's tree that made
    the base what it is. `until` is `certified`, or `improved` for the first candidate that fails fewer
    tests; `brief` shows a model less of what failing tests said.
    """

    def __init__(
        self,
        run: Run,
        *,
        base: Tree,
        profile: TestProfile,
        shown: TestRun,
        written: Changes | None = None,
        usage: Usage | None = None,
        until: str = "certified",
        brief: bool = False,
    ) -> None:
        self.run = run
        self.until = until
        self.shown_share = BRIEF_SHARE if brief else 1.0
        self.base = base
        self.profile = profile
        self.written = written or {}
        self.usage = usage or Usage()
        self.changes: Changes = {}
        self.failing = profile.failing
        # What is told of a run that ends before anything could be certified.
        self.verdict: Verdict | None = judge(profile, [shown])
        self.candidates = 0
        self.cpu_s = 0.0
        self.repairer: str | None = None
        self.explanations: list[str] = []
        self.rejected: list[str] = []
        self.details = failure_details([shown], self.shown_share)
        self.refused: Refused | None = None

    async def execute(self) -> Outcome:
        """Attempt after attempt until certified, stuck, alarmed or out of budget."""
        for attempt in range(1, self.run.task.budget.attempts + 1):
            if self.run.remaining_s() <= 0 or (self._cpu_left_s() <= 0 and not self.run.task.model):
                return self._ended("budget_exhausted", attempt - 1)
            await self.run.record(Kind.ATTEMPT_STARTED, {"failing": list(self.failing)}, attempt=attempt)
            repaired = await self._repair(attempt)
            if (outcome := await self._certify_first(repaired, attempt)) is not None:
                return outcome
            if repaired.best is None:
                return self._ended(self._why_nothing(repaired), attempt)
            if self.until == IMPROVED and self.changes:
                return self._ended(IMPROVED, attempt)
        return self._ended("attempts_exhausted", self.run.task.budget.attempts)

    async def go_on_from(self, changes: Changes, shown: TestRun) -> Outcome:
        """As `execute`, from a patch to the base with which the tests did as `shown` says."""
        verdict = judge(self.profile, [shown], runs_needed=1)
        failing = (*verdict.failed, *verdict.errors, *verdict.missing)
        self.changes, self.failing = changes, failing
        if failing:
            self.details = failure_details([shown], self.shown_share) or self.details
            return await self.execute()
        verdict = await self._certify(changes, attempt=1, number=0)
        if verdict.certified:
            return self._finished(Status.SUCCEEDED, "certified", 1)
        return self._not_certified(verdict, 1)

    async def accept_base(self, *, repairer: str) -> Outcome:
        """Certify the base as it is."""
        self.repairer = repairer or None
        verdict = await self._certify({}, attempt=1, number=0)
        if verdict.certified:
            return self._finished(Status.SUCCEEDED, "certified", 1)
        return self._not_certified(verdict, 1)

    def _take_up_what_was_kept(self) -> None:
        """Start from the partial progress of an attempt that a crash cut off."""
        if (kept := self.run.kept()) is None:
            return
        changes, failing = kept
        if 0 < len(failing) < len(self.failing):
            self.changes = self.base.changes_to(self.run.tree.with_files(changes))
            self.failing = failing

    async def _repair(self, attempt: int) -> Repaired:
        self._take_up_what_was_kept()
        budget = self.run.task.budget
        tree = self.base.with_files(self.changes)
        request = RepairRequest(
            base=self.base,
            tree=tree,
            profile=self.profile,
            failing=self.failing,
            rejected=tuple(self.rejected),
            goal=self.run.task.goal,
            details=self._details(),
            refused=self.refused,
            python=self.run.task.python,
            model=self.run.task.model,
            cpu_s=max(0.0, self._cpu_left_s()),
            wall_s=self.run.remaining_s(),
            timeout_s=budget.test_timeout_s,
            seed=attempt - 1,
        )
        repaired = await self.run.call(
            Call(
                step="repair",
                role=Role.REPAIR,
                method="repair",
                request=request,
                returns=Repaired,
                attempt=attempt,
                progress=self._keep,
            )
        )
        self.candidates += repaired.candidates
        self.cpu_s += repaired.cpu_s
        self.usage = self.usage + repaired.usage
        return repaired

    def _details(self) -> dict[str, str]:
        """What the tests that still fail said on the base."""
        failing = {name for test in self.failing for name in (test, test.split("::", 1)[0])}
        return {name: text for name, text in self.details.items() if name in failing}

    async def _keep(self, improvement: Improvement) -> None:
        if len(improvement.failing) < len(self.failing):
            changes = {**self.written, **improvement.changes}
            await self.run.keep(changes, improvement.failing, improvement.explanation)

    async def _certify_first(self, repaired: Repaired, attempt: int) -> Outcome | None:
        """The first of the attempt's candidates that is certified, or the alarm that one raised."""
        if repaired.best is None:
            return None
        self.repairer = repaired.repairer
        if repaired.best.failing:
            await self._build_on(repaired.best)
            return None
        whole = [repaired.best, *(other for other in repaired.alternatives if not other.failing)]
        for number, improvement in enumerate(whole[:CERTIFICATIONS_PER_ATTEMPT]):
            verdict = await self._certify(improvement.changes, attempt=attempt, number=number)
            if verdict.certified:
                self.repairer = improvement.repairer or repaired.repairer
                await self._build_on(improvement)
                return self._finished(Status.SUCCEEDED, "certified", attempt)
            if verdict.alarm:
                self.changes = improvement.changes
                return self._finished(Status.PARKED, "integrity_alarm", attempt)
            self.rejected.append(self.base.with_files(improvement.changes).digest)
        return None

    async def _build_on(self, improvement: Improvement) -> None:
        await self._keep(improvement)
        self.changes, self.failing = improvement.changes, improvement.failing
        self.explanations.append(improvement.explanation)

    async def _certify(self, changes: Changes, *, attempt: int, number: int) -> Verdict:
        candidate = self.base.with_files(changes)
        runs = await run_twice(
            self.run, self.base, candidate, self.profile, attempt=attempt, label=f"certify-{number}"
        )
        self.verdict = await conclude(self.run, self.profile, runs, attempt)
        if not self.verdict.certified:
            self.refused = Refused(
                changes=changes,
                details=failure_details(runs, self.shown_share),
                doubts=self.verdict.findings,
            )
        return self.verdict

    def _cpu_left_s(self) -> float:
        return self.run.task.budget.search_cpu_s - self.cpu_s

    def _why_nothing(self, repaired: Repaired) -> str:
        if not repaired.exhausted:
            return "budget_exhausted"
        return "stuck" if self.changes else "no_candidate"

    def _not_certified(self, verdict: Verdict, attempt: int) -> Outcome:
        if verdict.alarm:
            return self._finished(Status.PARKED, "integrity_alarm", attempt)
        return self._ended("flaky" if verdict.flaky else "not_certified", attempt)

    def _ended(self, reason: str, attempts: int) -> Outcome:
        if reason == "budget_exhausted":
            budget = self.run.task.budget
            self.explanations.append(
                f"stopped at {budget.search_cpu_s:g} CPU s of search (`budget.search_cpu_s`) "
                f"or {budget.wall_s:g} s (`budget.wall_s`)"
            )
        return self._finished(Status.FAILED, reason, attempts)

    def _finished(self, status: Status, reason: str, attempts: int) -> Outcome:
        return Outcome(
            status=status,
            reason=reason,
            verdict=self.verdict,
            changes={**self.written, **self.changes},
            attempts=attempts,
            repairer=self.repairer,
            candidates=self.candidates,
            usage=self.usage,
            explanation="; ".join(self.explanations),
            lesson=self._lesson(reason),
        )

    def _lesson(self, reason: str) -> Lesson | None:
        """What this repair taught: the change that was certified, or the last one that was refused."""
        if reason == "certified":
            changes, outcome, notes = self.changes, CERTIFIED, "; ".join(self.explanations)
        elif self.refused is not None:
            changes, outcome = self.refused.changes, REFUSED
            notes = "; ".join((*self.refused.doubts, signature_of(self.refused.details)))
        else:
            return None
        patch = unified_diff(self.base, changes).encode("utf-8", "replace").decode()
        return lesson(self.details, outcome=outcome, patch=patch, notes=notes)


def failure_details(runs: Sequence[TestRun], share: float = 1.0) -> dict[str, str]:
    """What failing tests and files that cannot be collected said in `runs`, by id or path.

    `share` is how much of what is usually shown is shown of it.
    """
    found: dict[str, str] = {}
    for run in runs:
        said = [(error.path, error.detail) for error in run.collection_errors]
        said += [
            (case.id, case.detail)
            for case in run.cases
            if case.outcome in (TestOutcome.FAILED, TestOutcome.ERROR)
        ]
        for test, detail in said:
            found.setdefault(test, _cut(detail, int(DETAIL_CHARACTERS * share)))
    return dict(list(found.items())[: int(DETAILED_TESTS * share)])


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[…]\n{text[-half:]}"


async def already_passing(run: Run, profiled: Profiled) -> Outcome:
    """How a run ends whose base `profiled` showed no failing test."""
    outcome = await _judged(run, run.tree, profiled, first=profiled.run)
    if outcome.verdict and outcome.verdict.green:
        return Outcome(status=Status.SUCCEEDED, reason="already_passing", verdict=outcome.verdict)
    return outcome


async def _judged(run: Run, candidate: Tree, profiled: Profiled, first: TestRun | None) -> Outcome:
    profile = profiled.profile
    if first is None:
        runs = await run_twice(run, run.tree, candidate, profile, attempt=1, label="judge")
    else:
        runs = [first, await run_once(run, run.tree, candidate, profile, attempt=1, step="judge-2", seed=2)]
    return judged_outcome(await conclude(run, profile, runs, 1))


def judged_outcome(verdict: Verdict) -> Outcome:
    """How a run ends that only judges."""
    if verdict.certified:
        return Outcome(status=Status.SUCCEEDED, reason="certified", verdict=verdict, attempts=1)
    if verdict.alarm:
        return Outcome(status=Status.PARKED, reason="integrity_alarm", verdict=verdict, attempts=1)
    return Outcome(status=Status.FAILED, reason=_why_not(verdict), verdict=verdict, attempts=1)


def _why_not(verdict: Verdict) -> str:
    if verdict.failed or verdict.errors or verdict.missing:
        return "tests_failed"
    return "flaky" if verdict.flaky else "not_certified"


async def profile_of(
    run: Run,
    tree: Tree,
    tests: Sequence[str],
    protect: Sequence[str],
    *,
    step: str = "profile",
    language: str | None = None,
) -> Profiled:
    """The step that tests `tree` and freezes how it is tested; its `language` is seen where none is named.

    Raises:
        Waits: It lacks packages that a person has not allowed yet.
    """
    request = ProfileRequest(
        tree=tree,
        tests=tuple(tests),
        protect=tuple(protect),
        python=run.task.python,
        timeout_s=run.task.budget.test_timeout_s,
        language=language or language_of(tree, tests),
    )
    call = Call(step=step, role=Role.RUN, method="profile", request=request, returns=Profiled)
    return await profiled_with(run, call)


async def run_twice(
    run: Run, base: Tree, candidate: Tree, profile: TestProfile, *, attempt: int, label: str
) -> list[TestRun]:
    """Two fresh sandboxes side by side, the second in another order where order does not matter."""
    return list(
        await asyncio.gather(
            run_once(run, base, candidate, profile, attempt=attempt, step=f"{label}-1", seed=0),
            run_once(run, base, candidate, profile, attempt=attempt, step=f"{label}-2", seed=2 * attempt),
        )
    )


async def run_once(
    run: Run, base: Tree, candidate: Tree, profile: TestProfile, *, attempt: int, step: str, seed: int
) -> TestRun:
    """One fresh sandbox, the tests in an order that `seed` gives."""
    request = TestRequest(
        base=base,
        candidate=candidate,
        profile=profile,
        python=run.task.python,
        seed=0 if profile.fixed_order else seed,
        timeout_s=run.task.budget.test_timeout_s,
    )
    return await run.call(
        Call(step=step, role=Role.RUN, method="test", request=request, returns=TestRun, attempt=attempt)
    )


async def conclude(run: Run, profile: TestProfile, runs: Sequence[TestRun], attempt: int) -> Verdict:
    """The verdict on `runs`, recorded."""
    verdict = judge(profile, runs, judge_minimum=run.task.judge_minimum)
    await run.record(Kind.VERDICT_REACHED, {"verdict": verdict_to_json(verdict)}, attempt=attempt)
    return verdict


def verdict_to_json(verdict: Verdict) -> dict[str, object]:
    """The verdict in the words of every output."""
    return {
        "passed": list(verdict.passed),
        "failed": list(verdict.failed),
        "skipped": list(verdict.skipped),
        "errors": list(verdict.errors),
        "missing": list(verdict.missing),
        "flaky": list(verdict.flaky),
        "certified": verdict.certified,
        "judge": str(verdict.judge),
        "sandbox_level": str(verdict.sandbox_level),
        "findings": list(verdict.findings),
        **({"strength": round(verdict.strength.score, 3)} if verdict.strength else {}),
    }
