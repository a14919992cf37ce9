"""The seam between whoever needs a confined process and whatever confines it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from actors.sandbox.layer import Layer
from orchestrator.tree import Tree
from orchestrator.verdict import Level, RunEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One process to confine.

    Attributes:
        layer: The interpreter and packages that it sees.
        argv: Arguments of the layer's interpreter; `{trusted}` and `{work}` stand for the folders inside.
        tree: Written to the sandbox's work folder by trusted code inside, before `argv` starts.
        trusted: Text files placed read-only in the trusted folder, by name.
        stdin: What the process reads, then end of file.
        environment: Added to the minimal environment.
        timeout_s: Wall limit; None leaves it to whoever holds the channel.
        makes_namespaces: `argv` is trusted code that confines what it starts itself.
        preload: Modules that a warm process may have loaded before the run; None asks for a fresh process.
    """

    layer: Layer
    argv: tuple[str, ...]
    tree: Tree = field(default_factory=Tree)
    trusted: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    memory_mib: int | None = None
    makes_namespaces: bool = False
    preload: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """What a confined process left: every process of it is gone.

    Attributes:
        exit_code: Of the process; 128 + n after signal n; None when it was ended from outside.
        output: Standard output and error as they came, at most `output_kib`.
        records: What it wrote to descriptor 3.
        cpu_s: Of all its processes; wall_s and cpu_s are measured outside.
        memory: How memory was bounded: `cgroup-v1`, `cgroup-v2`, `polled` or `none`.
        warm: It was forked from a process that served other runs.
    """

    end: RunEnd
    exit_code: int | None
    output: bytes
    records: bytes
    wall_s: float
    cpu_s: float
    peak_mib: float
    memory: str
    level: Level
    warm: bool = False


class Channel(Protocol):
    """A live process inside a sandbox and a byte stream to it."""

    def send(self, data: bytes) -> None:
        """Write all of `data`; blocks.

        Raises:
            SandboxError: The process is gone.
        """
        ...

    def receive(self, count: int, timeout_s: float) -> bytes:
        """Exactly `count` bytes; blocks.

        Raises:
            SandboxTimeout: They did not arrive in time.
            SandboxError: The process is gone.
        """
        ...

    def cpu_s(self) -> float:
        """CPU seconds of all its processes so far."""
        ...

    def close(self) -> Completed:
        """End every process in the sandbox and return what it left; later calls return the same."""
        ...


class Sandbox(Protocol):
    """Something that confines processes. Nothing of a process outlives `run` or `close`."""

    level: Level

    async def run(self, job: Job) -> Completed:
        """Run `job` to its end; cancelling the coroutine kills it.

        Raises:
            SandboxError: It could not be started here.
        """
        ...

    async def open(self, job: Job) -> Channel:
        """Start `job` with a stream socket whose descriptor is in its RAYSMITH_CHANNEL_FD.

        Raises:
            SandboxError: It could not be started here.
        """
        ...

    def kill_all(self) -> None:
        """End every process of every sandbox that this object started."""
        ...
