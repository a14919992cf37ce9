"""The host's end of a sandbox: start its supervisor, speak to it, and never leave it behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from actors.sandbox.folders import remove_folder
from actors.sandbox.limits import read_cpu, sweep_everywhere, tree_usage
from actors.sandbox.port import Completed, Job
from actors.sandbox.settings import SandboxSettings
from actors.sandbox.stream import receive
from orchestrator.errors import SandboxError
from orchestrator.tree import Tree
from orchestrator.verdict import Level, RunEnd

_START = "import sys; sys.path.append({root!r}); from {main} import main; main()"
_SUPERVISOR = "actors.sandbox.supervisor"
_ROOT = str(Path(__file__).parents[2])
RECORD_BYTES = 64 << 20
READY = b"ready\n"
_MIB = 1 << 20


class SupervisedProcess:
    """One sandbox that runs; closing it, or losing this process, ends everything inside."""

    def __init__(
        self,
        request: dict[str, Any],
        payload: bytes,
        level: Level,
        *,
        channel: bool,
        folder: str | None = None,
        main: str = _SUPERVISOR,
    ) -> None:
        self.level = level
        self._folder = folder
        self._started: dict[str, Any] = {}
        self._over: Completed | None = None
        self._lost: SandboxError | None = None
        self._lock = threading.Lock()
        self._cpu = 0.0
        self._socket: socket.socket | None = None
        theirs: socket.socket | None = None
        if channel:
            self._socket, theirs = socket.socketpair()
        try:
            self._process = self._popen(theirs, main)
        finally:
            if theirs is not None:
                request["channel"] = theirs.fileno()
                theirs.close()
        self._send_request(request, payload)

    def _popen(self, theirs: socket.socket | None, main: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            # Only what uses more than the standard library pays for finding packages.
            [
                sys.executable,
                "-I",
                *(["-S"] * (main == _SUPERVISOR)),
                "-c",
                _START.format(root=_ROOT, main=main),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=() if theirs is None else (theirs.fileno(),),
            start_new_session=True,
            env={name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
            bufsize=0,
        )

    def _send_request(self, request: dict[str, Any], payload: bytes) -> None:
        text = json.dumps({**request, "payload": len(payload)}).encode()
        data = memoryview(len(text).to_bytes(4, "big") + text + payload)
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(_open(self._process.stdin).fileno(), data) :]

    def kill(self) -> None:
        """Tell the supervisor to end everything; `wait` returns soon after."""
        with contextlib.suppress(OSError, ValueError):
            _open(self._process.stdin).close()

    def wait(self) -> Completed:
        """Block until the sandbox is over and gone.

        Raises:
            SandboxError: It never stood, or its supervisor died.
        """
        with self._lock:
            if self._lost is not None:
                raise self._lost
            if self._over is None:
                try:
                    self._over = self._collect()
                except SandboxError as error:
                    self._lost = error
                    raise
            return self._over

    def close(self) -> Completed:
        """End it and return what it left."""
        self.kill()
        try:
            return self.wait()
        finally:
            if self._socket is not None:
                self._socket.close()

    def _collect(self) -> Completed:
        report, rest, words = self._hear()
        self._process.wait()
        if self._folder is not None:
            remove_folder(self._folder)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                _open(pipe).close()
        if report is None:
            # Whatever the kernel did not end with the supervisor is ended here.
            sweep_everywhere()
        if report is None or "error" in report:
            said = report["error"] if report else words or "its supervisor was killed"
            raise SandboxError(
                f"the sandbox could not run: {said}", "see docs/design/sandbox.md for what it needs"
            )
        output, records = rest[: report["output"]], rest[report["output"] :]
        self._cpu = report["cpu_s"]
        if not records.startswith(READY) and report["end"] != "killed":
            said = output.decode(errors="replace").strip()[-2000:] or f"it ended by {report['end']}"
            raise SandboxError(
                f"the sandbox did not start: {said}", "see docs/design/sandbox.md for what it needs"
            )
        return Completed(
            end=RunEnd(report["end"]),
            exit_code=report["exit_code"],
            output=output,
            records=records.removeprefix(READY),
            wall_s=report["wall_s"],
            cpu_s=report["cpu_s"],
            peak_mib=report["peak_bytes"] / _MIB,
            memory=report["memory"],
            level=self.level,
        )

    def _hear(self) -> tuple[dict[str, Any] | None, bytes, str]:
        """The supervisor's last report, the bytes behind it, and its complaints."""
        stdout = _open(self._process.stdout)
        data = bytearray()
        while part := os.read(stdout.fileno(), 1 << 20):
            data += part
            if not self._started:
                self._note_start(data)
        words = _open(self._process.stderr).read().decode(errors="replace").strip()
        while data:
            line, _, data = data.partition(b"\n")
            report = json.loads(line)
            if "pid" not in report:
                return report, bytes(data), words
        return None, b"", words

    def _note_start(self, data: bytearray) -> None:
        line, newline, _ = data.partition(b"\n")
        if newline and b'"pid"' in line:
            self._started = json.loads(line)

    # ---- the channel

    def send(self, data: bytes) -> None:
        """See `Channel.send`."""
        try:
            self._channel().sendall(data)
        except OSError as error:
            raise self._gone() from error

    def receive(self, count: int, timeout_s: float) -> bytes:
        """See `Channel.receive`."""
        try:
            return receive(self._channel(), count, timeout_s)
        except OSError as error:
            raise self._gone() from error

    def send_files(self, data: bytes, files: Sequence[int]) -> None:
        """Write all of `data`, with descriptors beside it; they stay open here.

        Raises:
            SandboxError: The process is gone.
        """
        try:
            sent = socket.send_fds(self._channel(), [data], list(files))
            self._channel().sendall(data[sent:])
        except OSError as error:
            raise self._gone() from error

    def fileno(self) -> int:
        """Of the channel, for select."""
        return self._channel().fileno()

    def _channel(self) -> socket.socket:
        if self._socket is None:
            raise SandboxError("this sandbox was started without a channel", "open() gives one")
        return self._socket

    def _gone(self) -> SandboxError:
        """Why the process is not there any more, in the words it left."""
        try:
            left = self.close()
        except SandboxError as error:
            return error
        said = left.output.decode(errors="replace").strip()[-2000:]
        return SandboxError(f"the process in the sandbox ended ({left.end}): {said}", "open another session")

    def cpu_s(self) -> float:
        """See `Channel.cpu_s`."""
        if self._over is None:
            self._read_start()
            with contextlib.suppress(OSError, ValueError, KeyError):
                cpu_file = self._started["cpu"]
                self._cpu = read_cpu(cpu_file) if cpu_file else tree_usage(self._started["pid"])[2]
        return self._cpu

    def _read_start(self) -> None:
        """Read the supervisor's first line, once; it writes it before anything can be received."""
        if not self._started and self._lock.acquire(blocking=False):
            try:
                line = bytearray()
                while not line.endswith(b"\n") and (part := os.read(_open(self._process.stdout).fileno(), 1)):
                    line += part
                self._note_start(line)
            finally:
                self._lock.release()


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # every stream of the supervisor is a pipe
    return pipe


def pack(tree: Tree) -> bytes:
    """A tree as `boot.py` reads it."""
    listing = [[path, file.mode.value, len(file.content)] for path, file in tree.files.items()]
    header = json.dumps(listing).encode()
    return b"".join([len(header).to_bytes(4, "big"), header, *(file.content for file in tree.files.values())])


def bounds(settings: SandboxSettings, job: Job) -> dict[str, Any]:
    """The part of a request that holds limits."""
    return {
        "memory_bytes": (job.memory_mib or settings.memory_mib) * _MIB,
        "processes": settings.processes,
        "timeout_s": job.timeout_s,
        "cpu_s": settings.cpu_s,
        "inodes": settings.inodes,
        "disk_bytes": settings.disk_mib * _MIB,
        "spaces": [],
        "output_bytes": settings.output_kib * 1024,
        "record_bytes": RECORD_BYTES,
        "channel": None,
        "framed": False,
    }
