"""What the nodes of a run came to, one after the other, and how good the code is that they made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.building import QUALITY_STEP, Measured
from orchestrator.codec import from_json
from orchestrator.events import NodeState, RunState
from orchestrator.steps import Usage


def checkpoints(state: RunState) -> list[dict[str, Any]]:
    """A checkpoint per node, in the order they began; those of a sub-graph in its node's `parts`."""
    told = {name: _checkpoint(state, node) for name, node in state.nodes.items()}
    for name, each in told.items():
        above, _, _ = name.rpartition("/")
        if above in told:
            told[above]["parts"].append(each)
    return [each for name, each in told.items() if name.rpartition("/")[0] not in told]


def _checkpoint(state: RunState, node: NodeState) -> dict[str, Any]:
    data, has_ended = node.data, node.ended_at is not None
    status, reason = node.status, data.get("reason", "")
    if not has_ended and state.status.is_finished:
        # A failure that ends the run is no end of its node: a later life tries it again.
        status, reason = str(state.status), state.reason or ""
    tokens = data.get("tokens", {})
    return {
        "stage": node.node,
        "status": status,
        "reason": reason,
        "explanation": data.get("explanation", ""),
        "started_at": node.started_at,
        "ended_at": node.ended_at,
        "wall_s": data.get("wall_s", 0.0),
        "resources": {**resources(Usage(), 0.0), **data.get("resources", {}), "tokens": tokens},
        "artifacts": {
            **({"output": node.artifact} if node.artifact else {}),
            **{step.step: step.result for step in _steps(state, node.node) if step.result},
        },
        "files": data.get("files", []),
        "metrics": data.get("metrics", {}),
        "parts": [],
    }


def _steps(state: RunState, node: str) -> Sequence[Any]:
    """The steps of a node itself, none of those of nodes in it."""
    return [
        step
        for step in state.steps.values()
        if step.step.rpartition("/")[0] == node and step.status == "completed"
    ]


def resources(usage: Usage, cpu_s: float) -> dict[str, Any]:
    """What a node took, beside time and tokens."""
    return {
        "cpu_s": round(cpu_s, 3),
        "gpu_s": round(usage.gpu_s, 3),
        "cost_usd": usage.cost_usd,
        "requests": usage.requests,
    }


def quality(state: RunState, load: Callable[[str], bytes]) -> Mapping[str, Any] | None:
    """The scores that were last measured in a run, with the findings behind them; None where none were."""
    found = [
        step.result
        for step in state.steps.values()
        if step.step.rpartition("/")[2] == QUALITY_STEP and step.status == "completed" and step.result
    ]
    if not found:
        return None
    measured: Measured = from_json(Measured, load(found[-1]))
    return {**measured.scores(), "findings": [asdict(each) for each in measured.findings]}
