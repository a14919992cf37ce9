"""The workspace of a shell agent: a sandbox that lives over its turns, and on this side a copy of its files.

Commands share their user with the worker that runs them, so that a command can end the sandbox or make its
worker say anything. What comes back is data; a sandbox that was lost is replaced by a fresh one with the
files as they were before the command.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from actors.judge.assemble import is_test
from actors.judge.text import clean
from actors.shell.settings import ShellSettings
from actors.shell.witness import OPEN, Witness, asked_of, refused
from actors.workspace import NEVER_CONTENT, belongs
from orchestrator.errors import AgentError, SandboxError
from orchestrator.patch import MAX_FILE_BYTES, MAX_TOTAL_BYTES, Changes, check_changes, check_path, is_control
from orchestrator.ports import RunnerPool, SearchSession, SessionSpec
from orchestrator.steps import Answer, TestRequest
from orchestrator.tree import File, FileMode, Tree
from orchestrator.verdict import TestRun

# What one look at the workspace takes in: entries, levels, bytes of one file, bytes of all changes together.
_MOST_NOTES = 20
_MOST_EXIT = 255
_MOST = {"entries": 60_000, "depth": 60, "file": MAX_FILE_BYTES, "bytes": 4 * MAX_TOTAL_BYTES}
# How long the worker has for what comes after a command: ending it, looking at the files.
_GRACE_S = 30.0
_START_S = 180.0
# Bytes per character shown: UTF-8 has four at most.
_BYTES = 4


class WorkspaceLost(Exception):
    """No further sandbox may be opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command did.

    Attributes:
        exit_code: Of its shell; None when it was ended.
        end: `exited`, `timeout`, `flood`, or `lost` when the sandbox went with it.
        output: Cleaned and cut.
        changed: Whether a file of the workspace is another one than before.
        notes: What of its changes could not be taken over, in words.
    """

    exit_code: int | None
    end: str
    output: str = ""
    changed: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What of a workspace may become a patch: its changes to the base, and what was left out and why."""

    changes: Changes
    left_out: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""


