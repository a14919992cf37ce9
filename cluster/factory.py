"""The factory as a Ray actor: takes the store, starts the fleet, and hosts the orchestrator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.event_log_projection import RunSummary
from cluster.event_log_usage import By, Spent
from cluster.fleet import ReplicaGroup
from cluster.orchestrator import Orchestrator
from cluster.orchestrator_settings import OrchestratorSettings
from cluster.reporter_spec import ReporterSpec
from cluster.store_settings import StoreSettings
from cluster.wiring import loaded
from orchestrator.events import Event, RunState, Status
from orchestrator.scheduling import SchedulingSettings
from orchestrator.steps import EngineCall, Improvement, Turn
from orchestrator.task import Task
from orchestrator.tree import Tree
from orchestrator.verdict import Level

if TYPE_CHECKING:
    from cluster.event_log import EventLog
    from cluster.outbox import Reporting

ORCHESTRATOR = "orchestrator"

T = TypeVar("T")
_kept: set[asyncio.Task[Any]] = set()


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it goes on to its end when whoever waits for it is cancelled.

    Ray cancels a call together with the call that made it: a client that leaves an HTTP request would
    otherwise stop a submission between the log and the work.
    """
    task = asyncio.create_task(work)
    # The loop itself keeps weak references only.
    _kept.add(task)
    task.add_done_callback(_kept.discard)
    return await asyncio.shield(task)


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorySettings:
    """All that a factory is made from; plain values that cross Ray.

    Attributes:
        home: RAYSMITH_HOME on the orchestrator's node.
        life: Names this factory from its start to its end; in every run that it takes on.
        adopt_all: Carry on every unfinished run of the store at start, not only one's own.
        build: Dotted path of the function that builds agents, `module:function`.
        agents: What `build` is given: plain JSON values.
        logs: Dotted path of the function that sends log lines to `home`, called with it and `name`.
        reporter: What tells people outside, if anything does.
        driver_pid: The process on the orchestrator's machine with which the factory ends, 0 for none.
        detached: The factory outlives the driver that started it.
    """

    home: str
    namespace: str
    life: str
    build: str
    agents: Mapping[str, Any]
    groups: tuple[ReplicaGroup, ...]
    logs: str = "serve.logs:configure"
    store: StoreSettings = field(default_factory=StoreSettings)
    scheduling: SchedulingSettings = field(default_factory=SchedulingSettings)
    orchestrator: OrchestratorSettings = field(default_factory=OrchestratorSettings)
    reporter: ReporterSpec | None = None
    adopt_all: bool = False
    driver_pid: int = 0
    detached: bool = False


def _reporting(spec: ReporterSpec | None) -> Reporting:
    from cluster.outbox import Reporting

    return Reporting(spec)


