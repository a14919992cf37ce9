"""Role repair by a model at a shell: for whole repositories, which no prompt can hold."""

from __future__ import annotations

from dataclasses import replace

from actors.engines.port import Engines
from actors.packing import manifest_of
from actors.shell.checks import Check
from actors.shell.history import History
from actors.shell.settings import ShellSettings
from actors.shell.task import repair_task
from actors.shell.work import ShellWork, Spent
from actors.shell.workspace import Workspace
from orchestrator.errors import EngineMissing
from orchestrator.ports import Progress, RunnerPool
from orchestrator.steps import Repaired, RepairRequest

# In reports `repairer` is one of four words; the explanation says that it was at a shell.
REPAIRER = "model"


class ShellRepairer:
    """Works on a copy of the request's tree until its tests pass. It holds no state between requests."""

    def __init__(self, engines: Engines, settings: ShellSettings | None = None) -> None:
        self._engines = engines
        self._settings = settings or ShellSettings()

    async def repair(self, request: RepairRequest, runners: RunnerPool, progress: Progress) -> Repaired:
        """Have the request's model work at a shell.

        Args:
            request: The tree to start from, the frozen profile, the failing tests and the budget.
            runners: Where the sandbox comes from; one runner is held to the end.
            progress: Awaited with every turn, and with every improvement as soon as it is tested.

        Returns:
            The tested state with the fewest failing tests, none where no state had fewer than the request's.

        Raises:
            PromptTooLong: The task alone does not fit into the model's context.
            MachineError: The model or the sandbox cannot be used.
        """
        if not request.model:
            raise EngineMissing("a shell agent needs a model, and none is configured", "give --model")
        engine = self._engines(request.model)
        workspace = Workspace(
            runners,
            request.tree,
            self._settings,
            python=request.python,
            packages=request.profile.packages,
        )
        check = Check(
            request,
            workspace,
            progress,
            name=engine.name,
            settings=self._settings,
        )
        task = await repair_task(engine, self._settings, request)
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
            spent = await work.run(request.wall_s)
        finally:
            await workspace.close()
        return replace(_repaired(spent, check), contexts=(context,), answers=workspace.answered())

    async def cancel_all(self) -> None:
        """Close the engines; the replica ends."""
        await self._engines.close()


def _repaired(spent: Spent, check: Check) -> Repaired:
    return Repaired(
        best=check.best,
        repairer=REPAIRER,
        candidates=check.tests,
        # What is counted against the budget of the search; commands have limits of their own.
        cpu_s=0.0,
        exhausted=spent.ended not in ("wall time", "tokens"),
        usage=spent.usage,
    )
