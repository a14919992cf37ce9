"""Tests what a shell agent made, by Raysmith's own runner, and keeps the best of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from actors.shell import words
from actors.shell.settings import ShellSettings
from actors.shell.workspace import Candidate, Workspace, WorkspaceLost, candidate
from orchestrator.errors import SandboxError
from orchestrator.loop import failure_details
from orchestrator.patch import Changes
from orchestrator.steps import Improvement, RepairRequest, TestRequest
from orchestrator.verdict import TestRun, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a look at the workspace showed.

    Attributes:
        digest: Of the base with the changes.
        failing: Ids that do not pass; None where nothing could be tested.
        words: For the agent.
    """

    digest: str
    words: str
    changes: Changes
    failing: tuple[str, ...] | None = None

    @property
    def passes(self) -> bool:
        """Every expected test passed once."""
        return self.failing == ()


class Check:
    """The tests of one piece of work. `best` never gets worse; every step to it was told."""

    def __init__(
        self,
        request: RepairRequest,
        workspace: Workspace,
        tell: Callable[[Improvement], Awaitable[None]],
        *,
        name: str,
        settings: ShellSettings,
    ) -> None:
        self.best: Improvement | None = None
        self.tests = 0
        self._request = request
        self._workspace = workspace
        self._tell = tell
        self._name = name
        self._settings = settings
        self._known: dict[tuple[str, str, str], Checked] = {}

    def is_due(self) -> bool:
        """Whether a change is to be tested before it is submitted."""
        return self.tests < self._settings.tests

    async def now(self) -> Checked:
        """Test the workspace as it is; the same files are tested once.

        Raises:
            WorkspaceLost: There is no runner left.
        """
        base = self._request.base
        found = candidate(base, self._workspace.tree, self._request.profile.protected)
        digest = base.with_files(found.changes).digest
        # Files that may not be in a patch change what is told, and not the patch.
        state = (digest, found.refused, words.left_out(found))
        checked = self._known.get(state) or await self._checked(found, digest)
        if checked.words != _UNTESTED:
            self._known[state] = checked
        await self._keep(checked)
        return checked

    async def last(self) -> None:
        """At the end: what was not tested yet is, and what cannot be tested is offered all the same."""
        try:
            checked = await self.now()
        except WorkspaceLost:
            return
        if checked.words == _UNTESTED:
            self._offer(checked.changes, checked.digest)

    def rest(self) -> None:
        """Offer what is there untested, where nothing tested is better than what the work began with."""
        found = candidate(self._request.base, self._workspace.tree, self._request.profile.protected)
        digest = self._request.base.with_files(found.changes).digest
        if not any(digest == tested for tested, *_ in self._known):
            self._offer(found.changes, digest)

    def _offer(self, changes: Changes, digest: str) -> None:
        is_new = digest not in (self._request.tree.digest, *self._request.rejected)
        if self.best is None and changes and is_new:
            self.best = self._improvement(changes, ())

    async def _checked(self, found: Candidate, digest: str) -> Checked:
        left_out = words.left_out(found)
        if reason := self._why_not(found, digest):
            return Checked(digest=digest, changes=found.changes, words=joined(reason, left_out))
        self.tests += 1
        try:
            run = await self._workspace.test(self._test_request(found.changes))
        except SandboxError:
            return Checked(digest=digest, changes=found.changes, words=_UNTESTED)
        if run.findings or run.irregular:
            doubts = "; ".join([*run.findings, *run.irregular][:5])
            told = f"The change cannot be accepted as it is: {doubts}. Take that out."
            return Checked(digest=digest, changes=found.changes, words=joined(told, left_out))
        return self._of(run, found, digest, left_out)

    def _of(self, run: TestRun, found: Candidate, digest: str, left_out: str) -> Checked:
        verdict = judge(self._request.profile, [run])
        failing = (*verdict.failed, *verdict.errors, *verdict.missing)
        told = (
            words.failing(
                failing, _of_these(failing, failure_details([run])), self._settings.output_characters
            )
            if failing
            else "Raysmith ran the tests on the change: all pass."
        )
        ended = "" if run.complete else f"The test run did not come to its end ({run.end})."
        # What the judge would leave out was not tested either.
        changes = {path: file for path, file in found.changes.items() if path not in run.dropped}
        return Checked(digest=digest, changes=changes, failing=failing, words=joined(told, ended, left_out))

    def _why_not(self, found: Candidate, digest: str) -> str:
        if found.refused:
            return f"The change cannot be accepted as it is: {found.refused}"
        if not found.changes:
            return "No file of the project is changed."
        if digest in self._request.rejected:
            return "This change was tried before and refused: change something else."
        return ""

    def _test_request(self, changes: Changes) -> TestRequest:
        request = self._request
        return TestRequest(
            base=request.base,
            candidate=request.base.with_files(changes),
            profile=request.profile,
            python=request.python,
            timeout_s=request.timeout_s,
            quick=True,
        )

    async def _keep(self, checked: Checked) -> None:
        if checked.failing is None:
            return
        fewest = len(self.best.failing) if self.best else len(self._request.failing)
        is_better = len(checked.failing) < fewest
        # Of two that pass, the later one: what comes after the first is tidying up.
        is_tidier = self.best is not None and not self.best.failing and not checked.failing
        if is_better or is_tidier:
            self.best = self._improvement(checked.changes, checked.failing)
        if is_better and self.best is not None:
            await self._tell(self.best)

    def _improvement(self, changes: Changes, failing: tuple[str, ...]) -> Improvement:
        paths = sorted(changes)
        shown = ", ".join(paths[:10]) + (f" and {len(paths) - 10} more" if len(paths) > 10 else "")
        return Improvement(
            changes=changes,
            failing=failing,
            explanation=f"{self._name} at a shell changed {shown}",
            candidates=self.tests,
            cpu_s=round(self._workspace.cpu_s, 3),
        )


_UNTESTED = "The tests could not be run on the change."


def _of_these(failing: tuple[str, ...], details: Mapping[str, str]) -> dict[str, str]:
    """Details of tests that failed; a file that cannot be collected explains its tests."""
    wanted = {name for test in failing for name in (test, test.split("::", 1)[0])}
    return {test: text for test, text in details.items() if test in wanted}


def joined(*parts: str) -> str:
    """The parts that are not empty, one below the other."""
    return "\n".join(part for part in parts if part)
