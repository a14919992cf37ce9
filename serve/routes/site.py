"""What the routes work with: the factory behind them, the settings, and who may come in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from cluster.event_log_projection import RunSummary
from cluster.event_log_usage import By, Spent
from orchestrator.events import Event, RunState, Status
from orchestrator.task import Task
from orchestrator.tree import Tree
from serve.auth import Keyring
from serve.config import Config
from serve.problems import Problem
from serve.routes.metrics import Metrics

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Floor(Protocol):
    """The factory as the routes need it; `cluster.reach.Reach` is one.

    Every call raises `ReplicaLost` while the orchestrator is not there.
    """

    async def stand(self) -> dict[str, Any]: ...

    async def submit(
        self, task: Task, tree: Tree | None, candidate: Tree | None, *, key: str, fingerprint: str
    ) -> tuple[str, bool]: ...

    async def cancel(self, run_id: str, reason: str) -> RunState: ...

    async def decide(
        self, run_id: str, node: str | None, *, approved: bool, by: str, why: str
    ) -> RunState: ...

    async def pause(self, run_id: str, *, by: str, why: str, now: bool) -> RunState: ...

    async def resume(self, run_id: str) -> bool: ...

    async def fork(self, run_id: str, start: str, declaration: Mapping[str, Any] | None, key: str) -> str: ...

    async def retry(self, run_id: str, node: str, key: str) -> str: ...

    async def export(self, run_id: str, secrets: Mapping[str, str]) -> bytes: ...

    async def artifact(self, digest: str) -> bytes: ...

    async def state(self, run_id: str) -> RunState: ...

    async def result(self, run_id: str) -> dict[str, Any]: ...

    async def events(self, run_id: str, after_seq: int = 0, wait_s: float = 0.0) -> Sequence[Event]: ...

    async def runs(
        self, status: Collection[Status] | None, limit: int, offset: int, tenant: str | None = None
    ) -> tuple[list[RunSummary], int]: ...

    async def usage(self, by: By, tenant: str | None, since: str) -> list[Spent]: ...

    async def diff(self, run_id: str) -> bytes: ...

    async def status(self) -> dict[str, Any]: ...


@dataclass(kw_only=True)
class Site:
    """One ingress process.

    Attributes:
        is_open: No key is needed: Serve is configured to bind to loopback. Never the client's word.
        heartbeat_s: Seconds of silence after which a stream sends a comment.
    """

    floor: Floor
    config: Config
    home: Path
    keyring: Keyring
    is_open: bool
    metrics: Metrics = field(default_factory=Metrics)
    heartbeat_s: float = 10.0
    streams_open: int = 0


def site_of(request: Request) -> Site:
    """The site that answers `request`."""
    site: Site = request.app.state.site
    return site


Here = Annotated[Site, Depends(site_of)]


def tenant_of(request: Request) -> str | None:
    """The tenant whose key came with `request`; None for a key, or a door, that is the operator's."""
    tenant: str | None = request.state.tenant
    return tenant


# A tenant sees its own runs and costs only, the operator all.
Tenant = Annotated[str | None, Depends(tenant_of)]


def operators_only(tenant: Tenant) -> None:
    """Refuse a tenant's key.

    Raises:
        Problem: One came; what is behind this tells of other tenants' runs.
    """
    if tenant is not None:
        raise Problem(403, "operators_only", "this tells of every tenant", "ask with an operator's key")
