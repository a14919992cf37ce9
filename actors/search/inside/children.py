"""Forked processes that report JSON on a pipe and are killed at a limit. What they report may be garbage."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import struct
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from . import wire
from .slate import Slate

Report = Callable[[Any], None]
_TICK_S = 0.05
#: Seconds that a piece of work may sleep for each CPU second that it may use.
_WALL = 4
_REAP_S = 0.001
_MEMORY_BYTES = 512 << 20
_PR_SET_CHILD_SUBREAPER = 36


class Ended(Exception):
    """The child's report ended before it was complete: it died, or wrote something else."""


class Overran(Exception):
    """The child used more time than it was given for one report."""


def become_subreaper() -> None:
    """Have orphans of this process' children fall to it, so that `reap_strays` finds them."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_strays(keep: int = 0) -> None:
    """Kill and collect whatever children are left, except `keep`."""
    for _ in range(100):
        strays = [pid for pid in _children_of_self() if pid != keep]
        if not strays:
            return
        for stray in strays:
            with contextlib.suppress(OSError):
                os.kill(stray, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(stray, os.WNOHANG)
        # What is killed may still end a write; there is nothing to wait on but time.
        time.sleep(_REAP_S)


def cpu_used() -> float:
    """CPU seconds of this process and of its children that have ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


class Child:
    """A forked process that runs `body(report)` and ends; only its parent's process uses this object."""

    def __init__(self, body: Callable[[Report], None]) -> None:
        self._fd, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.pid = os.fork()
        if self.pid == 0:
            self._run(body, write)
        os.close(write)
        self._buffer = b""
        self._cpu_seen = 0.0
        self._ended = False

    def _run(self, body: Callable[[Report], None], write: int) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            os.close(self._fd)
            _bound_memory()
            # High, so that task code that closes the low descriptors does not take it along.
            high = fcntl.fcntl(write, fcntl.F_DUPFD_CLOEXEC, 200)
            os.close(write)
            body(lambda value: wire.write_all(high, wire.pack(value)))
            code = 0
        finally:
            os._exit(code)

    def next(self, cpu_s: float, wall_s: float) -> Any:
        """The child's next report.

        Args:
            cpu_s: CPU seconds it may use since its report before.
            wall_s: Seconds it may take, sleeping included; what it waits for a processor does not count.

        Raises:
            Ended: It is gone, or reported something that is not a frame.
            Overran: It was still busy at a limit.
        """
        deadline, delayed = time.monotonic() + wall_s, self._delayed_s()
        wait = min(cpu_s, wall_s)
        while (value := self._frame()) is None:
            if select.select([self._fd], [], [], min(wait, _TICK_S))[0]:
                data = os.read(self._fd, 1 << 16)
                if not data:
                    raise Ended
                self._buffer += data
            elif self._is_gone():
                raise Ended
            used = self._cpu() - self._cpu_seen
            wait = max(cpu_s - used, 0.001)
            if used > cpu_s or (
                time.monotonic() > deadline and time.monotonic() > deadline + self._delayed_s() - delayed
            ):
                if (value := self._frame()) is not None:
                    break
                raise Overran
        self._cpu_seen = self._cpu()
        return value[0]

    def follow(self, slate: Slate, limits: Sequence[float], left_s: float) -> str:
        """Wait for the child's end.

        Args:
            slate: What it notes its work on.
            limits: CPU seconds that each piece of its work may take.
            left_s: CPU seconds that it may use in all.

        Returns:
            `ended`, `timeout` where a piece took too long, `spent` where `left_s` was used up.
        """
        wait = _TICK_S
        at, delayed = -1, 0.0
        while not (select.select([self._fd], [], [], wait)[0] or self._is_gone()):
            number, cpu_s, wall_s = slate.started()
            limit = limits[min(max(number, 0), len(limits) - 1)]
            used = self._cpu()
            if used > left_s:
                return "spent"
            if number != at:
                at, delayed = number, self._delayed_s()
            if used - cpu_s > limit:
                return "timeout"
            late_s = time.monotonic() - wall_s - limit * _WALL - 1
            if late_s > 0 and late_s > self._delayed_s() - delayed:
                return "timeout"
            wait = max(min(limit - (used - cpu_s), left_s - used, _TICK_S), 0.001)
        return "ended"

    @property
    def cpu_s(self) -> float:
        """CPU seconds it has used so far."""
        return self._cpu()

    def kill(self) -> None:
        """End the child and its process group, and collect it."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.close(self._fd)
        if not self._ended:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        self._ended = True

    def _frame(self) -> list[Any] | None:
        if len(self._buffer) < 4:
            return None
        (size,) = struct.unpack(">I", self._buffer[:4])
        if size > wire.MAX_FRAME:
            raise Ended
        if len(self._buffer) < 4 + size:
            return None
        data, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
        try:
            return [json.loads(data)]
        except ValueError as error:
            raise Ended from error

    def _is_gone(self) -> bool:
        try:
            pid, _ = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pid = self.pid
        self._ended = pid == self.pid
        # What it wrote before it ended is still in the pipe.
        return self._ended and not select.select([self._fd], [], [], 0)[0]

    def _delayed_s(self) -> float:
        """Seconds that it was ready to run and others ran; see proc(5), `schedstat`."""
        try:
            with open(f"/proc/{self.pid}/schedstat") as file:  # noqa: PTH123
                return int(file.read().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0

    def _cpu(self) -> float:
        # CPUCLOCK_SCHED of a whole process, see clock_getcpuclockid(3).
        try:
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError:
            return self._cpu_seen


def _bound_memory() -> None:
    """A candidate that takes all memory gets a MemoryError; without it the whole sandbox would be killed."""
    now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = now + _MEMORY_BYTES
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _children_of_self() -> list[int]:
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children") as file:  # noqa: PTH123
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []
