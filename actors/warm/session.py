"""A byte stream to a fork of a warm process: what the search keeps open while it tries candidates."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from actors.sandbox.port import Completed, Job
from actors.sandbox.stream import receive
from actors.warm.process import WarmProcess, completed
from orchestrator.errors import SandboxError


class WarmSession:
    """Implements `actors.sandbox.port.Channel`; the warm process is busy until it is closed."""

    def __init__(self, process: WarmProcess, job: Job, release: Callable[[WarmProcess, bool], None]) -> None:
        """Fork; `release` is told of the process and whether it is still good, once.

        Raises:
            SandboxError: The process is gone.
        """
        self._process = process
        self._release = release
        self._lock = threading.Lock()
        self._over: Completed | None = None
        self._cpu_before_s = process.cpu_s()
        self._pipes = process.pipes(job)
        self._stream, theirs = socket.socketpair()
        try:
            process.begin(job, self._pipes, theirs.fileno())
        except BaseException:
            self._stream.close()
            self._pipes.close()
            raise
        finally:
            theirs.close()

    def send(self, data: bytes) -> None:
        """See `Channel.send`."""
        try:
            self._stream.sendall(data)
        except OSError as error:
            raise self._gone() from error

    def receive(self, count: int, timeout_s: float) -> bytes:
        """See `Channel.receive`."""
        try:
            return receive(self._stream, count, timeout_s)
        except OSError as error:
            raise self._gone() from error

    def cpu_s(self) -> float:
        """See `Channel.cpu_s`; the warm process' own start is not counted."""
        if self._over is not None:
            return self._over.cpu_s
        return self._process.cpu_s() - self._cpu_before_s

    def close(self) -> Completed:
        """See `Channel.close`; the warm process goes on."""
        with self._lock:
            if self._over is None:
                try:
                    self._over = self._closed()
                except BaseException:
                    self._release(self._process, False)
                    raise
                finally:
                    self._stream.close()
                    self._pipes.close()
                self._release(self._process, True)
            return self._over

    def _closed(self) -> Completed:
        reply = self._process.stop()
        return completed(reply, None, self._pipes, self._process.cpu_s() - self._cpu_before_s)

    def _gone(self) -> SandboxError:
        try:
            left = self.close()
        except SandboxError as error:
            return error
        said = left.output.decode(errors="replace").strip()[-2000:]
        return SandboxError(f"the process in the sandbox ended ({left.end}): {said}", "open another session")