class Workspace:
    """One work folder over all turns. `tree` is what is in it, as far as this side could read it."""

    def __init__(
        self,
        runners: RunnerPool,
        tree: Tree,
        settings: ShellSettings,
        *,
        python: str | None,
        packages: tuple[str, ...] = (),
    ) -> None:
        self.tree = tree
        self._runners = runners
        self._settings = settings
        self._python = python
        self._packages = packages
        self._session: SearchSession | None = None
        self._stack = AsyncExitStack()
        self._opened = 0
        self._most_bytes = sum(len(file.content) for file in tree.files.values()) + 8 * MAX_TOTAL_BYTES
        self._spent_s = 0.0
        self._large: set[str] = set()
        self._answers: list[Answer] = []

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all its sandboxes."""
        return self._spent_s + (self._session.cpu_s if self._session is not None else 0.0)

    async def run(self, command: str, timeout_s: float) -> Ran:
        """Run a command; everything that it started is gone when this returns.

        Raises:
            WorkspaceLost: There is no sandbox left to run it in.
        """
        session = await self._open()
        arguments = {
            "command": command,
            "timeout_s": timeout_s,
            "keep": self._settings.output_characters * _BYTES,
            "flood": self._settings.output_mib << 20,
        }
        try:
            told = await session.call("run", arguments, timeout_s + _GRACE_S)
            return self._taken(told)
        except SandboxError:
            await self._leave()
            return Ran(exit_code=None, end="lost")

    async def test(self, request: TestRequest) -> TestRun:
        """Test a candidate by the runner that the workspace is on, in a fresh sandbox beside it.

        Raises:
            SandboxError: It could not be tested.
            WorkspaceLost: There is no runner left.
        """
        session = await self._open()
        try:
            return await session.test(request)
        except SandboxError:
            await self._leave()
            raise

    def answered(self) -> tuple[Answer, ...]:
        """What the sandbox answered since this was asked last."""
        answers, self._answers[:] = tuple(self._answers), []
        return answers

    async def close(self) -> None:
        """End the sandbox and give the runner back."""
        await self._leave()

    async def _open(self) -> SearchSession:
        while self._session is None:
            if self._opened >= self._settings.sandboxes:
                raise WorkspaceLost
            self._opened += 1
            spec = SessionSpec(
                tree=self.tree,
                arguments=(),
                options=(),
                plugins=(),
                python=self._python,
                packages=self._packages,
                timeout_s=_START_S,
                worker="shell",
            )
            try:
                session = await self._stack.enter_async_context(self._runners.session(spec))
            except SandboxError as error:
                self._answers.append(refused(OPEN, asked_of(OPEN, {}), error))
                raise
            self._session = Witness(session, self._answers)
            try:
                await self._session.call("start", {"skip": sorted(NEVER_CONTENT), "most": _MOST}, _START_S)
            except SandboxError:
                await self._leave()
                if self._opened >= self._settings.sandboxes:
                    raise
        return self._session

    async def _leave(self) -> None:
        if self._session is not None:
            self._spent_s += self._session.cpu_s
            self._session = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    def _taken(self, told: Any) -> Ran:
        """The worker's word, checked.

        Raises:
            SandboxError: It makes no sense.
        """
        try:
            exit_code = None if told["exit_code"] is None else int(told["exit_code"])
            if exit_code is not None and abs(exit_code) > _MOST_EXIT:
                raise ValueError("an exit code that no process has")
            before = self.tree
            notes = self._take(told)
            return Ran(
                exit_code=exit_code,
                end=str(told["end"])[:20],
                output=self._shown(told),
                changed=self.tree.files != before.files,
                notes=_few(notes),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise SandboxError(
                f"the shell worker's reply makes no sense: {error!r}", "open another"
            ) from error

    def _shown(self, told: Mapping[str, Any]) -> str:
        most = self._settings.output_characters
        # A worker that was taken over may say more than it was asked for.
        text = str(told["head"])[: 2 * most]
        if left_out := int(told["left_out"]):
            text += f"\n[... {left_out} bytes left out ...]\n"
        return clean(text + str(told["tail"])[-2 * most :], most)

    def _take(self, told: Mapping[str, Any]) -> list[str]:
        if told["overflow"]:
            return [
                f"the workspace holds more than {_MOST['entries']} files or is too deep: remove what is new"
            ]
        large = [str(path) for path in told["large"] if str(path) not in self._large][:20]
        self._large.update(large)
        notes = [f"{path[:200]!r} is too large and is no part of the patch" for path in large]
        changes: dict[str, File | None] = {}
        for path, entry in told["changed"].items():
            if (reason := _unusable(path)) is not None:
                notes.append(reason)
            elif belongs(path):
                changes[path] = None if entry is None else _file(entry)
        tree = self.tree.with_files(changes)
        if sum(len(file.content) for file in tree.files.values()) > self._most_bytes:
            raise ValueError(f"the workspace has grown beyond {self._most_bytes} bytes")
        self.tree = tree
        return notes


def candidate(base: Tree, tree: Tree, protected: frozenset[str]) -> Candidate:
    """What of `tree` may be offered as a patch to `base`; what may not is left out, with the reason."""
    changes: dict[str, File | None] = {}
    left_out: dict[str, str] = {}
    for path, file in base.changes_to(tree).items():
        if (reason := _barred(path, file, base, protected)) is not None:
            left_out[path] = reason
        else:
            changes[path] = file
    try:
        check_changes(base, changes, protected=protected)
    except AgentError as error:
        return Candidate(changes={}, left_out=left_out, refused=str(error))
    return Candidate(changes=changes, left_out=left_out)


def _barred(path: str, file: File | None, base: Tree, protected: frozenset[str]) -> str | None:
    if path in protected:
        return "protected: it is put back before the tests"
    if is_control(path):
        return "it steers tools"
    if file is not None and file.mode is FileMode.LINK:
        return "it is a link"
    if file is not None and path not in base.files and is_test(path):
        return "it is named like a test, and new tests are not judged: name a helper otherwise"
    return None


def _unusable(path: str) -> str | None:
    try:
        check_path(path)
    except AgentError as error:
        return str(error)
    return None


def _file(entry: Mapping[str, str]) -> File:
    try:
        content = base64.b64decode(entry["content"], validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{len(content)} bytes in one file")
    return File(content=content, mode=FileMode(entry["mode"]))


def _few(notes: list[str]) -> tuple[str, ...]:
    more = len(notes) - _MOST_NOTES
    return (*notes[:_MOST_NOTES], *([f"and {more} more"] if more > 0 else []))
