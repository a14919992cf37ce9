"""When a run may be paused, and how one stands that was."""

from __future__ import annotations

from orchestrator.errors import TaskError
from orchestrator.events import RunState, Status

# Why a run is parked that a person paused.
PAUSED = "paused"


def is_paused(state: RunState) -> bool:
    """Whether the run waits for nothing but the word to go on."""
    return state.status is Status.PARKED and state.reason == PAUSED


def is_called_back(state: RunState) -> bool:
    """Whether the run was paused although its pause had been called off meanwhile."""
    return is_paused(state) and state.pause is None


def check_pausable(state: RunState) -> None:
    """Refuse to pause a run that does nothing.

    Raises:
        TaskError: It has ended, or waits for a person.
    """
    if state.status is Status.PARKED:
        raise TaskError(
            f"run {state.run_id} is parked ({state.reason}) and starts nothing by itself",
            "there is nothing to pause; `raysmith show` tells whom it waits for",
        )
    if state.status.is_finished:
        raise TaskError(
            f"run {state.run_id} has ended ({state.status}: {state.reason})", "there is nothing to pause"
        )
