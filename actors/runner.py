"""The run agent: profiles a base, tests candidates, lends warm sandboxes. A plain class; no Ray in sight."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from actors.boundaries.observe import observe
from actors.boundaries.propose import proposals
from actors.dependencies.installer import NotAllowed, Refused
from actors.dependencies.packages import Packages
from actors.dependencies.settings import DependencySettings
from actors.formatting import formatted
from actors.judge.assemble import Assembled, assemble
from actors.judge.candidate import run_candidate
from actors.judge.profile import profile_base
from actors.judge.strength import measure
from actors.judge.suite import process_environment, reporter_files
from actors.languages import javascript
from actors.layers import layered
from actors.quality import measured
from actors.sandbox.bubblewrap import Bubblewrap
from actors.sandbox.layer import Layer, build_layer, importable_names
from actors.sandbox.port import Channel, Job, Sandbox
from actors.sandbox.probe import ProbeReport, choose
from actors.sandbox.settings import SandboxSettings
from actors.scan.scan import scan
from actors.service.probe import served
from actors.warm.sandbox import WarmSandbox
from orchestrator.building import (
    FormatRequest,
    Formatted,
    Layered,
    LayersRequest,
    Measured,
    QualityRequest,
    Served,
    ServiceRequest,
)
from orchestrator.errors import SandboxError
from orchestrator.ports import SessionSpec
from orchestrator.steps import (
    Observed,
    ObserveRequest,
    Profiled,
    ProfileRequest,
    Proposed,
    ProposeRequest,
    Scanned,
    ScanRequest,
    StrengthRequest,
    TestRequest,
)
from orchestrator.tree import Tree
from orchestrator.verdict import Level, Strength, TestRun

_MOST_BYTES = 64 << 20
T = TypeVar("T")


@dataclass(slots=True)
class _Session:
    """A warm sandbox; `lock` lets one call at a time onto its stream."""

    channel: Channel
    calls: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Runner:
    """Runs tests in sandboxes. Every process it starts is gone when its call returns or is cancelled."""

    def __init__(
        self, settings: SandboxSettings | None = None, dependencies: DependencySettings | None = None
    ) -> None:
        self.settings = settings or SandboxSettings()
        self._packages = Packages(dependencies or DependencySettings())
        self._advisories = (dependencies or DependencySettings()).advisories
        self._sandbox: Sandbox | None = None
        self._sessions: dict[str, _Session] = {}
        self._running: set[asyncio.Task[Any]] = set()
        self._threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="session")

    async def probe(self) -> ProbeReport:
        """What this machine can confine, tried once per process.

        Raises:
            SandboxError: Less than `sandbox.minimum`.
        """
        sandbox, report = await asyncio.to_thread(choose, self.settings)
        if self._sandbox is None:
            self._sandbox = self._warmed(sandbox)
        return report

    async def profile(self, request: ProfileRequest) -> Profiled:
        """Test the protected base and freeze how it is tested.

        Raises:
            TaskError: There are no tests, or a protected file is broken.
            MachineError: A package or the sandbox is missing here.
        """
        layer = await self._layer(request.tree, request.python)
        sandbox = await self._ready(request.minimum)
        if request.language == "javascript":
            return await self._tracked(javascript.profile(sandbox, layer, request))

        def profiled(shown: Layer) -> Coroutine[Any, Any, Profiled]:
            return profile_base(sandbox, shown, request)

        return await self._tracked(self._packages.profile(sandbox, layer, request, profiled))

    async def test(self, request: TestRequest) -> TestRun:
        """Test one candidate in a fresh sandbox under a frozen profile; `quick` ones in a warm one.

        Raises:
            SandboxError: The sandbox could not be started or broke.
        """
        sandbox = await self._ready(request.minimum)
        layer = await self._profiled_layer(sandbox, request.base, request)
        if request.profile.language == "javascript":
            return await self._tracked(javascript.test(sandbox, layer, request))
        assembled = await asyncio.to_thread(
            assemble, request.base, request.candidate, request.profile, modules=layer.modules
        )
        return await self._tracked(run_candidate(sandbox, layer, request, assembled))

    async def strength(self, request: StrengthRequest) -> Strength:
        """How much the tests of an accepted tree notice.

        Raises:
            SandboxError: A sandbox could not be started or broke.
        """
        sandbox = await self._ready(request.minimum)
        layer = await self._profiled_layer(sandbox, request.tree, request)
        return await self._tracked(measure(sandbox, layer, request))

    async def propose(self, request: ProposeRequest) -> Proposed:
        """Calls that are worth a test."""
        return Proposed(
            calls=await asyncio.to_thread(proposals, request.tree, request.tests, first=request.first)
        )

    async def observe(self, request: ObserveRequest) -> Observed:
        """Tests of what calls answer on an accepted tree.

        Raises:
            SandboxError: A sandbox could not be started or broke.
        """
        sandbox = await self._ready(request.minimum)
        layer = await self._profiled_layer(sandbox, request.tree, request)
        return await self._tracked(observe(sandbox, layer, request))

    async def scan(self, request: ScanRequest) -> Scanned:
        """What a candidate should not bring.

        Raises:
            MachineError: ruff is not installed, or the advisories cannot be read.
        """
        return await asyncio.to_thread(scan, request, self._advisories)

    async def form(self, request: FormatRequest) -> Formatted:
        """The Python of a tree in one form.

        Raises:
            MachineError: ruff is not installed.
        """
        return await asyncio.to_thread(formatted, request)

    async def quality(self, request: QualityRequest) -> Measured:
        """How good the code of a tree is.

        Raises:
            MachineError: ruff or radon is not installed.
        """
        return await asyncio.to_thread(measured, request)

    async def layers(self, request: LayersRequest) -> Layered:
        """Which imports of a tree break the order of its layers."""
        return await asyncio.to_thread(layered, request)

    async def serve(self, request: ServiceRequest) -> Served:
        """How the service of a tree answers, with packages that it turns out to lack.

        Raises:
            MachineError: A package or the sandbox is missing here.
        """
        sandbox = await self._ready(request.minimum)
        layer = await self._layer(request.tree, request.python)

        def started(shown: Layer) -> Coroutine[Any, Any, Served]:
            return served(sandbox, shown, request)

        healed = self._packages.healed(sandbox, layer, request.tree, started, lock=request.packages)
        try:
            found, lock = await self._tracked(healed)
        except NotAllowed as error:
            names = ", ".join(line.split()[0] for line in error.packages)
            raise Refused(
                f"{error.why} needs {names}, which dependencies.allow does not name",
                "declare it in requirements.txt, so that a person is asked, or add it there",
            ) from error
        return replace(found, packages=lock)

    async def findings(self, request: TestRequest) -> Assembled:
        """What of a candidate would be tested, what was dropped, and why a person should look."""
        layer = await self._profiled_layer(await self._ready(request.minimum), request.base, request)
        return await asyncio.to_thread(
            assemble, request.base, request.candidate, request.profile, modules=layer.modules
        )

    # ---- warm sandboxes

    async def open_session(self, spec: SessionSpec) -> str:
        """Start a worker on a tree; the session's id. Its first call is `start`.

        Raises:
            SandboxError: It did not start, or this machine has no sandbox that may hold a shell.
        """
        sandbox = await self._ready()
        layer = await self._packages.shown(sandbox, await self._layer(spec.tree, spec.python), spec.packages)
        if spec.worker == "shell" and sandbox.level is Level.NONE:
            raise SandboxError(
                "a model's commands run in a sandbox only, and this machine has none",
                "install bubblewrap, or leave `shell` out of `repair.agents`",
            )
        channel = await sandbox.open(self._worker_job(layer, spec))
        session = secrets.token_hex(8)
        self._sessions[session] = _Session(channel=channel)
        return session

    async def call_session(
        self, session: str, method: str, arguments: dict[str, Any], timeout_s: float
    ) -> tuple[Any, float]:
        """Ask the worker; its result, and the CPU seconds its sandbox has used so far.

        Raises:
            SandboxError: The worker answered with an error; or it is gone and the session closed.
            SandboxTimeout: No answer in time; the session is closed.
        """
        held = self._sessions.get(session)
        if held is None:
            raise SandboxError(f"no session {session!r} is open here", "open another")
        async with held.lock:
            held.calls += 1
            ask = asyncio.get_running_loop().run_in_executor(
                self._threads, _ask, held.channel, held.calls, method, arguments, timeout_s
            )
            try:
                return await asyncio.shield(ask)
            except _Refused:
                raise
            except (asyncio.CancelledError, SandboxError):
                await self.close_session(session)
                await asyncio.wait([ask])
                raise

    async def close_session(self, session: str) -> None:
        """End a warm sandbox; closing one that is gone does nothing."""
        held = self._sessions.pop(session, None)
        if held is not None:
            closing = asyncio.get_running_loop().run_in_executor(self._threads, _close, held.channel)
            await asyncio.shield(closing)

    async def cancel_all(self) -> None:
        """End everything that runs here; running calls raise CancelledError, sessions are closed."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*(self.close_session(session) for session in list(self._sessions)))
        if self._running:
            await asyncio.wait(list(self._running))
        if isinstance(self._sandbox, WarmSandbox):
            await asyncio.to_thread(self._sandbox.close_idle)

    def _warmed(self, sandbox: Sandbox) -> Sandbox:
        """The sandbox with warm processes in front of it, where the machine can confine them."""
        if not isinstance(sandbox, Bubblewrap):
            return sandbox
        return WarmSandbox(sandbox, lambda: {**reporter_files(), **worker_files()}, most=self.settings.warm)

    def warm_cpu_s(self) -> float:
        """CPU seconds that the warm processes held here have used so far."""
        return self._sandbox.cpu_s() if isinstance(self._sandbox, WarmSandbox) else 0.0

    def _worker_job(self, layer: Layer, spec: SessionSpec) -> Job:
        name = "inside.py" if spec.worker == "shell" else "worker.py"
        return Job(
            layer=layer,
            argv=("-I", "-B", f"{{trusted}}/{name}"),
            tree=spec.tree,
            trusted=shell_files() if spec.worker == "shell" else worker_files(),
            environment=process_environment(spec.tree, layer),
            preload=spec.preload,
        )

    # ---- shared

    async def _ready(self, minimum: Level = Level.NONE) -> Sandbox:
        if self._sandbox is None:
            await self.probe()
        assert self._sandbox is not None  # probe() sets it or raises
        if not self._sandbox.level.at_least(minimum):
            raise SandboxError(
                f"this step needs a sandbox of level {minimum}, and this machine has {self._sandbox.level}",
                "run it where there is one, or lower the node's `policy.sandbox_minimum`",
            )
        return self._sandbox

    async def _layer(self, tree: Tree, python: str | None) -> Layer:
        return await asyncio.to_thread(build_layer, python, without=importable_names(tree))

    async def _profiled_layer(
        self, sandbox: Sandbox, base: Tree, request: TestRequest | StrengthRequest | ObserveRequest
    ) -> Layer:
        layer = await self._layer(base, request.python)
        return await self._packages.shown(sandbox, layer, request.profile.packages)

    async def _tracked(self, work: Coroutine[Any, Any, T]) -> T:
        """Await as a task that `cancel_all` knows."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await task


class _Refused(SandboxError):
    """The worker answered with an error and is ready for the next call."""


def worker_files() -> dict[str, str]:
    """The search worker's files by name, as they are laid into the trusted folder."""
    from actors.search.shipped import shipped

    return {name: path.read_text() for name, path in shipped().items()}


