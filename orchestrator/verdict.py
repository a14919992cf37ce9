"""What a test run showed and what we conclude. `judge` decides; nothing here runs a test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Outcome(StrEnum):
    """The result of one test. `ERROR` is a failed set-up or tear-down."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    XPASSED = "xpassed"


class JudgeKind(StrEnum):
    """Which process computed the outcomes, weakest first."""

    IN_PROCESS = "in_process"
    BLACK_BOX = "black_box"
    SEPARATE_PROCESS = "separate_process"


class Level(StrEnum):
    """How strongly a sandbox confines what it runs, strongest first."""

    KERNEL = "kernel"
    NAMESPACE = "namespace"
    WEAK = "weak"
    NONE = "none"

    def at_least(self, minimum: Level) -> bool:
        """Whether this level confines as strongly as `minimum`."""
        order = list(Level)
        return order.index(self) <= order.index(minimum)


class RunEnd(StrEnum):
    """How the process of a test run ended."""

    EXITED = "exited"
    TIMEOUT = "timeout"
    OUTPUT_LIMIT = "output_limit"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestCase:
    """One test's outcome; `detail` is cleaned text, cut, never to be interpreted."""

    id: str
    outcome: Outcome
    duration_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionError:
    """A file that could not be collected, in pytest's own words; `missing_module` names an absent import."""

    path: str
    detail: str
    missing_module: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRun:
    """What one run of a suite in one sandbox showed.

    Attributes:
        cases: One per test that reported all its phases exactly once, in the order run.
        collected: Ids in the order pytest meant to run them.
        complete: The reporter's authenticated closing record arrived, in sequence.
        irregular: What the reporter's records did that an honest run never does
            (a duplicate, a gap, a bad signature), in words; empty for an honest run.
        exit_code: pytest's; it may veto a pass, never grant one.
        output: Cleaned tail of what the run printed.
        findings: Of the static trip-wire on what the candidate adds to the base; empty for the base.
        dropped: Control files and tests that the candidate brought and that were left out.
        wall_s, cpu_s: Measured outside the sandbox; CPU of all its processes.
        warm: It was forked from a process that served other runs: quick to have, never for a certificate.
        seed: 0 for the suite's own order, else the seed of the shuffle.
    """

    cases: tuple[TestCase, ...] = ()
    collected: tuple[str, ...] = ()
    collection_errors: tuple[CollectionError, ...] = ()
    complete: bool = False
    irregular: tuple[str, ...] = ()
    exit_code: int | None = None
    end: RunEnd = RunEnd.EXITED
    output: str = ""
    findings: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    wall_s: float = 0.0
    cpu_s: float = 0.0
    seed: int = 0
    level: Level = Level.NONE
    judge: JudgeKind = JudgeKind.IN_PROCESS
    warm: bool = False

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """Outcome per test id."""
        return {case.id: case.outcome for case in self.cases}


