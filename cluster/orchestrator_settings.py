"""How many runs an orchestrator works on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestratorSettings:
    """How many runs an orchestrator works on."""

    max_active_runs: int = 16
    """Runs worked on at a time; the others are pending."""
    max_pending_runs: int = 10_000
    """Runs that may be pending; one more is refused."""
    metered_tenants: tuple[str, ...] = ()
    """Tenants whose costs have series of their own in the metrics; the others' are one, `other`."""
