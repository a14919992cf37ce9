"""Effects outside as facts in the event log: an intent before, an outcome after, and how far all was told.

The orchestrator writes them; a reporter, in a process of its own, reads the log and asks for them here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import structlog

from cluster.answered import Unreachable, answered
from cluster.artifacts import ArtifactStore
from cluster.event_log import EventLog, open_reader
from cluster.event_log_memory import MemoryEventLog
from cluster.event_log_reads import LogReads
from cluster.reporter_spec import ReporterSpec
from cluster.store_settings import StoreSettings
from cluster.wiring import loaded
from orchestrator.errors import RaysmithError, StaleEpoch, StoreError
from orchestrator.events import Kind, NewEvent

log = structlog.get_logger()

REPORTER = "reporter"
RETRY_S = 1.0
# Reporters of an orchestrator that was killed go with it, within a moment.
NAME_PATIENCE_S = 30.0


class Effects(Protocol):
    """Where a reporter has its facts recorded. Every call waits out a restart of the orchestrator."""

    async def cursor(self) -> int:
        """The position in the log up to which everything has been told; at first the log's end."""
        ...

    async def advance(self, position: int) -> None:
        """Everything up to `position` has been told."""
        ...

    async def intend(self, run_id: str, key: str, data: Mapping[str, Any]) -> None:
        """The effect `key` is about to happen; the fact is in the log before this returns."""
        ...

    async def settle(self, run_id: str, key: str, outcome: str, data: Mapping[str, Any]) -> None:
        """The effect `key` happened, or never will."""
        ...


class Reporter(Protocol):
    """What tells the outside. It keeps nothing that matters: a new one goes on from the log."""

    async def run(self) -> None:
        """Tell what happens, for ever.

        Raises:
            StaleEpoch: Another reporter took over.
        """
        ...

    async def flush(self, timeout_s: float) -> bool:
        """Whether everything was told within `timeout_s`; False at once while the outside is away."""
        ...


class Build(Protocol):
    """Makes a reporter from its configuration, in its own process."""

    def __call__(
        self, config: Mapping[str, Any], *, log: LogReads, load: Callable[[str], bytes], effects: Effects
    ) -> Reporter: ...


class Outbox:
    """The orchestrator's side: appends effects to their runs' chains, each fact once.

    Args:
        event_log: Of this orchestrator.
        effect: Whose effects these are, such as `slack`.
        term: Names the one reporter whose facts are taken.
    """

    def __init__(
        self,
        event_log: EventLog | MemoryEventLog,
        *,
        effect: str,
        term: str,
    ) -> None:
        self._log = event_log
        self._effect = effect
        self._term = term
        self._order = asyncio.Lock()

    async def cursor(self, term: str) -> int:
        """See `Effects.cursor`."""
        self._refuse_others(term)
        async with self._order:
            text = await asyncio.to_thread(self._log.meta, self._name)
            if text is not None:
                return int(text)
            end = await asyncio.to_thread(self._log.end)
            await self._log.set_meta(self._name, str(end))
            return end

    async def advance(self, term: str, position: int) -> None:
        """See `Effects.advance`."""
        self._refuse_others(term)
        async with self._order:
            await self._log.set_meta(self._name, str(position))

    async def record(
        self, term: str, run_id: str, key: str, outcome: str | None, data: Mapping[str, Any]
    ) -> None:
        """Append an intent, or with `outcome` its end; a repeated call appends nothing."""
        self._refuse_others(term)
        async with self._order:
            state = await asyncio.to_thread(self._log.state, run_id)
            told = {**data, "effect": self._effect, "key": key}
            if outcome is not None:
                told["outcome"] = outcome
            known = state.effects.get(key)
            if known is not None and known.data == told:
                return
            kind = Kind.EFFECT_INTENDED if outcome is None else Kind.EFFECT_DONE
            await self._log.append([NewEvent(run_id=run_id, type=kind, data=told, tenant=state.tenant)])

    @property
    def _name(self) -> str:
        return f"outbox.{self._effect}"

    def _refuse_others(self, term: str) -> None:
        if term != self._term:
            raise StaleEpoch("another reporter has taken over", "let this process end")


class RemoteEffects:
    """Implements `Effects` through the factory's actor."""

    def __init__(self, factory: Any, term: str) -> None:
        self._factory = factory
        self._term = term

    async def cursor(self) -> int:
        position: int = await self._ask("cursor")
        return position

    async def advance(self, position: int) -> None:
        await self._ask("advance", position)

    async def intend(self, run_id: str, key: str, data: Mapping[str, Any]) -> None:
        await self._ask("record", run_id, key, None, dict(data))

    async def settle(self, run_id: str, key: str, outcome: str, data: Mapping[str, Any]) -> None:
        await self._ask("record", run_id, key, outcome, dict(data))

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """Ask until the orchestrator has answered; a repeated question appends nothing."""
        while True:
            try:
                return await answered(self._factory.outbox.remote(method, self._term, *arguments))
            except (Unreachable, StoreError) as error:
                log.info("reporter_waits_for_orchestrator", error=str(error))
            await asyncio.sleep(RETRY_S)


