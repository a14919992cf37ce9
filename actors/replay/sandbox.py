"""Sandboxes that answer a shell agent as they did when it was recorded. Nothing is run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from actors.shell.witness import OPEN, TEST, asked_of, asked_to_test
from orchestrator.codec import from_json
from orchestrator.errors import SandboxError
from orchestrator.ports import SessionSpec
from orchestrator.recording import Differs
from orchestrator.steps import Answer, TestRequest
from orchestrator.verdict import TestRun

OnTest = Callable[[TestRequest, TestRun], Awaitable[None]]


class ReplayedRunners:
    """Implements `orchestrator.ports.RunnerPool`.

    Args:
        where: For people.
        answers: What was answered, in order.
        at_end: Raised when more is asked.
        on_test: Told of every test run that was recorded.
    """

    def __init__(
        self, where: str, answers: Sequence[Answer], *, at_end: BaseException, on_test: OnTest
    ) -> None:
        self._where = where
        self._answers = list(answers)
        self._given = 0
        self._at_end = at_end
        self._on_test = on_test

    @asynccontextmanager
    async def session(self, _spec: SessionSpec) -> AsyncIterator[ReplayedSession]:
        """See `RunnerPool.session`."""
        left = self._answers[self._given :]
        if not left:
            raise self._at_end
        if left[0].method == OPEN:
            self.next(OPEN, asked_of(OPEN, {}))
        yield ReplayedSession(self, self._on_test)

    def next(self, method: str, asked: str) -> Answer:
        """The next answer, which has to be one to this.

        Raises:
            Differs: It is not.
            SandboxError: The sandbox could not answer.
        """
        if self._given >= len(self._answers):
            raise self._at_end
        answer = self._answers[self._given]
        self._given += 1
        if (answer.method, answer.asked) != (method, asked):
            raise Differs(
                f"{self._where}: the sandbox is asked to {method}, otherwise than in its recorded answer "
                f"{self._given} (to {answer.method})",
                "the agent's code has changed since; replay with the release that recorded it",
            )
        if answer.error:
            told = json.loads(answer.error)
            raise SandboxError(str(told["message"]), str(told["next"]))
        return answer


class ReplayedSession:
    """Implements `orchestrator.ports.SearchSession`."""

    def __init__(self, runners: ReplayedRunners, on_test: OnTest) -> None:
        self.cpu_s = 0.0
        self._runners = runners
        self._on_test = on_test

    async def call(self, method: str, arguments: Mapping[str, Any], _timeout_s: float) -> Any:
        """See `SearchSession.call`."""
        return json.loads(self._answer(method, asked_of(method, arguments)))

    async def test(self, request: TestRequest) -> TestRun:
        """See `SearchSession.test`."""
        run: TestRun = from_json(TestRun, self._answer(TEST, asked_to_test(request)).encode())
        await self._on_test(request, run)
        return run

    def _answer(self, method: str, asked: str) -> str:
        answer = self._runners.next(method, asked)
        self.cpu_s = answer.cpu_s
        return answer.answer
