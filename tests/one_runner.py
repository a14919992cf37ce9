"""A runner pool of one real runner in this process, for tests of repairers without Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from actors.runner import Runner
from orchestrator.ports import SessionSpec
from orchestrator.steps import TestRequest
from orchestrator.verdict import TestRun


class RealSession:
    """Implements `orchestrator.ports.SearchSession` on the runner."""

    def __init__(self, runner: Runner, name: str) -> None:
        self.runner = runner
        self.name = name
        self.cpu_s = 0.0
        self.tested: list[TestRequest] = []

    async def call(self, method: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        result, self.cpu_s = await self.runner.call_session(self.name, method, dict(arguments), timeout_s)
        return result

    async def test(self, request: TestRequest) -> TestRun:
        self.tested.append(request)
        return await self.runner.test(request)


class OneRunner:
    """Implements `orchestrator.ports.RunnerPool`; `sessions` keeps what was opened."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.sessions: list[RealSession] = []

    @asynccontextmanager
    async def session(self, spec: SessionSpec) -> AsyncIterator[RealSession]:
        session = RealSession(self.runner, await self.runner.open_session(spec))
        self.sessions.append(session)
        try:
            yield session
        finally:
            await self.runner.close_session(session.name)

    @property
    def tested(self) -> list[TestRequest]:
        return [request for session in self.sessions for request in session.tested]
