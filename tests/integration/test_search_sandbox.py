"""The search repairer on the real runner: profile, warm sandbox, repair, and the verdict on what it found."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from local_runners import Told, tree_of

from actors.repairer import SearchRepairer
from actors.runner import Runner
from actors.sandbox.settings import SandboxSettings
from actors.search.settings import SearchSettings
from orchestrator.ports import SessionSpec
from orchestrator.steps import ProfileRequest, RepairRequest, TestRequest
from orchestrator.verdict import Level, judge

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]


class Session:
    """`SearchSession` on a runner in this process."""

    def __init__(self, runner: Runner, session: str) -> None:
        self._runner = runner
        self._session = session
        self.cpu_s = 0.0

    async def call(self, method: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        result, self.cpu_s = await self._runner.call_session(
            self._session, method, dict(arguments), timeout_s
        )
        return result


class Runners:
    """`RunnerPool` of one runner in this process."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    @asynccontextmanager
    async def session(self, spec: SessionSpec) -> AsyncIterator[Session]:
        session = await self._runner.open_session(spec)
        try:
            yield Session(self._runner, session)
        finally:
            await self._runner.close_session(session)


async def test_a_repair_found_in_the_sandbox_is_certified_outside_of_it() -> None:
    runner = Runner(SandboxSettings(minimum=Level.NAMESPACE))
    base = tree_of(
        {
            "shop/__init__.py": "",
            "shop/price.py": (
                "def total(prices):\n    result = 1\n    for p in prices:\n        result += p\n"
                "    return result\n"
            ),
            "shop/page.py": "def start(page, size):\n    return page * size\n",
            "tests/test_shop.py": (
                "from shop import page, price\n\n\n"
                "def test_total():\n    assert price.total([1, 2]) == 3\n"
                "    assert price.total([]) == 0\n\n\n"
                "def test_start():\n    assert page.start(1, 10) == 0\n    assert page.start(3, 5) == 10\n"
            ),
        }
    )
    profile = (await runner.profile(ProfileRequest(tree=base, timeout_s=30))).profile
    request = RepairRequest(base=base, tree=base, profile=profile, failing=profile.failing, cpu_s=20)

    result = await SearchRepairer(SearchSettings(window=60)).repair(request, Runners(runner), Told())

    assert result.best is not None
    assert result.best.failing == ()
    candidate = base.with_files(result.best.changes)
    runs = [
        await runner.test(TestRequest(base=base, candidate=candidate, profile=profile, seed=seed))
        for seed in (0, 1)
    ]
    assert judge(profile, runs).green
