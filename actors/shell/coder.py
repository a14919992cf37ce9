"""Role code at a shell: a goal for a repository that is there already and too large for one prompt."""

from __future__ import annotations

from dataclasses import replace

from actors.coder import Coder
from actors.engines.port import Engine, Engines
from actors.formats import ReplySettings
from actors.judge.assemble import protected_paths
from actors.packing import manifest_of
from actors.shell import words
from actors.shell.checks import Checked, joined
from actors.shell.history import History
from actors.shell.settings import ShellSettings
from actors.shell.task import goal_task
from actors.shell.work import ShellWork, Spent
from actors.shell.workspace import Workspace, candidate
from orchestrator.errors import AgentError
from orchestrator.ports import Progress, RunnerPool
from orchestrator.steps import Improvement, WriteRequest, Written


class ShellCoder:
    """Works at a shell where the tree is a whole repository, else writes as `Coder` does."""

    # Whoever hosts it gives `write` a runner pool and a progress beside the request.
    needs_runners = True

    def __init__(
        self,
        engines: Engines,
        settings: ShellSettings | None = None,
        replies: ReplySettings | None = None,
    ) -> None:
        self._engines = engines
        self._settings = settings or ShellSettings()
        self._in_one_prompt = Coder(engines, replies)

    async def write(self, request: WriteRequest, runners: RunnerPool, progress: Progress) -> Written:
        """Changed and new files for the request's goal.

        Raises:
            AgentError: Nothing was changed within the limits, or the goal alone does not fit.
            MachineError: The request's model or the sandbox cannot be used.
        """
        if request.wanted or request.allowed or not 0 < self._settings.code_files <= len(request.tree.files):
            return await self._in_one_prompt.write(request)
        engine = self._engines(request.model)
        workspace = Workspace(runners, request.tree, self._settings, python=None)
        check = Finished(request, workspace, engine)
        task = await goal_task(engine, self._settings, request.tree, request.goal)
        context = await manifest_of(engine, task)
        work = ShellWork(
            engine=engine,
            workspace=workspace,
            history=History(task.message.content),
            check=check,
            settings=self._settings,
            tell=progress,
        )
        try:
            spent = await work.run(self._settings.wall_s)
        finally:
            await workspace.close()
        written = _written(engine, check, spent)
        return replace(written, contexts=(context,), answers=workspace.answered())

    async def cancel_all(self) -> None:
        """Close the engines; the replica ends."""
        await self._engines.close()


class Finished:
    """Takes what the agent submits; whether it is right is for tests that are written after it."""

    def __init__(self, request: WriteRequest, workspace: Workspace, engine: Engine) -> None:
        self.best: Improvement | None = None
        self._base = request.tree
        self._protected = protected_paths(request.tree)
        self._workspace = workspace
        self._name = engine.name

    def is_due(self) -> bool:
        """Nothing is tested before it is submitted."""
        return False

    async def now(self) -> Checked:
        """What of the workspace is a change that may be made."""
        return self._look()

    def _look(self) -> Checked:
        found = candidate(self._base, self._workspace.tree, self._protected)
        changes = {path: file for path, file in found.changes.items() if file is not None}
        removed = dict.fromkeys(found.changes.keys() - changes.keys(), "a file is not removed for a goal")
        found = replace(found, left_out={**found.left_out, **removed})
        digest = self._base.with_files(changes).digest
        if found.refused:
            said = f"The change cannot be accepted as it is: {found.refused}"
            return Checked(digest=digest, changes=changes, words=joined(said, words.left_out(found)))
        if not changes:
            said = joined("No file of the project is changed.", words.left_out(found))
            return Checked(digest=digest, changes=changes, words=said)
        self.best = Improvement(changes=changes, failing=(), explanation=f"{self._name} at a shell")
        said = joined("The change is taken.", words.left_out(found))
        return Checked(digest=digest, changes=changes, failing=(), words=said)

    async def last(self) -> None:
        """What is there at the end counts, submitted or not."""
        self._look()

    def rest(self) -> None:
        """The same: nothing needs to be run for it."""
        self._look()


def _written(engine: Engine, check: Finished, spent: Spent) -> Written:
    if check.best is None:
        raise AgentError(
            f"{engine.name} changed nothing in {spent.turns} turns at a shell ({spent.ended})",
            "say more, try another model, or raise `shell.turns`",
        )
    files = {path: file for path, file in check.best.changes.items() if file is not None}
    return Written(files=files, usage=spent.usage, engine=engine.kind)
