"""The test agent: a goal and its code become pytest tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from actors.engines.port import Engines
from actors.formats import ReplySettings
from actors.writer import Writer
from orchestrator.errors import AgentError
from orchestrator.steps import WriteRequest
from orchestrator.tree import File


class Tester(Writer):
    """Writes tests, never the code they test."""

    def __init__(self, engines: Engines, replies: ReplySettings | None = None) -> None:
        super().__init__("test", engines, replies)

    def check(self, request: WriteRequest, files: Mapping[str, File | None]) -> None:
        """Refuse files that are no tests or that replace the code."""
        for path in files:
            if path in request.tree.files or not PurePosixPath(path).name.startswith("test_"):
                raise AgentError(f"{path!r} is not a new file named test_*.py", "name it test_*.py")

    def may_change(self, _request: WriteRequest, _path: str) -> bool:
        """Tests are new files, so that they are always asked for whole."""
        return False