class FactoryActor:
    """Hosts one `Orchestrator`. It holds the store's lock for as long as its process lives.

    Every method first waits until the fleet is up; after a restart of this actor the runs of
    this factory's life go on before anybody asks.
    """

    def __init__(self, settings: FactorySettings) -> None:
        import ray

        context = ray.get_runtime_context()
        loaded(settings.logs)(Path(settings.home), name="orchestrator")
        self._settings = settings
        self._address = context.gcs_address
        self._restarted = context.was_current_actor_reconstructed
        self._started: asyncio.Task[Orchestrator] | None = None
        self._reporting = _reporting(settings.reporter)
        context.current_actor.ready.remote()

    async def ready(self) -> None:
        """Wait until runs can be taken on.

        Raises:
            StoreOwned: Another living factory has the store.
            StoreError: The store cannot be used.
        """
        await self._orchestrator()

    async def _orchestrator(self) -> Orchestrator:
        if self._started is None or _has_failed(self._started):
            # A store that was away, or held, may be there for who asks later.
            self._started = asyncio.create_task(self._start())
        return await asyncio.shield(self._started)

    async def _start(self) -> Orchestrator:
        from cluster.event_log import open_log
        from cluster.owner import Ownership

        settings = self._settings
        home = Path(settings.home)
        # Kept for as long as this process lives: the lock goes with it.
        self._ownership = await asyncio.to_thread(
            Ownership.acquire,
            home,
            address=self._address,
            namespace=settings.namespace,
            driver_pid=settings.driver_pid,
        )
        with contextlib.ExitStack() as taken:
            taken.callback(self._ownership.release)
            event_log = await asyncio.to_thread(open_log, settings.store, home, epoch=self._ownership.epoch)
            taken.callback(event_log.close)
            orchestrator = await self._host(event_log)
            taken.pop_all()
        return orchestrator

    async def _host(self, event_log: EventLog) -> Orchestrator:
        from cluster.artifacts import ArtifactStore
        from cluster.handles import FleetClient
        from cluster.memory import StoreMemory

        settings = self._settings
        home = Path(settings.home)
        fleet = await FleetClient.start(
            groups=settings.groups,
            scheduling=settings.scheduling,
            namespace=settings.namespace,
            build=settings.build,
            config=settings.agents,
            detached=settings.detached,
        )
        orchestrator = Orchestrator(
            event_log=event_log,
            artifacts=ArtifactStore(settings.store.artifacts_url(home)),
            fleet=fleet,
            settings=settings.orchestrator,
            life=settings.life,
            memory=StoreMemory(event_log),
            agents=settings.agents,
        )
        await self._tell(event_log)
        if settings.adopt_all:
            await orchestrator.resume()
        elif self._restarted:
            await orchestrator.resume_life([settings.life])
        return orchestrator

    async def submit(
        self, task: Task, tree: Tree | None = None, candidate: Tree | None = None, key: str | None = None
    ) -> str:
        """See `Orchestrator.submit`. A caller that goes away does not stop it half way."""
        orchestrator = await self._orchestrator()
        return await finished(orchestrator.submit(task, tree, candidate, key))

    async def submit_once(
        self, task: Task, tree: Tree | None, candidate: Tree | None, key: str, fingerprint: str
    ) -> tuple[str, bool]:
        """See `Orchestrator.submit_once`. A caller that goes away does not stop it half way."""
        orchestrator = await self._orchestrator()
        return await finished(
            orchestrator.submit_once(task, tree, candidate, key=key, fingerprint=fingerprint)
        )

    async def resume(self, run_ids: Collection[str] | None = None) -> list[str]:
        """See `Orchestrator.resume`."""
        return await (await self._orchestrator()).resume(run_ids)

    async def cancel(self, run_id: str, reason: str = "") -> RunState:
        """See `Orchestrator.cancel`. A caller that goes away does not stop it half way."""
        return await finished((await self._orchestrator()).cancel(run_id, reason))

    async def pause(self, run_id: str, by: str, why: str, now: bool) -> RunState:
        """See `Orchestrator.pause`. A caller that goes away does not stop it half way."""
        return await finished((await self._orchestrator()).pause(run_id, by=by, why=why, now=now))

    async def fork(
        self, run_id: str, start: str, declaration: Mapping[str, Any] | None, key: str | None = None
    ) -> str:
        """See `Orchestrator.fork`. A caller that goes away does not stop it half way."""
        orchestrator = await self._orchestrator()
        return await finished(orchestrator.fork(run_id, start, declaration, key))

    async def retry(self, run_id: str, node: str, key: str | None = None) -> str:
        """See `Orchestrator.retry`. A caller that goes away does not stop it half way."""
        return await finished((await self._orchestrator()).retry(run_id, node, key))

    async def decide(self, run_id: str, node: str | None, approved: bool, by: str, why: str) -> RunState:
        """See `Orchestrator.decide`. A caller that goes away does not stop it half way."""
        orchestrator = await self._orchestrator()
        return await finished(orchestrator.decide(run_id, node, approved=approved, by=by, why=why))

    async def state(self, run_id: str) -> RunState:
        """See `Orchestrator.state`."""
        return await (await self._orchestrator()).state(run_id)

    async def events(self, run_id: str, after_seq: int = 0, wait_s: float = 0.0) -> Sequence[Event]:
        """See `Orchestrator.events`."""
        return await (await self._orchestrator()).events(run_id, after_seq, wait_s)

    async def wait(self, run_ids: Collection[str], timeout_s: float) -> dict[str, RunState]:
        """See `Orchestrator.wait`."""
        return await (await self._orchestrator()).wait(run_ids, timeout_s)

    async def runs(
        self,
        status: Collection[Status] | None = None,
        limit: int = 100,
        offset: int = 0,
        tenant: str | None = None,
    ) -> tuple[list[RunSummary], int]:
        """See `Orchestrator.runs`."""
        return await (await self._orchestrator()).runs(status, limit, offset, tenant)

    async def usage(self, by: By, tenant: str | None, since: str) -> list[Spent]:
        """See `Orchestrator.usage`."""
        return await (await self._orchestrator()).usage(by, tenant, since)

    async def diff(self, run_id: str) -> bytes:
        """See `Orchestrator.diff`."""
        return await (await self._orchestrator()).diff(run_id)

    async def stand(self) -> dict[str, Any]:
        """What a door asks before it takes a task in: `life`, `room` for runs, `unsandboxed`."""
        orchestrator = await self._orchestrator()
        sandbox = self._settings.agents.get("sandbox", {})
        return {
            "life": self._settings.life,
            "room": orchestrator.room,
            "unsandboxed": bool(sandbox.get("allow_unsandboxed")) or sandbox.get("minimum") == Level.NONE,
        }

    async def result(self, run_id: str) -> dict[str, Any]:
        """See `Orchestrator.result`."""
        return await (await self._orchestrator()).result(run_id)

    async def export(self, run_id: str, secrets: Mapping[str, str]) -> bytes:
        """See `Orchestrator.export`."""
        return await (await self._orchestrator()).export(run_id, secrets)

    async def take_in(self, events: Sequence[Event]) -> bool:
        """See `Orchestrator.take_in`. A caller that goes away does not stop it half way."""
        return await finished((await self._orchestrator()).take_in(events))

    async def artifact(self, digest: str) -> bytes:
        """See `Orchestrator.artifact`."""
        return await (await self._orchestrator()).artifact(digest)

    async def status(self) -> dict[str, Any]:
        """See `Orchestrator.status`."""
        return await (await self._orchestrator()).status()

    async def _tell(self, event_log: EventLog) -> None:
        """Begin to tell Slack and Prometheus what happens; neither can keep a run waiting."""
        from cluster.metrics import LogMetrics, RaySink

        settings = self._settings
        await self._reporting.start(
            event_log,
            namespace=settings.namespace,
            home=settings.home,
            logs=settings.logs,
            store=settings.store,
        )
        metrics = LogMetrics(event_log, RaySink(), tenants=self._settings.orchestrator.metered_tenants)
        self._measuring = asyncio.create_task(metrics.run())

    async def outbox(self, method: str, term: str, *arguments: Any) -> Any:
        """What the reporter wants recorded; see `cluster.outbox.Reporting`."""
        await self._orchestrator()
        return await finished(self._reporting.ask(method, term, *arguments))

    async def flush(self) -> bool:
        """Whether the reporter told everything, within the time that it has for that."""
        return await self._reporting.flush()

    async def report_call(self, dispatch_id: str, epoch: int, call: EngineCall) -> None:
        """See `Orchestrator.report_call`."""
        await (await self._orchestrator()).report_call(dispatch_id, epoch, call)

    async def report_progress(self, dispatch_id: str, epoch: int, news: Improvement | Turn) -> None:
        """See `Orchestrator.report_progress`."""
        await (await self._orchestrator()).report_progress(dispatch_id, epoch, news)


def _has_failed(started: asyncio.Task[Orchestrator]) -> bool:
    return started.done() and (started.cancelled() or started.exception() is not None)
