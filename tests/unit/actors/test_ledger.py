"""What a step asks of engines is written down whatever becomes of it, and bounded."""

from __future__ import annotations

import asyncio

import pytest
from scripted_engine import ScriptedEngine

from actors.engines.ledger import Ledger, MeteredEngine, current
from actors.engines.port import Message, NoReply, Reply, Sampling, Structured, Unusable
from orchestrator.errors import BudgetSpent
from orchestrator.steps import Allowance, EngineCall, Usage

ASK = [Message(role="user", content="write")]


class Slow(ScriptedEngine):
    async def complete(self, *_args: object, **_kwargs: object) -> Reply:
        await asyncio.sleep(60)
        raise AssertionError


async def test_every_call_is_written_down_with_what_it_cost() -> None:
    paid = Unusable("nothing", "ask again", Usage(completion=3, requests=1, cost_usd=0.5))
    reply = Reply(text="a", others=("b",), usage=Usage(prompt=5, requests=1, cost_usd=0.25))
    engine = MeteredEngine(ScriptedEngine([reply, paid]))
    sampling = Sampling(n=2, structured=Structured(choice=("a", "b")))
    reported: list[EngineCall] = []

    async def report(call: EngineCall) -> None:
        await asyncio.sleep(0)
        reported.append(call)

    ledger = Ledger(report=report)
    async with ledger.kept():
        await engine.complete("code", ASK, sampling)
        with pytest.raises(Unusable):
            await engine.complete("code", ASK)
        with pytest.raises(NoReply):
            await engine.complete("code", ASK)

    assert reported == ledger.calls
    first, second, third = ledger.calls
    assert (first.messages, first.replies, first.usage) == ((("user", "write"),), ("a", "b"), reply.usage)
    assert first.sampling == {"n": 2, "structured": {"choice": ("a", "b")}}
    assert (second.error, second.usage.cost_usd) == ("agent: nothing", 0.5)
    assert third.error.startswith("no_reply: ")


async def test_a_spent_budget_refuses_the_next_call_and_none_before_it() -> None:
    reply = Reply(text="a", usage=Usage(prompt=5, completion=5, requests=1))
    engine = MeteredEngine(ScriptedEngine([reply, reply, reply]))

    async with Ledger(allowance=Allowance(tokens=15)).kept() as ledger:
        await engine.complete("code", ASK)
        await engine.complete("code", ASK)
        with pytest.raises(BudgetSpent, match=r"budget\.tokens is spent"):
            await engine.complete("code", ASK)

    assert [call.error for call in ledger.calls] == ["", ""]


async def test_a_cancelled_call_is_written_down_and_reported() -> None:
    reported: list[EngineCall] = []

    async def report(call: EngineCall) -> None:
        await asyncio.sleep(0.02)
        reported.append(call)

    async def work() -> None:
        async with Ledger(report=report).kept():
            await MeteredEngine(Slow([])).complete("code", ASK)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [call.error for call in reported] == ["cancelled"]


async def test_steps_side_by_side_have_ledgers_of_their_own() -> None:
    engine = MeteredEngine(ScriptedEngine(["x"] * 4))

    async def step(calls: int) -> int:
        async with Ledger().kept() as ledger:
            await asyncio.gather(*(asyncio.create_task(engine.complete("code", ASK)) for _ in range(calls)))
        return len(ledger.calls)

    assert await asyncio.gather(step(1), step(3)) == [1, 3]
    assert current().calls == []
