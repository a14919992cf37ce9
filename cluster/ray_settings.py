"""The Ray cluster that a command joins or starts."""

from __future__ import annotations

from dataclasses import dataclass

# Ray's own; only from this one does it go on to the next free port itself.
DASHBOARD_PORT = 8265


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySettings:
    """The Ray cluster that a command joins or starts."""

    address: str = ""
    """Cluster to join, as in RAY_ADDRESS; "" starts a local one."""
    dashboard: bool = False
    """Whether a cluster started here also starts Ray's dashboard."""
    dashboard_port: int = DASHBOARD_PORT
    """TCP port of that dashboard on loopback; the next free one where it is taken."""
    num_cpus: int = 0
    """CPUs that a cluster started here offers; 0 for those of the machine."""
    object_store_mib: int = 256
    """Shared memory of a cluster started here."""
