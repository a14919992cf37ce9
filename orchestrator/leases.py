"""The words of scheduling: what is asked for, what is lent, and what was decided. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.errors import RaysmithError


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingSettings:
    """How leases are granted."""

    max_waiting: int = 10_000
    """Requests that may wait; one more is refused with QueueFull (what is requeued always may)."""
    kills_to_quarantine: int = 3
    """Replicas that a step may take down with it before it is refused for good."""
    affinity_overtakes: int = 4
    """How often a request may be passed by later ones whose home is the replica that got free."""
    extra_child_wait_s: float = 30.0
    """How long a second child of one parent waits before it is refused: nobody holds and waits for ever."""
    remembered: int = 10_000
    """Ended dispatches, homes and killed steps that are kept in mind, each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInfo:
    """Replicas of one shape, as far as scheduling cares."""

    name: str
    roles: frozenset[str]
    min_replicas: int = 0
    max_replicas: int = 1
    max_in_flight: int = 1
    idle_timeout_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaInfo:
    """One living replica; `max_in_flight` leases at most are held on it at once."""

    name: str
    group: str
    roles: frozenset[str]
    node: str = ""
    max_in_flight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """A step that needs a replica.

    Attributes:
        dispatch_id: One per dispatch of a step; re-deliveries of it differ in `epoch`.
        priority: Higher goes first.
        affinity: Requests with the same key go back to the same replica while it has room; empty for none.
        parent: Dispatch id of the lease that this one serves; it is revoked with it.
        parent_epoch: The parent's epoch as its agent knows it; an old one is refused.
    """

    dispatch_id: str
    run_id: str
    step: str
    role: str
    priority: int = 0
    tenant: str = "default"
    affinity: str = ""
    parent: str | None = None
    parent_epoch: int | None = None
    epoch: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A replica lent to a step. A result counts only under the lease's epoch."""

    dispatch_id: str
    replica: str
    epoch: int


class Ended(StrEnum):
    """How a lease ended."""

    FINISHED = "finished"
    CANCELLED = "cancelled"
    REQUEUED = "requeued"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that will not be granted; `error` says why and what to do."""

    dispatch_id: str
    epoch: int
    error: RaysmithError


@dataclass(slots=True, kw_only=True)
class Decisions:
    """What a transition decided; the caller carries it out.

    Attributes:
        granted: Tell whoever asked.
        refused: Tell whoever asked; the request is gone.
        evicted: Make the replica stop this work, then `release` the lease: its slot stays taken until then.
        drained: Replicas that hold nothing any more after `drain`; stop them, then `replica_lost`.
        ended: Every lease that ended in this transition, exactly once in its life.
    """

    granted: list[Lease] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    evicted: list[Lease] = field(default_factory=list)
    drained: list[str] = field(default_factory=list)
    ended: list[tuple[Lease, Ended]] = field(default_factory=list)
