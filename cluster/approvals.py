"""Gates of a run: which may be decided, and when a run that waited at one goes on. It decides nothing."""

from __future__ import annotations

from orchestrator.errors import TaskError
from orchestrator.events import RunState, Status
from orchestrator.node_output import AWAITING


def open_gate(state: RunState, node: str | None) -> str:
    """The node whose question is to be answered; without a name the only one that is open.

    Raises:
        TaskError: The run has ended, the node asks nothing, or it was decided before.
    """
    if state.status.is_finished and not is_parked_at_gate(state):
        raise TaskError(
            f"run {state.run_id} has ended ({state.status}: {state.reason})",
            "there is nothing left to decide",
        )
    waiting = [gate for gate, asked in state.approvals.items() if asked.approved is None]
    if node is None:
        if len(waiting) == 1:
            return waiting[0]
        if waiting:
            raise TaskError(
                f"{len(waiting)} gates of run {state.run_id} wait", f"name {' or '.join(waiting)}"
            )
        raise TaskError(f"run {state.run_id} waits for no decision", "`raysmith show` tells how it stands")
    asked = state.approvals.get(node)
    if asked is None:
        raise TaskError(
            f"node {node!r} of run {state.run_id} asks nothing", f"waiting: {', '.join(waiting) or 'none'}"
        )
    if asked.approved is not None:
        verb = "approved" if asked.approved else "rejected"
        raise TaskError(
            f"node {node!r} of run {state.run_id} was {verb} by {asked.by or 'somebody'} before",
            "a decision stands; replay the run from an earlier node to decide otherwise",
        )
    return node


def is_parked_at_gate(state: RunState) -> bool:
    """Whether the run waits for nothing but people."""
    return state.status is Status.PARKED and state.reason == AWAITING


def is_decided(state: RunState) -> bool:
    """Whether the run is parked at a gate that has been decided since."""
    decided = (node for node, asked in state.approvals.items() if asked.approved is not None)
    fresh = (node for node in decided if not state.approvals[node].heard)
    return is_parked_at_gate(state) and any(
        node not in state.nodes or _is_open(state, node) for node in fresh
    )


def _is_open(state: RunState, node: str) -> bool:
    return state.nodes[node].ended_at is None
