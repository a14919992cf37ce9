"""A replica without Ray: it is an ordinary class."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType
from typing import Any

import pytest
import structlog

from cluster.replica import Context, Replica, ReplicaSpec
from orchestrator.errors import AgentError, Cancelled, MachineError, StaleEpoch
from orchestrator.scheduling import LeaseRequest


class Agent:
    def __init__(self) -> None:
        self.calls = 0
        self.active = 0
        self.most_active = 0
        self.cleaned_up = False

    async def write(self, request: Any) -> Any:
        self.calls += 1
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await asyncio.sleep(request if isinstance(request, float) else 0)
        except asyncio.CancelledError:
            self.cleaned_up = True
            raise
        finally:
            self.active -= 1
        if request == "boom":
            raise ZeroDivisionError("by hand")
        return self.calls


async def replica(agent: Agent, monkeypatch: pytest.MonkeyPatch, max_in_flight: int = 1) -> Replica:
    module = ModuleType("replica_wiring")
    module.build = lambda roles, config: dict.fromkeys(roles, agent)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "replica_wiring", module)
    spec = ReplicaSpec(
        name="code-01", group="g", roles=("code",), build="replica_wiring:build", max_in_flight=max_in_flight
    )
    made = Replica(spec)
    await made._build()
    return made


def context(name: str, role: str = "code") -> Context:
    return Context(request=LeaseRequest(dispatch_id=name, run_id="r", step="s", role=role))


async def test_what_is_logged_for_a_step_names_run_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Logging(Agent):
        async def write(self, _request: Any) -> Any:
            return await asyncio.to_thread(structlog.contextvars.get_contextvars)

    host = await replica(Logging(), monkeypatch)

    assert await host.execute("d", 1, "write", 0.0, context("d")) == {"run": "r", "step": "s"}
    assert structlog.contextvars.get_contextvars() == {}


async def test_asked_again_it_repeats_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent()
    host = await replica(agent, monkeypatch)

    first = await host.execute("d", 1, "write", 0.0, context("d"))
    second = await host.execute("d", 1, "write", 0.0, context("d"))
    kept = await host.last_result("d")

    assert first == second == 1
    assert kept is not None
    assert (kept.epoch, kept.unpack()) == (1, 1)


async def test_asked_again_while_at_work_it_waits_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent()
    host = await replica(agent, monkeypatch)

    results = await asyncio.gather(*(host.execute("d", 1, "write", 0.05, context("d")) for _ in range(3)))

    assert results == [1, 1, 1]


async def test_an_older_epoch_is_refused_and_a_higher_one_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent()
    host = await replica(agent, monkeypatch)
    old = asyncio.create_task(host.execute("d", 1, "write", 30.0, context("d")))
    await asyncio.sleep(0.01)

    result = await host.execute("d", 2, "write", 0.0, context("d"))

    assert result == 2
    assert agent.cleaned_up
    with pytest.raises(StaleEpoch):
        await old
    with pytest.raises(StaleEpoch):
        await host.execute("d", 1, "write", 0.0, context("d"))


async def test_no_more_at_once_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent()
    host = await replica(agent, monkeypatch, max_in_flight=2)

    await asyncio.gather(*(host.execute(f"d{n}", 1, "write", 0.02, context(f"d{n}")) for n in range(6)))

    assert agent.most_active == 2


async def test_cancel_lets_the_agent_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent()
    host = await replica(agent, monkeypatch)
    work = asyncio.create_task(host.execute("d", 1, "write", 30.0, context("d")))
    await asyncio.sleep(0.01)

    has_stopped = await host.cancel("d")

    assert has_stopped
    assert agent.cleaned_up
    with pytest.raises(Cancelled):
        await work


async def test_foreign_errors_become_ours_with_their_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    host = await replica(Agent(), monkeypatch)

    with pytest.raises(AgentError, match="ZeroDivisionError: by hand") as caught:
        await host.execute("d", 1, "write", "boom", context("d"))

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_a_role_it_does_not_host_is_a_wiring_error(monkeypatch: pytest.MonkeyPatch) -> None:
    host = await replica(Agent(), monkeypatch)

    with pytest.raises(MachineError, match="hosts no agent of role 'run'"):
        await host.execute("d", 1, "test", None, context("d", role="run"))
