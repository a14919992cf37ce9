"""The host's end of a warm process: one run or session at a time, each a fork with everything of its own."""

from __future__ import annotations

import contextlib
import json
import selectors
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from actors.sandbox.bubblewrap import SHM_MIB, Bubblewrap, placed
from actors.sandbox.layer import Layer
from actors.sandbox.port import Completed, Job
from actors.sandbox.process import RECORD_BYTES
from actors.sandbox.seccomp import program
from actors.sandbox.settings import SandboxSettings
from actors.warm.gate import Loaded
from actors.warm.pipes import Pipes
from orchestrator.errors import SandboxError, SandboxTimeout
from orchestrator.verdict import RunEnd

_INSIDE = Path(__file__).with_name("inside")
_READY = b"ready\n"
_START_S, _REPLY_S, _IDLE_S = 60.0, 15.0, 300.0
# What it has open when nothing is wrong: three standard streams, the supervisor's pipe, its channel.
_FILES = 5


class Odd(Exception):
    """Importing the packages did more than define things; `names` are the modules, empty when unknown."""

    def __init__(self, names: frozenset[str], why: str) -> None:
        super().__init__(names, why)
        self.names = names
        self.why = why


class WarmProcess:
    """A warm process in its sandbox. Closing it, or losing this process, ends it and what it runs."""

    def __init__(
        self, sandbox: Bubblewrap, layer: Layer, preload: Iterable[str], trusted: dict[str, str]
    ) -> None:
        """Start it and wait until it has loaded everything.

        Args:
            preload: Modules to import, in this order.
            trusted: Files that forks may become, by name.

        Raises:
            Odd: A package may not be loaded ahead.
            SandboxError: It could not be started.
        """
        own = {path.name: path.read_text() for path in _INSIDE.glob("[!_]*.py")}
        job = Job(
            layer=layer,
            argv=("-I", "-B", "{trusted}/zygote.py"),
            trusted={**trusted, **own},
            makes_namespaces=True,
        )
        self._sandbox = sandbox
        self._entries = [name for name in ("reporter", "worker") if f"{name}.py" in trusted]
        self._process = sandbox.start(job, channel=True)
        self._number = 0
        try:
            self.loaded = self._set_up(list(preload))
        except BaseException:
            self.close()
            raise

    def _set_up(self, preload: list[str]) -> Loaded:
        self._tell(
            {
                "entries": self._entries,
                "preload": preload,
                "filter": program().hex(),
                "limits": _limits(self._sandbox.settings),
                "idle_s": _IDLE_S,
            }
        )
        told = self._hear(_START_S)
        if told["odd"]:
            raise Odd(
                frozenset(told["odd"]), "; ".join(f"{name}: {why}" for name, why in told["odd"].items())
            )
        if told["threads"] != 1 or told["files"] != _FILES:
            raise Odd(frozenset(), f"{told['threads']} threads and {told['files']} open files")
        return Loaded(modules=frozenset(told["modules"]), missed=frozenset(told["missed"]))

    def run(self, job: Job) -> Completed:
        """Run `job` in a fork, to its end; blocks.

        Raises:
            SandboxError: It could not be set up, or the process is gone.
        """
        cpu_s = self.cpu_s()
        with self.pipes(job) as pipes:
            self.begin(job, pipes)
            why = self._gather(pipes, job.timeout_s)
            reply = self._hear(_REPLY_S)
            return completed(reply, why, pipes, self.cpu_s() - cpu_s)

    def pipes(self, job: Job) -> Pipes:
        """Files for one run of `job`."""
        output_bytes = self._sandbox.settings.output_kib * 1024
        return Pipes(job, placed, output_bytes=output_bytes, record_bytes=RECORD_BYTES)

    def begin(self, job: Job, pipes: Pipes, channel: int | None = None) -> None:
        """Have a run forked; `channel` becomes its descriptor 4."""
        self._number += 1
        given = [*pipes.given, *(() if channel is None else (channel,))]
        payload, output, records = 0, 1, 2
        request = {
            "do": "run",
            "id": self._number,
            "entry": Path(job.argv[-1]).stem,
            "files": [payload, output, output, records, *range(3, len(given))],
            "environment": {name: placed(text.encode()).decode() for name, text in job.environment.items()},
            "timeout_s": job.timeout_s,
        }
        self._tell(request, given)
        pipes.handed_over()

    def stop(self) -> dict[str, Any]:
        """End the run that goes on; how it ended, which may have been before."""
        self._tell({"do": "stop"})
        return self._hear(_REPLY_S)

    def cpu_s(self) -> float:
        """CPU seconds of the process and all its forks so far."""
        return self._process.cpu_s()

    def is_used_up(self) -> bool:
        """Whether a further run could meet the bound on CPU time, which counts all of them."""
        return self.cpu_s() > self._sandbox.settings.cpu_s / 2

    def close(self) -> None:
        """End the process and whatever it runs; harmless when it is gone."""
        with contextlib.suppress(SandboxError):
            self._process.close()

    def _gather(self, pipes: Pipes, timeout_s: float | None) -> RunEnd | None:
        """Read what comes until the reply is there; why the run was stopped from here, or nothing."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s + _REPLY_S
        with selectors.DefaultSelector() as selector:
            for fd in (pipes.output, pipes.records, self._process.fileno()):
                selector.register(fd, selectors.EVENT_READ)
            while deadline is None or time.monotonic() < deadline:
                for key, _ in selector.select(1.0):
                    if key.fd == self._process.fileno():
                        return None
                    if not pipes.take(key.fd):
                        selector.unregister(key.fd)
                if pipes.overflowed:
                    self._tell({"do": "stop"})
                    return RunEnd.OUTPUT_LIMIT
        raise SandboxTimeout("a warm run", timeout_s or 0.0)

    def _tell(self, value: dict[str, Any], files: Sequence[int] = ()) -> None:
        text = json.dumps(value).encode()
        self._process.send_files(len(text).to_bytes(4, "big") + text, files)

    def _hear(self, timeout_s: float) -> dict[str, Any]:
        size = int.from_bytes(self._process.receive(4, timeout_s), "big")
        told: dict[str, Any] = json.loads(self._process.receive(size, timeout_s))
        if told.get("id", self._number) != self._number or "error" in told:
            raise SandboxError(f"the warm process answered {told} to request {self._number}")
        return told


def _limits(settings: SandboxSettings) -> dict[str, int]:
    """Sizes of what a run may write."""
    disk = settings.disk_mib << 20
    shm = min(SHM_MIB, settings.disk_mib) << 20
    return {"work_bytes": disk, "tmp_bytes": disk, "shm_bytes": shm, "inodes": settings.inodes}


def completed(reply: dict[str, Any], why: RunEnd | None, pipes: Pipes, cpu_s: float) -> Completed:
    """What a run left, as a fresh sandbox tells it.

    Raises:
        SandboxError: The run never stood.
    """
    output, records = pipes.drain()
    end = why or RunEnd(reply["end"])
    if end is RunEnd.EXITED and not records.startswith(_READY):
        said = output.decode(errors="replace").strip()[-2000:]
        raise SandboxError(f"a warm run did not start: {said}", "see docs/design/warm-verdicts.md")
    return Completed(
        end=end,
        exit_code=reply["exit_code"] if end is RunEnd.EXITED else None,
        output=output,
        records=records.removeprefix(_READY),
        wall_s=reply["wall_s"],
        cpu_s=cpu_s,
        peak_mib=0.0,
        memory="shared",
        level=Bubblewrap.level,
        warm=True,
    )
