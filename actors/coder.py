"""The code agent: a goal in words becomes source files."""

from __future__ import annotations

from actors.engines.port import Engines
from actors.formats import ReplySettings
from actors.writer import Writer
from orchestrator.errors import AgentError
from orchestrator.patch import Changes
from orchestrator.plan import is_test_path
from orchestrator.steps import WriteRequest


class Coder(Writer):
    """Writes the code, never its tests."""

    def __init__(self, engines: Engines, replies: ReplySettings | None = None) -> None:
        super().__init__("code", engines, replies)

    def check(self, request: WriteRequest, files: Changes) -> None:
        """Refuse tests where the plan leaves them to the test agent."""
        for path in files:
            if not self.may_change(request, path):
                raise AgentError(f"{path!r} is a test, and others write the tests", "leave it out")

    def may_change(self, request: WriteRequest, path: str) -> bool:
        """Anything but tests that the plan leaves to others."""
        return not (request.plan is not None and request.plan.tests and is_test_path(path))
