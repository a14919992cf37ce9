"""What a node gives when it ends: kept with the run, read by the nodes after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.errors import RaysmithError
from orchestrator.events import Status
from orchestrator.loop import IMPROVED, Outcome
from orchestrator.patch import Changes
from orchestrator.steps import Usage

# How a run stands that waits for a person's decision.
AWAITING = "awaiting_approval"


class NodeStatus(StrEnum):
    """How a node ended; `WAITING` is for a person and no end."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a node gave.

    Attributes:
        outcome: In the words of a run; its changes are relative to the run's tree.
        data: Fields of its own that others refer to, JSON values.
        usage: What its engine calls cost, as far as its agents told.
        items: Of a fan-out, what it gave for each item.
        cpu_s: CPU seconds of its sandboxes and searches.
    """

    status: NodeStatus
    outcome: Outcome | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    items: tuple[Output, ...] = ()
    cpu_s: float = 0.0

    @property
    def green(self) -> bool:
        """It was done, and what it gave may be used."""
        return self.status is NodeStatus.DONE

    def fields(self) -> dict[str, Any]:
        """What `$node` stands for."""
        outcome = self.outcome
        verdict = outcome.verdict if outcome else None
        return {
            "status": str(self.status),
            "reason": outcome.reason if outcome else "",
            "green": self.green,
            "certified": bool(verdict and verdict.certified),
            "files": sorted(outcome.changes) if outcome else [],
            "explanation": outcome.explanation if outcome else "",
            "attempts": outcome.attempts if outcome else 0,
            **self.data,
        }


def output_of(outcome: Outcome, data: Mapping[str, Any], usage: Usage) -> Output:
    """The output of a node whose work ended with `outcome`."""
    is_done = outcome.status is Status.SUCCEEDED or outcome.reason == IMPROVED
    is_waiting = outcome.status is Status.PARKED and outcome.reason == AWAITING
    status = NodeStatus.DONE if is_done else NodeStatus.WAITING if is_waiting else NodeStatus.FAILED
    return Output(status=status, outcome=outcome, data=data, usage=usage)


def skipped() -> Output:
    """The output of a node that was not done."""
    return Output(status=NodeStatus.SKIPPED)


def failed(error: RaysmithError, usage: Usage, kept: Changes) -> Output:
    """The output of a node that an error ended, with the best patch that it had."""
    outcome = Outcome(status=Status.FAILED, reason=error.code, explanation=str(error), changes=kept)
    return Output(status=NodeStatus.FAILED, outcome=outcome, usage=usage)
