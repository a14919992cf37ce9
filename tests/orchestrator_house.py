"""An orchestrator on real stores in a home that outlives it, and a fleet that answers from a script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fakes import FAILING, PASSING, improvement, repaired, run_of

from cluster.artifacts import ArtifactStore
from cluster.event_log import EventLog, open_log
from cluster.handles import Dispatch
from cluster.memory import StoreMemory
from cluster.orchestrator import Orchestrator
from cluster.orchestrator_settings import OrchestratorSettings
from cluster.store_settings import StoreSettings
from orchestrator.steps import Profiled
from orchestrator.verdict import TestProfile

BASE = {"test_a.py::one": FAILING, "test_a.py::two": FAILING}
GREEN = dict.fromkeys(BASE, PASSING)
FIXED = repaired(improvement("fixed"), candidates=3)


class ScriptedFleet:
    """Has steps done as `answers` say; a step whose answer is an event waits for it."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {"repair": FIXED, **answers}
        self.began: list[str] = []
        self.asked: list[Any] = []
        self.done: list[str] = []
        self.forgotten: list[str] = []
        self.stopped: list[str] = []

    async def execute(
        self, dispatch: Dispatch, *, on_dispatched: Callable[..., Any], on_requeued: Callable[..., Any]
    ) -> Any:
        await on_dispatched("replica-01", dispatch.epoch)
        self.began.append(dispatch.step)
        self.asked.append(dispatch.payload)
        answer = self.answers.get(dispatch.step) or self.answers.get(dispatch.method)
        try:
            if isinstance(answer, asyncio.Event):
                await answer.wait()
                answer = FIXED
        except asyncio.CancelledError:
            self.stopped.append(dispatch.step)
            raise
        if isinstance(answer, Exception):
            raise answer
        self.done.append(dispatch.step)
        return answer or self.judged(dispatch)

    def judged(self, dispatch: Dispatch) -> Any:
        if dispatch.method == "profile":
            return Profiled(profile=TestProfile(expected=BASE), run=run_of(BASE))
        request: Any = dispatch.payload
        is_fixed = request.candidate.files["a.py"].content == b"fixed"
        return run_of(GREEN if is_fixed else BASE)

    async def forget(self, run_id: str) -> None:
        self.forgotten.append(run_id)

    async def status(self) -> Mapping[str, Any]:
        return {}


class House:
    """A home whose orchestrator can be lost and started again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.logs: list[EventLog] = []

    def start(self, fleet: Any, life: str = "life-1", **settings: int) -> Orchestrator:
        self.logs.append(open_log(StoreSettings(), self.home))
        return Orchestrator(
            event_log=self.logs[-1],
            artifacts=ArtifactStore(str(self.home / "artifacts")),
            fleet=fleet,
            settings=OrchestratorSettings(**settings),
            life=life,
            memory=StoreMemory(self.logs[-1]),
        )

    def artifacts(self) -> ArtifactStore:
        return ArtifactStore(str(self.home / "artifacts"))

    async def lose(self, orchestrator: Orchestrator) -> None:
        """As kill -9 does: no task gets to say anything more."""
        tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("r-")]
        self.logs[-1].close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def kinds(events: Any) -> list[str]:
    return [str(event.type) for event in events]


async def ended(orchestrator: Orchestrator, run_id: str) -> Any:
    async with asyncio.timeout(60):
        states = await orchestrator.wait([run_id], 5.0)
        while not states:
            await asyncio.sleep(0.01)
            states = await orchestrator.wait([run_id], 5.0)
    return states[run_id]


async def until(happened: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not happened():  # noqa: ASYNC110 - what is waited for is a plain value
            await asyncio.sleep(0.005)
