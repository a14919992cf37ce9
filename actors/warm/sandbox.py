"""Forks a run where that cannot show, and gives it a fresh sandbox everywhere else."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from actors.sandbox.bubblewrap import Bubblewrap, with_channel
from actors.sandbox.layer import Layer
from actors.sandbox.port import Channel, Completed, Job
from actors.warm.gate import steers_imports, why_fresh, why_shadowed
from actors.warm.process import Odd, WarmProcess
from actors.warm.session import WarmSession
from orchestrator.errors import SandboxError
from orchestrator.verdict import RunEnd

_MOST_STARTS = 3
_MOST_FAILURES = 3
_KILLED = 137
Key = tuple[str, tuple[str, ...]]
T = TypeVar("T")


@dataclass(slots=True)
class _Held:
    """Warm processes of one sandbox: idle ones by key, the longest idle first; how many there are in all."""

    idle: list[tuple[Key, WarmProcess]] = field(default_factory=list)
    busy: dict[WarmProcess, Key] = field(default_factory=dict)
    starting: int = 0
    closed: bool = False


class WarmSandbox:
    """Implements `Sandbox` over a `Bubblewrap`. `why` tells, for the last job, why it was not forked."""

    def __init__(self, fresh: Bubblewrap, trusted: Callable[[], dict[str, str]], *, most: int) -> None:
        self.level = fresh.level
        self.why = ""
        self._fresh = fresh
        self._trusted = trusted
        self._most = most
        self._held = _Held()
        self._lock = threading.Lock()
        # What may be loaded for a key, where not everything may; after failures nothing is warm any more.
        self._loadable: dict[Key, tuple[str, ...]] = {}
        self._failures: list[str] = []
        self._last_layer: tuple[Layer | None, str] = (None, "")
        self._threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="warm")
        weakref.finalize(self, _close_all, self._held)

    async def run(self, job: Job) -> Completed:
        """See `Sandbox.run`."""
        process = await self._process_for(job)
        if process is None:
            return await self._fresh.run(job)
        running = asyncio.get_running_loop().run_in_executor(self._threads, process.run, job)
        try:
            done = await asyncio.shield(running)
        except SandboxError as error:
            self._give_back(process, good=False)
            self._failed(str(error))
            return await self._fresh.run(job)
        except asyncio.CancelledError:
            self._give_back(process, good=False)
            await asyncio.wait([running])
            raise
        self._give_back(process, good=True)
        if done.end is RunEnd.EXITED and done.exit_code == _KILLED:
            self.why = "the run was killed, which may have been for memory"
            return await self._fresh.run(job)
        return done

    async def open(self, job: Job) -> Channel:
        """See `Sandbox.open`."""
        process = await self._process_for(job)
        if process is None:
            return await self._fresh.open(job)
        try:
            return await self._in_thread(
                lambda: WarmSession(process, with_channel(job), self._give_back_session), WarmSession.close
            )
        except SandboxError as error:
            self._give_back(process, good=False)
            self._failed(str(error))
            return await self._fresh.open(job)

    def kill_all(self) -> None:
        """See `Sandbox.kill_all`."""
        self.close_idle()
        with self._lock:
            busy = list(self._held.busy)
        for process in busy:
            process.close()
        self._fresh.kill_all()

    def close_idle(self) -> None:
        """End the warm processes that nobody uses; the next job starts another."""
        with self._lock:
            idle, self._held.idle = self._held.idle, []
        for _, process in idle:
            process.close()

    def cpu_s(self) -> float:
        """CPU seconds of the warm processes that there are, their starts and all their runs."""
        with self._lock:
            return sum(
                process.cpu_s() for process in [*self._held.busy, *(one for _, one in self._held.idle)]
            )

    # ---- which process

    async def _process_for(self, job: Job) -> WarmProcess | None:
        self.why = self._why_not(job)
        if self.why:
            return None
        return await self._in_thread(lambda: self._borrow(job), self._undo)

    def _why_not(self, job: Job) -> str:
        if job.preload is None:
            return "a fresh process was asked for"
        if self._most == 0 or len(self._failures) >= _MOST_FAILURES:
            return "there are no warm processes here"
        return why_fresh(job.tree)

    def _borrow(self, job: Job) -> WarmProcess | None:
        """An idle process or a new one that fits `job`; None where it needs a fresh one."""
        preload = () if steers_imports(job.tree) else job.preload or ()
        key = (self._digest(job.layer), preload)
        process = self._idle(key)
        if process is None:
            if not self._may_start():
                self.why = "every warm process is busy"
                return None
            process = self._started(job.layer, key)
        if process is None:
            return None
        if shadowed := why_shadowed(job.tree, process.loaded):
            self.why = shadowed
            self._give_back(process, good=True)
            return None
        return process

    def _digest(self, layer: Layer) -> str:
        """Of what the layer shows; most jobs bring the same layer as the one before."""
        known, digest = self._last_layer
        if known is not layer:
            told = (layer.python, layer.mounts, layer.links, sorted(layer.files.items()))
            digest = hashlib.sha256(repr(told).encode()).hexdigest()
            self._last_layer = layer, digest
        return digest

    def _idle(self, key: Key) -> WarmProcess | None:
        with self._lock:
            for entry in reversed(self._held.idle):
                if entry[0] == key:
                    self._held.idle.remove(entry)
                    self._held.busy[entry[1]] = key
                    return entry[1]
        return None

    def _may_start(self) -> bool:
        """Make room for one more; the longest idle one gives way."""
        with self._lock:
            held = self._held
            if len(held.busy) + held.starting >= self._most:
                return False
            held.starting += 1
            spare = len(held.busy) + held.starting + len(held.idle) - self._most
            gone = [held.idle.pop(0)[1] for _ in range(max(0, spare))]
        for process in gone:
            process.close()
        return True

    def _started(self, layer: Layer, key: Key) -> WarmProcess | None:
        try:
            process = self._start(layer, key)
        except (SandboxError, Odd) as error:
            self._failed(str(error))
            self.why = f"no warm process could be started: {error}"
            process = None
        with self._lock:
            self._held.starting -= 1
            if process is not None:
                self._held.busy[process] = key
        return process

    def _start(self, layer: Layer, key: Key) -> WarmProcess:
        """With everything loaded that may be: what is odd is left out with its whole package."""
        preload = self._loadable.get(key, key[1])
        for _ in range(_MOST_STARTS):
            try:
                process = WarmProcess(self._fresh, layer, preload, self._trusted())
            except Odd as odd:
                tops = {name.partition(".")[0] for name in odd.names}
                preload = (
                    tuple(name for name in preload if name.partition(".")[0] not in tops) if tops else ()
                )
                continue
            self._loadable[key] = preload
            return process
        self._loadable[key] = ()
        return WarmProcess(self._fresh, layer, (), self._trusted())

    def _give_back(self, process: WarmProcess, *, good: bool) -> None:
        with self._lock:
            key = self._held.busy.pop(process, None)
            if good and key is not None and not self._held.closed and not process.is_used_up():
                self._held.idle.append((key, process))
                self._failures.clear()
                return
        process.close()

    def _give_back_session(self, process: WarmProcess, good: bool) -> None:
        self._give_back(process, good=good)

    def _failed(self, why: str) -> None:
        self._failures.append(why)

    def _undo(self, process: WarmProcess | None) -> None:
        if process is not None:
            self._give_back(process, good=True)

    async def _in_thread(self, work: Callable[[], T], undo: Callable[[T], object]) -> T:
        """Work that blocks; when this is cancelled meanwhile, what it made is undone."""
        working = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            undo(await working)
            raise


def _close_all(held: _Held) -> None:
    held.closed = True
    for process in [*(process for _, process in held.idle), *held.busy]:
        process.close()
