"""How a run ends that its graph did not end: cut off, or by an error."""

from __future__ import annotations

from orchestrator.errors import MachineError, RaysmithError, ReplicaLost, TaskError
from orchestrator.events import Status
from orchestrator.loop import Outcome
from orchestrator.ports import Run


def cut_off(run: Run, attempts: int, status: Status, reason: str, why: str = "") -> Outcome:
    """The end of a run that was stopped in `attempts`, with the best changes so far."""
    kept = run.kept()
    changes = kept[0] if kept else {}
    return Outcome(status=status, reason=reason, changes=changes, attempts=attempts, explanation=why)


def out_of_time(run: Run, attempts: int) -> Outcome:
    """The end of a run whose wall seconds are spent."""
    why = f"{run.task.budget.wall_s:g} s of wall time are spent (`budget.wall_s`)"
    return cut_off(run, attempts, Status.FAILED, "budget_exhausted", why)


def failed(run: Run, attempts: int, error: RaysmithError) -> Outcome:
    """The end of a run that `error` ended."""
    if isinstance(error, ReplicaLost):
        return cut_off(run, attempts, Status.PARKED, "quarantined")
    reason = (
        "bad_input"
        if isinstance(error, TaskError)
        else "environment"
        if isinstance(error, MachineError)
        else error.code
    )
    return cut_off(run, attempts, Status.FAILED, reason)
