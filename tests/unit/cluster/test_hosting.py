from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

import cluster.hosting as hosting_module
from cluster.fleet import ReplicaGroup
from cluster.hosting import Hosted, Hosting
from cluster.scheduler_spec import SchedulerSpec
from orchestrator.leases import LeaseRequest
from orchestrator.scheduling import Scheduler

GROUP = ReplicaGroup(name="writers", roles=("code",), min_replicas=1, max_replicas=1)


class SlowStart:
    """A replica's handle whose answer to `start` comes when the test says so."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.start = SimpleNamespace(remote=lambda: self.answer)


async def test_a_replica_that_is_ended_while_it_starts_is_never_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting_module, "_ray", lambda: SimpleNamespace(kill=lambda handle, no_restart: None))
    spec = SchedulerSpec(groups=(GROUP,), build="m:build")
    machine = Scheduler(groups=[GROUP.info])
    machine.request(LeaseRequest(dispatch_id="r/s", run_id="r", step="s", role="code"), 0.0)
    hosting = Hosting(
        spec, machine, carry_out=lambda made: None, lost=lambda group: None, spawn=asyncio.create_task
    )
    handle = SlowStart()
    hosted = Hosted(name="writers-00", group=GROUP, handle=handle)
    hosting.hosted["writers-00"] = hosted
    starting = asyncio.ensure_future(hosting._bring_up(hosted))
    await asyncio.sleep(0)

    handle.answer.set_result({"node": "n", "pid": 1})
    await hosting.end(hosted)
    await starting

    assert machine.lease("r/s") is None
