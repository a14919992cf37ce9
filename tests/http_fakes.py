"""A factory without Ray behind the real HTTP application: runs are states that a test puts there."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from cluster.approvals import open_gate
from cluster.event_log_memory import MemoryEventLog
from cluster.event_log_projection import RunSummary
from cluster.event_log_usage import By, Spent
from cluster.graphs import shipped
from cluster.live_run import task_to_json
from orchestrator.errors import KeyReused, ReplicaLost
from orchestrator.events import Event, Kind, NewEvent, RunState, Status
from orchestrator.forking import start_of
from orchestrator.pausing import check_pausable
from orchestrator.report import result
from orchestrator.retrying import kept_by_retry
from orchestrator.task import Task
from orchestrator.tree import Tree
from serve.app import create_api
from serve.auth import Keyring
from serve.config import Config, load
from serve.routes.site import Site

ENDED = {"status": "succeeded", "reason": "certified", "attempts": 1, "diff": None, "files": ["a.py"]}


@dataclass
class FakeFloor:
    """Implements `serve.routes.site.Floor` on an event log in memory; `lost` makes it unreachable."""

    log: MemoryEventLog = field(default_factory=MemoryEventLog)
    room: int = 100
    unsandboxed: bool = False
    lost: bool = False
    patches: dict[str, bytes] = field(default_factory=dict)
    submitted: list[tuple[Task, Tree | None, Tree | None]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    forked: list[tuple[str, Mapping[str, Any] | None]] = field(default_factory=list)
    error: Exception | None = None

    def _reach(self) -> None:
        if self.error is not None:
            raise self.error
        if self.lost:
            raise ReplicaLost("the orchestrator restarts", "ask again shortly")

    def tell(self, run_id: str, kind: Kind, data: Mapping[str, Any] | None = None, **rest: Any) -> Event:
        (event,) = self.log.append_blocking(
            [NewEvent(run_id=run_id, type=kind, data=dict(data or {}), **rest)]
        )
        return event

    def begin(self, run_id: str = "r-0000000001", **task: Any) -> str:
        described = task_to_json(Task(**{"id": "t", **task}))
        tenant = task.get("tenant", "default")
        self.tell(run_id, Kind.RUN_SUBMITTED, {"task": described, "key": None, "life": "l"}, tenant=tenant)
        self.tell(run_id, Kind.RUN_STARTED, {"life": "l"}, tenant=tenant)
        return run_id

    def end(self, run_id: str, **data: Any) -> Event:
        return self.tell(run_id, Kind.RUN_FINISHED, {**ENDED, **data})

    async def stand(self) -> dict[str, Any]:
        self._reach()
        return {"life": "l", "room": self.room, "unsandboxed": self.unsandboxed}

    async def submit(
        self, task: Task, tree: Tree | None, candidate: Tree | None, *, key: str, fingerprint: str
    ) -> tuple[str, bool]:
        self._reach()
        if key in self.keys:
            run_id, known = self.keys[key]
            if known != fingerprint:
                raise KeyReused("this idempotency key came with another request before", "take a new one")
            return run_id, True
        run_id = self.begin(f"r-{len(self.submitted):010x}", id=task.id, graph=task.graph, tenant=task.tenant)
        self.submitted.append((task, tree, candidate))
        self.keys[key] = run_id, fingerprint
        return run_id, False

    async def cancel(self, run_id: str, reason: str) -> RunState:
        self._reach()
        self.cancelled.append(run_id)
        return self.log.state(run_id)

    async def decide(self, run_id: str, node: str | None, *, approved: bool, by: str, why: str) -> RunState:
        self._reach()
        gate = open_gate(self.log.state(run_id), node)
        self.tell(run_id, Kind.APPROVAL_DECIDED, {"approved": approved, "by": by, "why": why}, step=gate)
        return self.log.state(run_id)

    async def pause(self, run_id: str, *, by: str, why: str, now: bool) -> RunState:
        self._reach()
        check_pausable(self.log.state(run_id))
        self.tell(run_id, Kind.PAUSE_REQUESTED, {"by": by, "why": why, "now": now})
        return self.log.state(run_id)

    async def resume(self, run_id: str) -> bool:
        self._reach()
        self.tell(run_id, Kind.RUN_RESUMED)
        return True

    async def fork(self, run_id: str, start: str, declaration: Mapping[str, Any] | None, key: str) -> str:
        self._reach()
        start_of(self.log.events(run_id), start)
        self.forked.append((start, declaration))
        return self.begin(f"r-f{len(self.forked):09x}")

    async def retry(self, run_id: str, node: str, key: str) -> str:
        self._reach()
        state = self.log.state(run_id)
        kept_by_retry(self.log.events(run_id), state, shipped(str(state.task["graph"])), node)
        return self.begin("r-e000000001")

    async def export(self, run_id: str, secrets: Mapping[str, str]) -> bytes:
        self._reach()
        return f"export of {run_id}".encode()

    async def artifact(self, digest: str) -> bytes:
        self._reach()
        return self.patches[digest]

    async def state(self, run_id: str) -> RunState:
        self._reach()
        return self.log.state(self.log.find_run(run_id))

    async def result(self, run_id: str) -> dict[str, Any]:
        self._reach()
        return result(self.log.state(run_id), self.patches.__getitem__)

    async def events(self, run_id: str, after_seq: int = 0, wait_s: float = 0.0) -> Sequence[Event]:
        self._reach()
        events = self.log.events(run_id, after_seq)
        if not events and wait_s:
            await asyncio.sleep(min(wait_s, 0.02))
        return events

    async def runs(
        self, status: Collection[Status] | None, limit: int, offset: int, tenant: str | None = None
    ) -> tuple[list[RunSummary], int]:
        self._reach()
        page = self.log.runs(status=status, tenant=tenant, limit=limit, offset=offset)
        return page, self.log.count(status=status, tenant=tenant)

    async def usage(self, by: By, tenant: str | None, since: str) -> list[Spent]:
        self._reach()
        return self.log.usage(by, tenant=tenant, since=since)

    async def diff(self, run_id: str) -> bytes:
        self._reach()
        return self.patches.get(run_id, b"")

    async def status(self) -> dict[str, Any]:
        self._reach()
        return {"fleet": {"replicas": []}, "active_runs": [], "working_on": []}


def config(*settings: str) -> Config:
    return load(settings=settings, environ={}).config


def site(
    home: Path, floor: FakeFloor | None = None, *, settings: Sequence[str] = (), is_open: bool = True
) -> Site:
    return Site(
        floor=floor or FakeFloor(),
        config=config(*settings),
        home=home,
        keyring=Keyring(home),
        is_open=is_open,
        heartbeat_s=0.02,
    )


@asynccontextmanager
async def client(served: Site, **headers: str) -> Any:
    transport = httpx2.ASGITransport(app=create_api(served), raise_app_exceptions=False)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://127.0.0.1:8000", headers=headers
    ) as opened:
        yield opened