@dataclass(frozen=True, slots=True, kw_only=True)
class TestProfile:
    """How the protected base is tested, frozen before any candidate is seen.

    Attributes:
        expected: Outcome of every id on the base; for ids read statically (the base
            could not be collected) the outcome is ERROR.
        arguments: What selects the tests: paths, node ids, -k and -m.
        options: Sanitised `addopts` of the base's configuration.
        plugins: Modules to load with -p, from the environment layer.
        protected: Paths of the base that a candidate cannot change.
        fixed_order: The base gives other outcomes in another order, so only its own counts.
        flaky: Ids that gave different outcomes on the base under equal conditions.
        judge: The strongest judge under which the base shows the same outcomes.
        language: Whose tests they are: `python` (pytest) or `javascript` (node:test).
        packages: Wheels installed for it besides what the interpreter has: name, version and hash each.
        preload: Modules that the base's own run imported from outside of it, in order: what a warm
            process may have loaded before it sees a candidate.
    """

    expected: Mapping[str, Outcome]
    arguments: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    protected: frozenset[str] = frozenset()
    fixed_order: bool = False
    flaky: frozenset[str] = frozenset()
    judge: JudgeKind = JudgeKind.IN_PROCESS
    language: str = "python"
    packages: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()

    @property
    def may_be_loaded(self) -> tuple[str, ...] | None:
        """`preload`; None where the task brought packages, which no process of several runs loads."""
        return None if self.packages else self.preload

    @property
    def failing(self) -> tuple[str, ...]:
        """Ids that a repair has to make pass; no repair is spent on what fails by luck."""
        return tuple(
            test
            for test, outcome in self.expected.items()
            if outcome in (Outcome.FAILED, Outcome.ERROR) and test not in self.flaky
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """How much generated tests notice.

    Attributes:
        tests: How many there are.
        idle: Those that pass although every function of the code returns None.
        mutants: How many small changes of the accepted code were tried.
        survivors: Where a change was that no test noticed.
    """

    tests: int
    idle: tuple[str, ...] = ()
    mutants: int = 0
    survivors: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        """The lesser share of tests that fail on a stub and of changes that were noticed, 0 to 1."""
        failing = 1 - len(self.idle) / self.tests if self.tests else 0.0
        return min(failing, 1 - len(self.survivors) / self.mutants) if self.mutants else failing


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What we conclude from the runs of one candidate.

    Every expected id is in exactly one of the six tuples; an unexpected id that ran is
    in `failed`. `findings` say in words why a green run was not certified.
    """

    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    flaky: tuple[str, ...] = ()
    certified: bool = False
    judge: JudgeKind = JudgeKind.IN_PROCESS
    sandbox_level: Level = Level.NONE
    findings: tuple[str, ...] = field(default=())
    alarm: bool = False
    strength: Strength | None = None

    @property
    def green(self) -> bool:
        """Every expected test passed or stayed what it may stay; says nothing of certification."""
        return bool(self.passed) and not (self.failed or self.errors or self.missing or self.flaky)


def weighed(verdict: Verdict, strength: Strength, minimum: float) -> Verdict:
    """The verdict with the strength of its tests; no certificate where they notice too little."""
    if strength.score >= minimum:
        return replace(verdict, strength=strength)
    words = (
        f"the tests notice too little: strength {strength.score:.2f}, and `judge.strength` is {minimum:g}; "
        f"{len(strength.idle)} of {strength.tests} tests pass on a stub, "
        f"{len(strength.survivors)} of {strength.mutants} changes go unnoticed"
    )
    return replace(verdict, strength=strength, certified=False, findings=(*verdict.findings, words))


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of those on several suites of one candidate: as good as the worst of them.

    Args:
        verdicts: At least one; no test is in two of them.
    """
    groups = ("passed", "failed", "skipped", "errors", "missing", "flaky", "findings")
    together = {name: tuple(test for each in verdicts for test in getattr(each, name)) for name in groups}
    return Verdict(
        **together,
        certified=all(each.certified for each in verdicts),
        judge=min((each.judge for each in verdicts), key=list(JudgeKind).index),
        sandbox_level=max((each.sandbox_level for each in verdicts), key=list(Level).index),
        alarm=any(each.alarm for each in verdicts),
        strength=next((each.strength for each in verdicts if each.strength is not None), None),
    )


_MAY_STAY = (Outcome.SKIPPED, Outcome.XFAILED)


def judge(
    profile: TestProfile,
    runs: Sequence[TestRun],
    *,
    judge_minimum: JudgeKind = JudgeKind.IN_PROCESS,
    runs_needed: int = 2,
) -> Verdict:
    """Conclude from `runs` of one candidate, all under `profile`.

    A test has passed when it passed in every run, was collected exactly once and was
    not skipped or expected to fail anew. Anything irregular in a run's records, a finding of
    the trip-wire, a time-out, an exceeded limit or a non-zero exit code vetoes the certificate.

    Args:
        profile: Frozen from the base.
        runs: At least one; `runs_needed` of them for a certificate.
        judge_minimum: The weakest judge whose word makes a certificate.
        runs_needed: Fresh sandboxes that have to agree.
    """
    if not runs:
        raise ValueError("judge() needs at least one test run")
    groups = _groups(profile, runs)
    kind = min((run.judge for run in runs), key=list(JudgeKind).index)
    findings = list(dict.fromkeys(finding for run in runs for finding in run.findings))
    doubts = [*_doubts(runs), *findings]
    if len(runs) < runs_needed:
        doubts.append(f"{len(runs)} of the {runs_needed} runs that a certificate needs")
    if list(JudgeKind).index(kind) < list(JudgeKind).index(judge_minimum):
        doubts.append(f"judged {kind}, but `judge.minimum` is {judge_minimum}")
    verdict = Verdict(
        passed=groups["passed"],
        failed=groups["failed"],
        skipped=groups["skipped"],
        errors=groups["errors"],
        missing=groups["missing"],
        flaky=groups["flaky"],
        judge=kind,
        sandbox_level=max((run.level for run in runs), key=list(Level).index),
        findings=tuple(doubts),
        alarm=bool(findings) or any(run.irregular for run in runs),
    )
    return replace(verdict, certified=verdict.green and not doubts)


def _groups(profile: TestProfile, runs: Sequence[TestRun]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = {
        name: [] for name in ("passed", "failed", "skipped", "errors", "missing", "flaky")
    }
    seen = [_seen_once(run) for run in runs]
    for test in [*profile.expected, *_unexpected(profile, runs)]:
        group = _group(profile.expected.get(test), {outcomes.get(test) for outcomes in seen})
        by_luck = test in profile.flaky and group in ("failed", "errors")
        groups["flaky" if by_luck else group].append(test)
    return {name: tuple(tests) for name, tests in groups.items()}


def _unexpected(profile: TestProfile, runs: Sequence[TestRun]) -> list[str]:
    seen = dict.fromkeys(case.id for run in runs for case in run.cases)
    return [test for test in seen if test not in profile.expected]


def _group(base: Outcome | None, seen: set[Outcome | None]) -> str:
    if base is None:
        return "failed"
    if None in seen:
        return "missing"
    if len(seen) > 1:
        return "flaky"
    outcome = seen.pop()
    if outcome is Outcome.PASSED or (outcome is Outcome.XPASSED and base is Outcome.XPASSED):
        return "passed"
    if outcome in _MAY_STAY:
        return "skipped" if base is outcome else "failed"
    return "errors" if outcome is Outcome.ERROR else "failed"


def _seen_once(run: TestRun) -> dict[str, Outcome]:
    collected, reported = Counter(run.collected), Counter(case.id for case in run.cases)
    return {case.id: case.outcome for case in run.cases if collected[case.id] == reported[case.id] == 1}


def _doubts(runs: Sequence[TestRun]) -> list[str]:
    doubts: list[str] = []
    for number, run in enumerate(runs, 1):
        if run.warm:
            doubts.append(f"run {number} was not made in a fresh process")
        if run.end is not RunEnd.EXITED:
            doubts.append(f"run {number} ended by {run.end}")
        if not run.complete:
            doubts.append(f"run {number} has no closing record")
        if run.end is RunEnd.EXITED and run.exit_code != _exit_code_of(run):
            doubts.append(f"run {number} exited with {run.exit_code}")
        if run.collection_errors:
            doubts.append(f"run {number} could not collect {run.collection_errors[0].path}")
        doubts.extend(f"run {number}: {what}" for what in run.irregular)
    return doubts


def _exit_code_of(run: TestRun) -> int:
    """What pytest exits with after these outcomes: 1 says no more than that a test failed."""
    return int(any(case.outcome in (Outcome.FAILED, Outcome.ERROR) for case in run.cases))
