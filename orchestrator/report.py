"""A run's result in the words of every output, from its folded state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.checkpoints import checkpoints, quality
from orchestrator.codec import from_json, to_json
from orchestrator.errors import (
    AgentError,
    BudgetSpent,
    Cancelled,
    EngineDown,
    EngineMissing,
    KeyReused,
    MachineError,
    PromptTooLong,
    QueueFull,
    RaysmithError,
    ReplicaLost,
    SandboxError,
    StaleEpoch,
    TaskError,
)
from orchestrator.events import RunState, Status
from orchestrator.loop import Outcome, verdict_to_json
from orchestrator.patch import Changes, unified_diff
from orchestrator.steps import Usage
from orchestrator.tree import File, Tree

CHANGES = dict[str, File | None]
JUDGING_GRAPHS = frozenset({"test", "verify"})


def finished(
    outcome: Outcome,
    *,
    usage: Usage,
    diff: str | None,
    patch: str | None,
    wall_s: float,
    error: RaysmithError | None = None,
) -> dict[str, Any]:
    """The data of `run_finished`.

    Args:
        outcome: How the graph ended.
        usage: Of all engine calls.
        diff: Digest of its artifact, as `patch`.
        patch: The changes.
        wall_s: Seconds that the run was worked on.
        error: What ended it, if anything did.
    """
    return {
        "status": str(outcome.status),
        "reason": outcome.reason,
        "attempts": outcome.attempts,
        "verdict": verdict_to_json(outcome.verdict) if outcome.verdict else None,
        "diff": diff,
        "patch": patch,
        "files": sorted(outcome.changes),
        "repairer": outcome.repairer,
        "candidates": outcome.candidates,
        **_costs(usage),
        "replies": {
            "requests": usage.requests,
            "retries": usage.retries,
            "unusable": outcome.usage.unusable,
        },
        "wall_s": round(wall_s, 3),
        "explanation": outcome.explanation,
        "review": [asdict(finding) for finding in outcome.findings],
        "error": error_to_json(error) if error else None,
    }


def _costs(usage: Usage) -> dict[str, Any]:
    return {
        "tokens": {"prompt": usage.prompt, "completion": usage.completion, "cached": usage.cached},
        "gpu_s": usage.gpu_s,
        "cost_usd": usage.cost_usd,
    }


def error_to_json(error: RaysmithError) -> dict[str, Any]:
    """An error in the words of every output."""
    return {
        "code": error.code,
        "message": error.message,
        "next": error.next_move,
        "exit_code": error.exit_code,
    }


_KINDS = {
    kind.code: kind
    for kind in (
        *(TaskError, KeyReused, MachineError, SandboxError, EngineMissing, EngineDown),
        *(AgentError, PromptTooLong, ReplicaLost, StaleEpoch, BudgetSpent, QueueFull, Cancelled),
    )
}
_BY_EXIT_CODE = {2: TaskError, 3: MachineError}


def error_from_json(told: Mapping[str, Any]) -> RaysmithError:
    """The error that `error_to_json` told; of a kind that is not the core's, the nearest that is."""
    code = str(told.get("code"))
    kind = _KINDS.get(code) or _BY_EXIT_CODE.get(told.get("exit_code", 1), RaysmithError)
    error = kind(str(told.get("message", "")), str(told.get("next", "")))
    error.code = code
    return error


def result(state: RunState, load: Callable[[str], bytes], *, out: str | None = None) -> dict[str, Any]:
    """The one object that `--json` prints and the API returns.

    Args:
        state: The folded run, finished or not.
        load: Gives an artifact's bytes by digest.
        out: Folder where the caller wrote the result, if any.
    """
    report = {**state.report, **_costs(state.usage)} if state.usage.requests else state.report
    judged = {
        "run_id": state.run_id,
        "status": str(state.status),
        "reason": state.reason,
        "verdict": report.get("verdict") or state.verdict,
        "wall_s": report.get("wall_s", 0.0),
        "out": out,
    }
    if state.task.get("graph") in JUDGING_GRAPHS:
        return judged
    return {
        **judged,
        "attempts": report.get("attempts", state.attempt),
        "diff": load(report["diff"]).decode("utf-8", "surrogateescape") if report.get("diff") else "",
        "files": report.get("files", []),
        "repairer": report.get("repairer"),
        "candidates": report.get("candidates", 0),
        "tokens": report.get("tokens", {"prompt": 0, "completion": 0, "cached": 0}),
        "gpu_s": report.get("gpu_s", 0.0),
        "cost_usd": report.get("cost_usd", 0.0),
        "review": report.get("review", []),
        **_built(state, load),
    }


def _built(state: RunState, load: Callable[[str], bytes]) -> dict[str, Any]:
    """What the nodes of its graph came to, where they leave checkpoints."""
    if not state.nodes:
        return {}
    return {"checkpoints": checkpoints(state), "quality": quality(state, load)}


def diff_text(base: Tree, changes: Changes) -> bytes:
    """The patch as the bytes of a `.diff` file."""
    return unified_diff(base, changes).encode("utf-8", "surrogateescape")


def changes_json(changes: Changes) -> bytes:
    """`changes` as an artifact."""
    return to_json(dict(changes), CHANGES)


def changes_from(content: bytes) -> dict[str, File | None]:
    """The changes behind an artifact that `changes_json` wrote."""
    loaded: dict[str, File | None] = from_json(CHANGES, content)
    return loaded


def is_done(state: RunState) -> bool:
    """Whether a batch need not run this task again: succeeded, or its attempts or budget are spent."""
    return state.status is Status.SUCCEEDED or state.reason in ("attempts_exhausted", "budget_exhausted")
