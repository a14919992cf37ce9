"""A run's result as a typed value, in the same words as `--json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from orchestrator.errors import MachineError, RaysmithError, TaskError
from orchestrator.events import RunState, Status
from orchestrator.steps import Finding, Severity
from orchestrator.verdict import Verdict
from serve.plain_json import exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What models read and wrote for a run."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run ended.

    Attributes:
        run_id: None for a task of a batch that was refused before it became a run.
        status: succeeded, failed, cancelled or parked; it equals these texts.
        reason: certified, already_passing, attempts_exhausted, budget_exhausted, stuck, …
        verdict: What the tests showed, None where none ran.
        diff: The best patch as text for `git apply`; bytes that are not UTF-8 are surrogate escapes.
        files: Paths that the patch changes.
        changes: New content of each of them, None for one that goes.
        repairer: Who found the patch: search, model, …
        candidates: Patches that were tried.
        wall_s: Seconds that the run was worked on.
        review: What a reviewer says of the patch; it decided nothing.
        checkpoints: What every node of the graph came to, where it leaves checkpoints; docs/howto/new-app.md.
        quality: Scores of the code, 0 to 100 each, and what was found; None where nothing was measured.
        out: Folder where the result was written, if anywhere.
        id: The task's name in its batch.
        error: What ended the run, where something other than its tests did.
        json: The object that `--json` prints for it.
    """

    run_id: str | None
    status: Status
    reason: str | None
    verdict: Verdict | None = None
    attempts: int = 0
    diff: str = ""
    files: tuple[str, ...] = ()
    changes: Mapping[str, bytes | None] = field(default_factory=dict, repr=False)
    repairer: str | None = None
    candidates: int = 0
    tokens: Tokens = Tokens()
    gpu_s: float = 0.0
    cost_usd: float = 0.0
    wall_s: float = 0.0
    review: tuple[Finding, ...] = ()
    checkpoints: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    quality: Mapping[str, Any] | None = field(default=None, repr=False)
    out: str | None = None
    id: str | None = None
    error: RaysmithError | None = None
    json: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def succeeded(self) -> bool:
        """Whether the run ended as it was asked to."""
        return self.status is Status.SUCCEEDED

    @property
    def success(self) -> bool:
        """The same as `succeeded`."""
        return self.succeeded


_SAME = (
    *("run_id", "reason", "attempts", "repairer", "candidates"),
    *("gpu_s", "cost_usd", "wall_s", "out", "id"),
)


def result_from(
    told: Mapping[str, Any],
    *,
    changes: Mapping[str, bytes | None] | None = None,
    error: RaysmithError | None = None,
) -> Result:
    """The result behind the object that `--json` prints, or a line of `results.jsonl`."""
    tokens = told.get("tokens", {})
    return Result(
        **{name: told[name] for name in _SAME if name in told},
        diff=exact(told) if "diff" in told else "",
        status=Status(told["status"]),
        verdict=_verdict(told.get("verdict")),
        files=tuple(told.get("files", ())),
        review=tuple(_finding(each) for each in told.get("review", ())),
        checkpoints=tuple(told.get("checkpoints", ())),
        quality=told.get("quality"),
        tokens=Tokens(**{each.name: tokens[each.name] for each in fields(Tokens) if each.name in tokens}),
        changes=changes or {},
        error=error or error_from(told.get("error")),
        json=dict(told),
    )


def _verdict(told: Mapping[str, Any] | None) -> Verdict | None:
    import json

    from orchestrator.codec import from_json

    if told is None:
        return None
    verdict: Verdict = from_json(Verdict, json.dumps(told).encode())
    return verdict


def error_from(told: Mapping[str, Any] | None) -> RaysmithError | None:
    """The error behind its JSON: a `TaskError` or `MachineError` where it was one's like."""
    if told is None:
        return None
    kinds: dict[Any, type[RaysmithError]] = {2: TaskError, 3: MachineError}
    error = kinds.get(told.get("exit_code"), RaysmithError)(told["message"], told.get("next", ""))
    error.code = told["code"]
    return error


def refusal(state: RunState) -> RaysmithError | None:
    """What the caller or the operator has to mend, where the run ended by that."""
    error = error_from(state.report.get("error"))
    return error if isinstance(error, TaskError | MachineError) else None


def _finding(told: Mapping[str, Any]) -> Finding:
    known = {each.name: told[each.name] for each in fields(Finding)}
    return Finding(**{**known, "severity": Severity(told["severity"])})
