"""Who repairs side by side, and whose candidate counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from fakes import improvement, repaired, tree

from actors.portfolio import Portfolio, RepairSettings
from orchestrator.errors import EngineDown, EngineMissing, SandboxError
from orchestrator.steps import Repaired, RepairRequest
from orchestrator.verdict import TestProfile

REQUEST = RepairRequest(
    base=tree(a="start"), tree=tree(a="start"), profile=TestProfile(expected={}), failing=("t",), model="m"
)
NOTHING = repaired(None, exhausted=True)
AT_THE_SHELL = Repaired(best=improvement("shell"), repairer="model")
IN_ONE_PROMPT = Repaired(best=improvement("prompt"), repairer="model")


class Worker:
    """Ends as told, once `after` is set."""

    def __init__(self, outcome: Repaired | Exception, after: asyncio.Event | None = None) -> None:
        self.outcome = outcome
        self.after = after
        self.began = self.was_stopped = False

    async def repair(self, *_: Any) -> Repaired:
        self.began = True
        try:
            if self.after is not None:
                await self.after.wait()
        except asyncio.CancelledError:
            self.was_stopped = True
            raise
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def cancel_all(self) -> None: ...


async def race(
    search: Worker | None, model: Worker | None, shell: Worker | None, request: RepairRequest = REQUEST
) -> Repaired:
    async with asyncio.timeout(20):
        return await Portfolio(search, model, shell).repair(request, None, None)  # type: ignore[arg-type]


async def test_a_tested_candidate_of_the_shell_stops_the_others() -> None:
    search, model = Worker(NOTHING, asyncio.Event()), Worker(IN_ONE_PROMPT, asyncio.Event())

    found = await race(search, model, Worker(AT_THE_SHELL), replace(REQUEST, rejected=("x",)))

    assert found.best == AT_THE_SHELL.best
    assert search.was_stopped and model.was_stopped


async def test_after_a_refusal_an_untested_candidate_waits_for_the_shell() -> None:
    shell = Worker(AT_THE_SHELL, asyncio.Event())
    racing = asyncio.create_task(race(None, Worker(IN_ONE_PROMPT), shell, replace(REQUEST, rejected=("x",))))
    await asyncio.sleep(0.05)
    assert not racing.done() and shell.after is not None
    shell.after.set()

    found = await racing

    assert found.best == AT_THE_SHELL.best
    assert [each.explanation for each in found.alternatives] == ["prompt"]


async def test_a_shell_that_cannot_work_does_not_stop_the_search() -> None:
    found = await race(Worker(repaired(improvement("searched"))), None, Worker(SandboxError("none here")))

    assert found.repairer == "search"


async def test_where_none_can_work_the_reason_is_told() -> None:
    with pytest.raises(EngineDown):
        await race(None, Worker(EngineDown("down")), Worker(SandboxError("none here")))


async def test_without_a_model_only_the_search_works() -> None:
    model, shell = Worker(IN_ONE_PROMPT), Worker(AT_THE_SHELL)

    await race(Worker(NOTHING), model, shell, replace(REQUEST, model=None))

    assert not model.began and not shell.began


async def test_agents_that_all_need_a_model_refuse_to_work_without_one() -> None:
    with pytest.raises(EngineMissing, match="search"):
        await race(None, None, Worker(AT_THE_SHELL), replace(REQUEST, model=None))


@pytest.mark.parametrize("agents", [(), ("bash",), ("search", "shel")])
def test_unknown_agents_are_refused_by_name(agents: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"search, model, shell"):
        RepairSettings(agents=agents)


async def test_javascript_is_repaired_by_its_own_search_and_a_model_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python, model, searched = Worker(NOTHING), Worker(IN_ONE_PROMPT), Worker(NOTHING)
    monkeypatch.setattr("actors.portfolio.JavaScriptRepairer", lambda: searched)
    request = replace(REQUEST, profile=TestProfile(expected={}, language="javascript"))

    found = await race(python, model, None, request)

    assert found.best == IN_ONE_PROMPT.best
    assert searched.began and not python.began
