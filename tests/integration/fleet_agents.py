"""Small agents for the fleet's tests; replicas load them by dotted path."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

from orchestrator.errors import SandboxError, TaskError


class Unpicklable(TaskError):
    def __init__(self, message: str, next_move: str = "") -> None:
        super().__init__(message, next_move)
        self.lock = open(os.devnull)  # noqa: SIM115


class Worker:
    """Roles code and test."""

    async def write(self, request: dict[str, Any]) -> dict[str, Any]:
        note(request, f"start {os.getpid()}")
        try:
            if request.get("die"):
                os.kill(os.getpid(), signal.SIGKILL)
            if request.get("block_s"):
                time.sleep(request["block_s"])  # noqa: ASYNC251  # what an agent must not do
            await asyncio.sleep(request.get("sleep_s", 0.0))
        except asyncio.CancelledError:
            note(request, "cancelled")
            raise
        match request.get("raise"):
            case "foreign":
                raise ZeroDivisionError("by hand")
            case "ours":
                raise TaskError("a wrong path", "mend it")
            case "unpicklable":
                raise Unpicklable("holds a file", "none")
        note(request, "end")
        return {"pid": os.getpid(), "echo": request.get("echo")}


class Runner:
    """Role run: sessions are numbers that add up."""

    def __init__(self) -> None:
        self.sessions: dict[str, int] = {}

    async def test(self, request: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(request.get("sleep_s", 0.0))
        return {"pid": os.getpid()}

    async def open_session(self, spec: Any) -> str:
        name = f"s{len(self.sessions)}-{os.getpid()}"
        self.sessions[name] = 0
        return name

    async def call_session(
        self, name: str, method: str, arguments: dict[str, Any], timeout_s: float
    ) -> tuple[Any, float]:
        if name not in self.sessions:
            raise SandboxError(f"no session {name}")
        if method == "sleep":
            await asyncio.sleep(arguments["s"])
        if method == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        self.sessions[name] += arguments.get("add", 0)
        return {"sum": self.sessions[name], "pid": os.getpid(), "open": len(self.sessions)}, 1.5

    async def close_session(self, name: str) -> None:
        del self.sessions[name]


class Repairer:
    """Role repair: opens a session and does what the request says."""

    async def repair(self, request: dict[str, Any], runners: Any, progress: Any) -> Any:
        note(request, "start")
        if request.get("report"):
            await progress(request["report"])
        if request.get("nested"):
            async with runners.session("spec") as first, runners.session("spec") as second:
                return [await first.call("add", {"add": 1}, 5.0), await second.call("add", {"add": 1}, 5.0)]
        for _ in range(request.get("tries", 1)):
            try:
                async with runners.session("spec") as session:
                    await session.call("add", {"add": 2}, 5.0)
                    answer = await session.call(request.get("method", "add"), request["arguments"], 60.0)
                    return {**answer, "cpu_s": session.cpu_s}
            except SandboxError as error:
                note(request, f"sandbox lost: {error}")
                request = {**request, "method": "add", "arguments": {"add": 5}}
        return "no sandbox"


def note(request: dict[str, Any], line: str) -> None:
    if request.get("journal"):
        with open(request["journal"], "a") as journal:
            journal.write(line + "\n")


def build(roles: list[str], config: dict[str, Any]) -> dict[str, Any]:
    if config.get("broken"):
        raise ImportError("no such engine")
    kinds: dict[str, Any] = {"code": Worker, "test": Worker, "run": Runner, "repair": Repairer}
    return {role: kinds[role]() for role in roles}