def shell_files() -> dict[str, str]:
    """The shell worker's file by name."""
    from actors.shell import inside

    return {"inside.py": Path(inside.__file__).read_text()}


def _ask(
    channel: Channel, number: int, method: str, arguments: dict[str, Any], timeout_s: float
) -> tuple[Any, float]:
    """One request and its reply: 4 bytes big-endian length, then JSON, both ways."""
    text = json.dumps({"id": number, "method": method, "arguments": arguments}).encode()
    deadline = time.monotonic() + timeout_s
    channel.send(len(text).to_bytes(4, "big") + text)
    size = int.from_bytes(channel.receive(4, timeout_s), "big")
    if size > _MOST_BYTES:
        raise SandboxError(f"the worker announced a reply of {size} bytes", "open another session")
    data = channel.receive(size, max(0.001, deadline - time.monotonic()))
    try:
        reply = json.loads(data)
        if reply["id"] != number:
            raise SandboxError(f"reply {reply['id']} to request {number}", "open another session")
        if "error" in reply:
            raise _Refused(f"the worker refused {method}: {reply['error']}")
        return reply["result"], channel.cpu_s()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SandboxError(f"the worker's reply makes no sense: {error!r}", "open another session") from error


def _close(channel: Channel) -> None:
    try:
        channel.close()
    except SandboxError:
        return  # it was gone already; whoever called it was told why
