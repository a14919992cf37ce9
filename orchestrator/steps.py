"""What is asked of an agent in one step and what comes back: plain values that cross Ray."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, TypeVar

from orchestrator.context import ContextManifest
from orchestrator.lessons import Lesson
from orchestrator.plan import Plan, PlannedFile
from orchestrator.tree import File, Tree
from orchestrator.verdict import Level, TestProfile, TestRun


class Role(StrEnum):
    """What a replica does for a step."""

    CODE = "code"
    TEST = "test"
    RUN = "run"
    REPAIR = "repair"
    PLAN = "plan"
    REVIEW = "review"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What text cost: tokens and, on local models, GPU time.

    Attributes:
        requests: Replies that an engine gave.
        retries: Requests sent again because no usable answer came.
        unusable: Replies from which an agent could take nothing.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    gpu_s: float = 0.0
    cost_usd: float = 0.0
    requests: int = 0
    retries: int = 0
    unusable: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt=self.prompt + other.prompt,
            completion=self.completion + other.completion,
            cached=self.cached + other.cached,
            gpu_s=self.gpu_s + other.gpu_s,
            cost_usd=self.cost_usd + other.cost_usd,
            requests=self.requests + other.requests,
            retries=self.retries + other.retries,
            unusable=self.unusable + other.unusable,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            **{each.name: getattr(self, each.name) - getattr(other, each.name) for each in fields(self)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What the engines may still cost a run; None where nothing bounds it."""

    tokens: int | None = None
    gpu_s: float | None = None
    cost_usd: float | None = None

    def after(self, usage: Usage) -> Allowance:
        """What is left of it after `usage`."""
        return Allowance(
            tokens=None if self.tokens is None else self.tokens - usage.prompt - usage.completion,
            gpu_s=None if self.gpu_s is None else self.gpu_s - usage.gpu_s,
            cost_usd=None if self.cost_usd is None else self.cost_usd - usage.cost_usd,
        )

    def within(self, other: Allowance) -> Allowance:
        """The lesser of both, budget by budget."""
        return Allowance(
            tokens=_lesser(self.tokens, other.tokens),
            gpu_s=_lesser(self.gpu_s, other.gpu_s),
            cost_usd=_lesser(self.cost_usd, other.cost_usd),
        )

    @property
    def spent(self) -> str:
        """The first budget of which nothing is left, under its setting's name; empty while there is."""
        left = {"tokens": self.tokens, "gpu_s": self.gpu_s, "cost_usd": self.cost_usd}
        return next((name for name, value in left.items() if value is not None and value <= 0), "")


N = TypeVar("N", int, float)


def _lesser(one: N | None, other: N | None) -> N | None:
    return other if one is None else one if other is None else min(one, other)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCall:
    """One request to an engine and how it ended: what a run's cost is added up from, and what replays it.

    Attributes:
        number: Of the step's calls, from 1, as they ended.
        engine: The model as `--model` names it.
        kind: Which engine it is: recorded, openai, vllm.
        provider: The configured provider that served it, empty for a model named by itself.
        why: Why that provider, and why not others.
        messages: Pairs of a turn's role and its text.
        sampling: What was asked for beside the engine's configured way, JSON values.
        replies: The turns drawn.
        error: Why there is none, empty where there is; `next_move` is what it advised.
        measures: What the engine said of conversations since the call before this one: of each, by its
            `conversation_hash`, its tokens and how many have room.
    """

    engine: str
    kind: str
    role: str
    provider: str = ""
    why: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    replies: tuple[str, ...] = ()
    finish_reason: str = ""
    error: str = ""
    next_move: str = ""
    usage: Usage = field(default_factory=Usage)
    wall_s: float = 0.0
    number: int = 0
    measures: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)