class ReporterActor:
    """Hosts one `Reporter`. Ray starts it again after a crash; it dies with its orchestrator's process."""

    def __init__(
        self, spec: ReporterSpec, *, factory: Any, term: str, home: str, logs: str, store: StoreSettings
    ) -> None:
        import ray

        loaded(logs)(Path(home), name=REPORTER)
        build: Build = loaded(spec.build)
        self._reporter = build(
            spec.config,
            log=open_reader(store, Path(home)),
            load=ArtifactStore(store.artifacts_url(Path(home))).get,
            effects=RemoteEffects(factory, term),
        )
        self._running: asyncio.Task[None] | None = None
        ray.get_runtime_context().current_actor.start.remote()

    async def start(self) -> None:
        """Begin to tell; a second call does nothing."""
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    async def flush(self, timeout_s: float) -> bool:
        """See `Reporter.flush`."""
        await self.start()
        return await self._reporter.flush(timeout_s)

    async def pid(self) -> int:
        """Of its process."""
        return os.getpid()

    async def _run(self) -> None:
        try:
            await self._reporter.run()
        except StaleEpoch as error:
            log.info("reporter_ends", reason=str(error))
        except Exception:
            # Ray starts it anew, and what it tells is in the log.
            log.exception("reporter_broke")
            await asyncio.sleep(RETRY_S)
            os._exit(1)


class Reporting:
    """What a factory has of its reporter, if it has one; nothing here keeps a run waiting."""

    def __init__(self, spec: ReporterSpec | None) -> None:
        self._spec = spec
        self._term = uuid.uuid4().hex
        self._outbox: Outbox | None = None
        self._starting: asyncio.Task[Any] | None = None

    async def start(
        self, event_log: EventLog, *, namespace: str, home: str, logs: str, store: StoreSettings
    ) -> None:
        """Fix from where on is told, before there is more to tell; the reporter itself comes up meanwhile."""
        if self._spec is None:
            return
        self._outbox = Outbox(event_log, effect=self._spec.effect, term=self._term)
        await self._outbox.cursor(self._term)
        options: dict[str, Any] = {"namespace": namespace, "home": home, "logs": logs, "store": store}
        self._starting = asyncio.create_task(_start_actor(self._spec, term=self._term, **options))

    async def ask(self, method: str, term: str, *arguments: Any) -> Any:
        """What a reporter wants of the outbox.

        Raises:
            StaleEpoch: It is not this factory's.
        """
        if self._outbox is None or method not in ("cursor", "advance", "record"):
            raise StaleEpoch("this factory has no such reporter", "let this process end")
        return await getattr(self._outbox, method)(term, *arguments)

    async def flush(self) -> bool:
        """Whether everything was told within `ReporterSpec.flush_s`."""
        if self._spec is None or self._starting is None:
            return True
        timeout_s = self._spec.flush_s
        try:
            async with asyncio.timeout(timeout_s + 1.0):
                reporter = await asyncio.shield(self._starting)
                return reporter is None or bool(await answered(reporter.flush.remote(timeout_s)))
        except (RaysmithError, TimeoutError):
            return False


async def _start_actor(spec: ReporterSpec, *, namespace: str, **rest: Any) -> Any:
    """A handle to the namespace's reporter, new from this orchestrator; None when it cannot be had.

    It belongs to this process and ends with it: the next orchestrator makes its own, and one that
    were to live on a moment longer is refused by its `term`.
    """
    import ray

    remote: Any = ray.remote(ReporterActor)
    actor = remote.options(
        name=REPORTER,
        namespace=namespace,
        num_cpus=0,
        max_restarts=-1,
        max_concurrency=100,
        resources={"node:__internal_head__": 0.001},
    )
    factory = ray.get_runtime_context().current_actor
    deadline = time.monotonic() + NAME_PATIENCE_S
    while True:
        try:
            return actor.remote(spec, factory=factory, **rest)
        except ValueError as error:
            # Ray still knows the one before under this name.
            if time.monotonic() > deadline:
                log.error("reporter_not_started", error=str(error))
                return None
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(REPORTER, namespace=namespace), no_restart=True)
        await asyncio.sleep(0.2)
