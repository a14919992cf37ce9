"""What the fleet is doing now, as a table and as numbers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cluster.fleet import ReplicaGroup, pending_reason
from cluster.hosting import Hosted, Hosting
from cluster.metrics import FleetCounts
from orchestrator.scheduling import Scheduler


def counts(hosting: Hosting, machine: Scheduler, groups: Iterable[ReplicaGroup]) -> FleetCounts:
    """For the metrics."""
    everyone = hosting.hosted.values()
    held = {hosted.name: machine.held(hosted.name) for hosted in everyone}
    now = time.monotonic()
    return FleetCounts(
        waiting={str(role): count for role, count in machine.waiting().items()},
        leases=Counter(str(request.role) for leases in held.values() for _, request in leases),
        replicas=Counter((each.group.name, _state(each.state, bool(held[each.name]))) for each in everyone),
        wanted={group.name: machine.wanted(group.name, now) for group in groups},
    )


def replica_row(
    hosted: Hosted, machine: Scheduler, nodes: Sequence[Mapping[str, Any]], free: Mapping[str, float]
) -> dict[str, Any]:
    """JSON values of one replica; the state of one that waits for its node is why.

    Args:
        nodes: As `ray.nodes()` gives them.
        free: As `ray.available_resources()` gives them.
    """
    held = machine.held(hosted.name)
    is_starting = hosted.state == "starting"
    return {
        "name": hosted.name,
        "roles": list(hosted.group.roles),
        "group": hosted.group.name,
        "node": hosted.node,
        "pid": hosted.pid,
        "state": pending_reason(hosted.group, nodes, free)
        if is_starting
        else _state(hosted.state, bool(held)),
        "in_flight": len(held),
        "max_in_flight": hosted.group.max_in_flight,
        "work": [
            {
                "run_id": request.run_id,
                "step": request.step,
                "role": str(request.role),
                "dispatch_id": lease.dispatch_id,
                "epoch": lease.epoch,
                "parent": request.parent,
            }
            for lease, request in held
        ],
    }


def group_row(group: ReplicaGroup, hosting: Hosting, machine: Scheduler) -> dict[str, Any]:
    """JSON values of one group."""
    failing = hosting.failing.get(group.name)
    return {
        "name": group.name,
        "roles": list(group.roles),
        "min": group.min_replicas,
        "max": group.max_replicas,
        "wanted": machine.wanted(group.name, time.monotonic()),
        "ready": sum(hosted.state == "ready" for hosted in hosting.of(group)),
        "trouble": str(failing.error) if failing and failing.error else "",
    }


def _state(state: str, is_busy: bool) -> str:
    return ("busy" if is_busy else "idle") if state == "ready" else state
