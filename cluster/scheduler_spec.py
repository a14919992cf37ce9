"""What a scheduler is made from, and what it makes replicas from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.fleet import ReplicaGroup, fingerprint
from cluster.replica import ReplicaSpec
from orchestrator.scheduling import SchedulingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSpec:
    """What a scheduler is made from; plain values that cross Ray."""

    groups: tuple[ReplicaGroup, ...]
    build: str
    config: Mapping[str, Any] = field(default_factory=dict)
    scheduling: SchedulingSettings = field(default_factory=SchedulingSettings)
    namespace: str = "raysmith"
    detached: bool = False
    """Whether the fleet outlives its clients."""
    version: str = ""
    """Of the code; filled in by `ensure_scheduler`."""
    tick_s: float = 0.25
    """How often groups are resized and time-outs looked at."""
    ping_interval_s: float = 1.0
    """How often a replica is asked for a sign of life."""
    ping_timeout_s: float = 5.0
    """How long a sign of life may take; after three misses the replica is lost."""
    holder_timeout_s: float = 15.0
    """A client silent for this long is dead and its leases are taken back."""
    orphan_timeout_s: float = 60.0
    """A fleet that is not detached ends after this long without any client."""
    start_attempts: int = 3
    """Replicas of a group that fail to start in a row before who waits for them is refused."""


def spec_version(spec: SchedulerSpec) -> str:
    """Differs when the code or the configuration does."""
    parts = [fingerprint(group, spec.build, spec.config, spec.version) for group in spec.groups]
    bounds = [(g.min_replicas, g.max_replicas, g.idle_timeout_s) for g in spec.groups]
    return f"{spec.version} {parts} {bounds} {spec.scheduling} {spec.detached}"


def replica_spec(spec: SchedulerSpec, group: ReplicaGroup, name: str) -> ReplicaSpec:
    """What a replica of `group` with this name is made from."""
    return ReplicaSpec(
        name=name,
        group=group.name,
        roles=group.roles,
        build=spec.build,
        config={**spec.config, **({"engine": group.engine} if group.engine else {})},
        max_in_flight=group.max_in_flight,
        namespace=spec.namespace,
        fingerprint=fingerprint(group, spec.build, spec.config, spec.version),
    )
