"""Agents of `graph_suite` for replicas; they tell a journal which process worked on what."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import structlog
from fakes import FAILING, PASSING, improvement, repaired, run_of
from graph_suite import Journal

from orchestrator.errors import SandboxError, TaskError
from orchestrator.steps import Profiled
from orchestrator.verdict import TestProfile

BASE = {"test_a.py::one": FAILING, "test_a.py::two": FAILING}
GREEN = dict.fromkeys(BASE, PASSING)


class Agent:
    """Every role."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.journal = Journal(Path(config["journal"]))
        self.step_s = float(config["step_s"])

    async def profile(self, request: Any) -> Profiled:
        await self._work()
        return Profiled(profile=TestProfile(expected=BASE), run=run_of(BASE))

    async def test(self, request: Any) -> Any:
        await self._work()
        is_fixed = request.candidate.files["a.py"].content == b"fixed"
        return run_of(GREEN if is_fixed else BASE)

    async def repair(self, request: Any, runners: Any, progress: Any) -> Any:
        await self._work()
        return repaired(improvement("fixed"))

    async def _work(self) -> None:
        about = structlog.contextvars.get_contextvars()
        run, step = about["run"], about["step"]
        self.journal.add("began", run, step, os.getpid())
        await asyncio.sleep(self.step_s)
        self.journal.add("ended", run, step, os.getpid())
        if step.startswith("closed/"):
            raise TaskError("this way is closed")
        if step.startswith("flaky/") and ["tried", run] not in self.journal.lines():
            self.journal.add("tried", run)
            raise SandboxError("once only")


def build(roles: list[str], config: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(roles, Agent(config))
