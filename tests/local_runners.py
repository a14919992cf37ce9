"""A runner pool for tests: the real search worker as a plain process in a temporary folder, no sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from actors.search.shipped import WORKER
from orchestrator.errors import SandboxError, SandboxTimeout
from orchestrator.ports import SessionSpec
from orchestrator.steps import Improvement
from orchestrator.tree import File, Tree
from orchestrator.verdict import Outcome, TestProfile


def tree_of(files: Mapping[str, str | bytes]) -> Tree:
    return Tree(
        files={
            path: File(content=text.encode() if isinstance(text, str) else text)
            for path, text in files.items()
        }
    )


def lay_out(tree: Tree, folder: Path) -> None:
    for path, file in tree.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)


class LocalSession:
    def __init__(self, process: asyncio.subprocess.Process, channel: socket.socket) -> None:
        self.process = process
        self.cpu_s = 0.0
        self._channel = channel
        self._calls = 0

    async def call(self, method: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        self._calls += 1
        data = json.dumps({"id": self._calls, "method": method, "arguments": arguments}).encode()
        try:
            async with asyncio.timeout(timeout_s):
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(self._channel, struct.pack(">I", len(data)) + data)
                (size,) = struct.unpack(">I", await self._exactly(4))
                reply = json.loads(await self._exactly(size))
        except TimeoutError as error:
            self.kill()
            raise SandboxTimeout(method, timeout_s) from error
        except OSError as error:
            raise SandboxError(f"the worker is gone: {error}") from error
        self.cpu_s = reply["cpu_s"]
        if "error" in reply:
            raise SandboxError(reply["error"], reply.get("trace", ""))
        return reply["result"]

    async def _exactly(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            part = await asyncio.get_running_loop().sock_recv(self._channel, size - len(parts))
            if not part:
                raise SandboxError("the worker closed its channel")
            parts += part
        return parts

    def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()


class LocalRunners:
    """`opened` counts the sessions; `sessions` keeps them for a look afterwards."""

    def __init__(self) -> None:
        self.sessions: list[LocalSession] = []

    @property
    def opened(self) -> int:
        return len(self.sessions)

    @asynccontextmanager
    async def session(self, spec: SessionSpec) -> AsyncIterator[LocalSession]:
        folder = Path(tempfile.mkdtemp(prefix="search-"))
        lay_out(spec.tree, folder / "work")
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        os.set_inheritable(theirs.fileno(), True)
        process = await asyncio.create_subprocess_exec(
            spec.python or sys.executable,
            "-I",
            "-B",
            str(WORKER),
            cwd=folder / "work",
            pass_fds=[theirs.fileno()],
            env={"RAYSMITH_CHANNEL_FD": str(theirs.fileno()), "PATH": os.environ["PATH"]},
        )
        theirs.close()
        session = LocalSession(process, mine)
        self.sessions.append(session)
        try:
            yield session
        finally:
            mine.close()
            session.kill()
            await process.wait()
            shutil.rmtree(folder, ignore_errors=True)


async def profile_of(
    tree: Tree,
    *,
    plugins: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
    missing: tuple[str, ...] = (),
    fixed_order: bool = False,
) -> TestProfile:
    """A profile as the base's own run shows it; `missing` are ids that cannot be collected."""
    spec = SessionSpec(tree=tree, arguments=(), options=options, plugins=plugins, python=None, timeout_s=60)
    async with LocalRunners().session(spec) as session:
        arguments = {"arguments": (), "options": options, "plugins": plugins, "sources": []}
        await session.call("start", arguments, 60)
        measured = await session.call("baseline", {"timeout_s": 2.0}, 60)
    expected = {test: Outcome(result[0]) for test, result in measured["results"].items()}
    expected.update(dict.fromkeys(missing, Outcome.ERROR))
    return TestProfile(
        expected=expected,
        options=options,
        plugins=plugins,
        protected=frozenset(path for path in tree.files if "test" in path),
        fixed_order=fixed_order,
    )


class Told:
    """A progress that keeps what it was told."""

    def __init__(self) -> None:
        self.improvements: list[Improvement] = []
        self.first = asyncio.Event()

    async def __call__(self, improvement: Improvement) -> None:
        self.improvements.append(improvement)
        self.first.set()