def conversation_hash(messages: Sequence[tuple[str, str]]) -> str:
    """SHA-256 of a conversation, given as pairs of a turn's role and its text."""
    # A model may write half of a pair of surrogates; ASCII takes it as it is.
    return hashlib.sha256(json.dumps([list(each) for each in messages]).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """Role run: test the protected base and freeze its profile, in a sandbox of level `minimum` at least.

    `allowed` are wheels that a person let this run install, a lock's lines.
    """

    tree: Tree
    tests: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    python: str | None = None
    timeout_s: float = 300.0
    minimum: Level = Level.NONE
    language: str = "python"
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagesAsked:
    """Wheels that only a person may allow: name, version and hash each, and `why` says who needs them."""

    packages: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """The base's profile and the run that showed it (in the suite's own order).

    With `asks` nothing was run: the task lacks packages that a person has to allow first.
    """

    profile: TestProfile
    run: TestRun
    asks: PackagesAsked | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRequest:
    """Role run: test one candidate in a fresh sandbox under a frozen profile.

    The runner restores the profile's protected paths from `base` and drops control files
    that the candidate adds, whatever `candidate` holds. `minimum` is the weakest sandbox that will do.
    `quick` is content with a run in a fork of a warm process, which no certificate is made from.
    """

    base: Tree
    candidate: Tree
    profile: TestProfile
    python: str | None = None
    seed: int = 0
    timeout_s: float = 300.0
    minimum: Level = Level.NONE
    quick: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedCall:
    """A call of the code under test that no test makes yet.

    Attributes:
        path: The test file that makes one like it.
        imports: Lines that import what it names.
        name: Of them, the one that it begins with.
        expression: Its text.
    """

    path: str
    imports: str
    name: str
    expression: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeRequest:
    """Role run: find calls worth a test next to those that the files `tests` make, `first` before all."""

    tree: Tree
    tests: tuple[str, ...]
    first: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """Calls worth a test, the most different first."""

    calls: tuple[ProposedCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveRequest:
    """Role run: see what `calls` answer on `tree`, and write it down as tests."""

    tree: Tree
    profile: TestProfile
    calls: tuple[ProposedCall, ...]
    python: str | None = None
    timeout_s: float = 60.0
    minimum: Level = Level.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """New test files; `tried` is how many calls were."""

    files: Mapping[str, File] = field(default_factory=dict)
    tried: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StrengthRequest:
    """Role run: see how much the tests in `tree` notice of changes to the files `code`.

    Changes are made within functions and classes called `names`, where there are such, else anywhere.
    """

    tree: Tree
    profile: TestProfile
    code: tuple[str, ...]
    minimum: Level = Level.NONE
    mutants: int = 12
    names: frozenset[str] = frozenset()
    python: str | None = None
    seed: int = 0
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A candidate that did not pass: its changes relative to the base, what failed then, other doubts."""

    changes: Mapping[str, File | None]
    details: Mapping[str, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRequest:
    """Role repair: find a patch to `tree` that makes the profile's failing tests pass.

    Attributes:
        base: The protected base that the profile was frozen from.
        tree: Where to start: the base, or the best patch so far laid over it.
        failing: Ids that fail on `tree`.
        rejected: Digests of whole trees that the judge refused; not to be offered again.
        goal: In words, for a model; a search does without.
        details: What failing tests said, cut, by id; those of `tree` as far as they are known.
        lessons: What earlier runs with such failures taught, for a model.
        refused: The candidate that the judge refused last, for a model to learn from.
    """

    base: Tree
    tree: Tree
    profile: TestProfile
    failing: tuple[str, ...]
    rejected: tuple[str, ...] = ()
    goal: str | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    refused: Refused | None = None
    lessons: tuple[Lesson, ...] = ()
    python: str | None = None
    model: str | None = None
    cpu_s: float = 60.0
    wall_s: float = 600.0
    timeout_s: float = 300.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Improvement:
    """A candidate with fewer failing tests than where the search stood; reported as it is found.

    `changes` are relative to the request's `base` (not to its `tree`), so that they mean the
    same wherever they are read; `explanation` says in a sentence what was changed where and why;
    `repairer` says who found it where that is not the one who reports it; `votes` how many replies or
    repairers came to the same.
    """

    changes: Mapping[str, File | None]
    failing: tuple[str, ...]
    explanation: str = ""
    candidates: int = 0
    cpu_s: float = 0.0
    repairer: str = ""
    votes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a sandbox answered an agent.

    Attributes:
        method: What was asked: one of the session's worker, or `test`.
        asked: SHA-256 of what it was asked with.
        answer: JSON; empty where `error` says why there is none.
        cpu_s: That its sandbox had used by then.
    """

    method: str
    asked: str
    answer: str = ""
    error: str = ""
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of an agent that works in many, told as soon as it is over.

    Attributes:
        agent: Who works so: `shell`.
        number: Of this request within the work, from 1; unusable replies count too.
        reply: The model's whole text.
        command: What was run; empty where the reply held no usable command, or a submission alone.
        exit_code: Of the command; None where none ran, or where it was ended.
        told: What was given back to the model, cut.
        usable: Whether the reply stays in the history.
        failing: How many tests failed when Raysmith tested the workspace after it; None when it did not.
        answers: What the sandbox answered during it, in order: what a replay answers in its place.
    """

    agent: str
    number: int
    reply: str
    command: str = ""
    exit_code: int | None = None
    told: str = ""
    usable: bool = True
    failing: int | None = None
    usage: Usage = field(default_factory=Usage)
    answers: tuple[Answer, ...] = ()


class RaceEnd(StrEnum):
    """How one of several repairers side by side ended."""

    ANSWERED = "answered"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Racer:
    """One of several repairers side by side.

    Attributes:
        name: search, model or shell.
        found: What the search found: nobody could compute it again in the same time. None for others.
        code, error, next_move: Why it failed.
    """

    name: str
    end: RaceEnd
    found: Repaired | None = None
    code: str = ""
    error: str = ""
    next_move: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """How a repair step ended: `best` is None when nothing was found, `contexts` are what a model saw.

    `answers` are those of the sandbox after the agent's last turn; `raced` is empty for one repairer alone.
    """

    best: Improvement | None
    repairer: str
    candidates: int = 0
    cpu_s: float = 0.0
    exhausted: bool = False
    alternatives: tuple[Improvement, ...] = ()
    usage: Usage = field(default_factory=Usage)
    contexts: tuple[ContextManifest, ...] = ()
    answers: tuple[Answer, ...] = ()
    raced: tuple[Racer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """Role plan: say what has to be written for `goal`."""

    goal: str
    model: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan, or None and in `refused` why no reply was one; the goal is then written without."""

    plan: Plan | None
    refused: str = ""
    usage: Usage = field(default_factory=Usage)
    contexts: tuple[ContextManifest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest:
    """Role code or test: write files for `goal`, given what is in `tree`.

    `wanted` are files of `plan` to be written, in this order; without them the agent chooses.
    `allowed` are globs that what it writes stays within; none allows every path.
    """

    goal: str
    tree: Tree
    model: str
    name: str = ""
    plan: Plan | None = None
    wanted: tuple[PlannedFile, ...] = ()
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Files that an agent wrote, already through the validator. `missing` were wanted and never came.

    `answers` are those of a sandbox after the agent's last turn.
    """

    files: Mapping[str, File]
    usage: Usage = field(default_factory=Usage)
    engine: str = ""
    missing: tuple[str, ...] = ()
    contexts: tuple[ContextManifest, ...] = ()
    answers: tuple[Answer, ...] = ()


class Severity(StrEnum):
    """How much a finding matters."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a reviewer says of a patch: an opinion for people, never a gate. `line` is 0 for a whole file."""

    path: str
    line: int
    severity: Severity
    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRequest:
    """Role review: look for faults in what `changes` make of `tree`; tests have certified it."""

    tree: Tree
    changes: Mapping[str, File | None]
    model: str
    goal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewed:
    """What the reviewer found; `refused` says why no reply could be used."""

    findings: tuple[Finding, ...] = ()
    refused: str = ""
    usage: Usage = field(default_factory=Usage)
    contexts: tuple[ContextManifest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRequest:
    """Role run: look for what `candidate` should not bring to `base`; neither is executed."""

    base: Tree
    candidate: Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """What was found that the base has not, and which requirements are new, each with its file."""

    findings: tuple[Finding, ...] = ()
    dependencies: tuple[str, ...] = ()
