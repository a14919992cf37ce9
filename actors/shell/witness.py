"""Writes down what a sandbox answers, so that a replay can answer in its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from orchestrator.codec import to_json
from orchestrator.errors import SandboxError
from orchestrator.ports import SearchSession
from orchestrator.report import error_to_json
from orchestrator.steps import Answer, TestRequest
from orchestrator.verdict import TestRun

OPEN, TEST = "open", "test"


class Witness:
    """Implements `orchestrator.ports.SearchSession` around another one; `answers` grows by every answer."""

    def __init__(self, session: SearchSession, answers: list[Answer]) -> None:
        self._session = session
        self._answers = answers

    @property
    def cpu_s(self) -> float:
        """See `SearchSession.cpu_s`."""
        return self._session.cpu_s

    async def call(self, method: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """See `SearchSession.call`."""
        asked = asked_of(method, arguments)
        try:
            told = await self._session.call(method, arguments, timeout_s)
        except SandboxError as error:
            self._answers.append(refused(method, asked, error, self.cpu_s))
            raise
        self._note(method, asked, json.dumps(told))
        return told

    async def test(self, request: TestRequest) -> TestRun:
        """See `SearchSession.test`."""
        asked = asked_to_test(request)
        try:
            run = await self._session.test(request)
        except SandboxError as error:
            self._answers.append(refused(TEST, asked, error, self.cpu_s))
            raise
        self._note(TEST, asked, to_json(run).decode())
        return run

    def _note(self, method: str, asked: str, answer: str) -> None:
        self._answers.append(Answer(method=method, asked=asked, answer=answer, cpu_s=self.cpu_s))


def refused(method: str, asked: str, error: SandboxError, cpu_s: float = 0.0) -> Answer:
    """That there was no answer, and why."""
    return Answer(method=method, asked=asked, error=json.dumps(error_to_json(error)), cpu_s=cpu_s)


def asked_of(method: str, arguments: Mapping[str, Any]) -> str:
    """What tells this call of a session from any other."""
    return _hash([method, dict(arguments)])


def asked_to_test(request: TestRequest) -> str:
    """What tells this test run from any other."""
    return _hash([TEST, request.base.digest, request.candidate.digest, request.seed])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
