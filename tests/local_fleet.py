"""A fleet without Ray whose agents that write are real: it makes the logs of a whole factory in milliseconds.

A model says what its script holds; a test passes where `a.py` holds `fixed`; shell commands of the form
`write PATH TEXT` change a file of the workspace.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fakes import FAILING, PASSING, run_of, tree
from scripted_engine import Only, ScriptedEngine

from actors.engines.ledger import Ledger, MeteredEngine
from actors.model_repairer import ModelRepairer
from actors.portfolio import MODEL, SEARCH, SHELL, Portfolio
from actors.shell.repairer import ShellRepairer
from actors.shell.settings import ShellSettings
from cluster.artifacts import ArtifactStore
from cluster.event_log import EventLog, open_log
from cluster.handles import Dispatch
from cluster.orchestrator import Orchestrator
from cluster.orchestrator_settings import OrchestratorSettings
from cluster.store_settings import StoreSettings
from orchestrator.errors import SandboxError
from orchestrator.events import Event
from orchestrator.ports import SessionSpec
from orchestrator.steps import Improvement, Profiled, Repaired, RepairRequest, TestRequest, Turn
from orchestrator.task import Budget, Task
from orchestrator.tree import Tree
from orchestrator.verdict import TestProfile, TestRun

BASE = {"test_a.py::one": FAILING, "test_a.py::two": FAILING}
GREEN = dict.fromkeys(BASE, PASSING)
TREE = tree(a="start", test_a="tests")
MODEL_NAME = "http://localhost:1/v1#m"
Search = Callable[[RepairRequest, Callable[[Improvement], Any]], Any]


def outcome_of(candidate: Tree) -> TestRun:
    """Two tests; `half` makes one of them pass."""
    content = candidate.files["a.py"].content
    is_fixed = b"fixed" in content
    return run_of(GREEN if is_fixed else {**BASE, "test_a.py::one": PASSING} if b"half" in content else BASE)


class FakeShell:
    """Implements `orchestrator.ports.SearchSession` for a shell."""

    def __init__(self) -> None:
        self.cpu_s = 0.0

    async def call(self, method: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        self.cpu_s += 0.125
        if method == "start":
            return {}
        words = arguments["command"].split(maxsplit=2)
        if words[0] == "hang":
            await asyncio.Event().wait()
        if words[0] == "die":
            raise SandboxError("the sandbox died", "open another")
        changed = {}
        if words[0] == "write":
            content = base64.b64encode(words[2].encode()).decode()
            changed = {words[1]: {"content": content, "mode": "file"}}
        return {
            **{"exit_code": 0, "end": "exited", "head": "done\n", "tail": "", "left_out": 0},
            **{"changed": changed, "large": [], "overflow": False},
        }

    async def test(self, request: TestRequest) -> TestRun:
        return outcome_of(request.candidate)


class FakeRunners:
    @asynccontextmanager
    async def session(self, spec: SessionSpec) -> AsyncIterator[FakeShell]:
        yield FakeShell()


class FakeSearch:
    def __init__(self, find: Search) -> None:
        self._find = find

    async def repair(self, request: RepairRequest, runners: Any, progress: Any) -> Repaired:
        found: Repaired = await self._find(request, progress)
        return found


class LocalFleet:
    """Has repairs done by a real portfolio."""

    def __init__(
        self,
        *,
        script: list[Any] | None = None,
        agents: tuple[str, ...] = (MODEL,),
        search: Search | None = None,
        room: int | None = None,
        samples: int = 1,
    ) -> None:
        self.engine = ScriptedEngine(script or [], room=room, kind="openai", name=MODEL_NAME)
        self.agents, self.samples = agents, samples
        self.orchestrator: Orchestrator | None = None
        engines: Any = Only(MeteredEngine(self.engine))
        self._portfolio = Portfolio(
            FakeSearch(search) if search is not None and SEARCH in agents else None,
            ModelRepairer(engines, samples=samples) if MODEL in agents else None,
            ShellRepairer(engines, ShellSettings()) if SHELL in agents else None,
        )

    async def execute(
        self, dispatch: Dispatch, *, on_dispatched: Callable[..., Any], on_requeued: Callable[..., Any]
    ) -> Any:
        assert self.orchestrator is not None
        await on_dispatched("replica-01", dispatch.epoch)
        if dispatch.method == "profile":
            return Profiled(profile=TestProfile(expected=BASE), run=run_of(BASE))
        request: Any = dispatch.payload
        if dispatch.method == "test":
            return outcome_of(request.candidate)
        orchestrator, dispatch_id, epoch = self.orchestrator, dispatch.dispatch_id, dispatch.epoch

        async def tell(news: Improvement | Turn) -> None:
            await orchestrator.report_progress(dispatch_id, epoch, news)

        async def report(call: Any) -> None:
            await orchestrator.report_call(dispatch_id, epoch, call)

        async with Ledger(allowance=dispatch.allowance, report=report).kept():
            return await self._portfolio.repair(request, FakeRunners(), tell)

    async def forget(self, run_id: str) -> None: ...


class Factory:
    """A home with an orchestrator on a local fleet."""

    def __init__(self, home: Path) -> None:
        self.store = ArtifactStore(str(home / "artifacts"))
        home.mkdir(exist_ok=True)
        self._home = home
        self._log: EventLog | None = None

    def start(self, fleet: LocalFleet, *, life: str = "life-1") -> Orchestrator:
        """Begin a life."""
        self._log = open_log(StoreSettings(), self._home)
        fleet.orchestrator = Orchestrator(
            event_log=self._log,
            artifacts=self.store,
            fleet=fleet,
            settings=OrchestratorSettings(),
            life=life,
            agents={"repair": {"agents": list(fleet.agents), "samples": fleet.samples}},
        )
        return fleet.orchestrator

    async def lose(self) -> None:
        """As kill -9 does."""
        tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("r-")]
        self.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def events(self, run_id: str) -> list[Event]:
        assert self._log is not None
        return self._log.events(run_id)

    async def run(self, fleet: LocalFleet, **task: Any) -> list[Event]:
        """The events of one repair, from its submission to its end."""
        orchestrator = self.start(fleet)
        run_id = await orchestrator.submit(task_of(**task), TREE)
        await orchestrator.wait([run_id], 20)
        return self.events(run_id)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


def task_of(**values: Any) -> Task:
    return Task(**{"id": "t", "model": MODEL_NAME, "budget": Budget(attempts=2), **values})


def writes(content: str) -> str:
    """A reply that rewrites a.py."""
    return f"a.py\n```python\n{content}\n```\n"


def types(events: list[Event]) -> list[str]:
    return [str(event.type) for event in events]
