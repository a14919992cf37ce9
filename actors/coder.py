"""The code agent: a goal in words becomes source files."""

from __future__ import annotations

from actors.engines.port import Engines
from actors.writer import Writer
from orchestrator.errors import AgentError
from orchestrator.patch import Changes
from orchestrator.plan import is_test_path
from orchestrator.steps import WriteRequest


class Coder(Writer):
    """Writes the code, never its tests."""

    def __init__(self, engines: Engines) -> None:
        super().__init__("code", engines)

    def check(self, request: WriteRequest, files: Changes) -> None:
        """Refuse tests where the plan leaves them to the test agent."""
        planned = request.plan is not None and request.plan.tests
        for path in files:
            if planned and is_test_path(path):
                raise AgentError(f"{path!r} is a test, and others write the tests", "leave it out")
