"""A small real HTTP server that speaks chat completions, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "prompt_tokens_details": {"cached_tokens": 64},
}


def completion(text: object, *, finish_reason: str = "stop", usage: Any = USAGE) -> bytes:
    """The body of a good answer."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish_reason,
    }
    body = {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(body).encode()


def error(message: str) -> bytes:
    """The body of an error, as OpenAI and vLLM write it."""
    return json.dumps({"error": {"message": message, "type": "x", "code": None}}).encode()


@dataclass(frozen=True, kw_only=True)
class Act:
    """How one request is answered.

    `hang` never answers, `drop` closes without a word, `repeat` sends the body so many times.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False
    repeat: int = 1


def say(text: object, **changes: Any) -> Act:
    return Act(body=completion(text, **changes))


@dataclass
class StandIn:
    """`acts` are played in order, the last one for ever; a function acts by the request's body."""

    acts: Sequence[Act] | Callable[[dict[str, Any]], Act]
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "m", "object": "model"}])
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    serving: set[asyncio.Task[Any]] = field(default_factory=set)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _act(self, request: dict[str, Any]) -> Act:
        if callable(self.acts):
            return self.acts(request)
        return self.acts[min(len(self.requests) - 1, len(self.acts) - 1)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if not await self._answer(head, reader, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up.set()
        finally:
            self.serving.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if first.startswith("GET"):
            act = Act(body=json.dumps({"object": "list", "data": self.models}).encode())
        else:
            self.headers.append(headers)
            self.requests.append(json.loads(body))
            self.asked.set()
            act = self._act(self.requests[-1])
        if act.hang:
            # Ends when the client does.
            await reader.readuntil(b"\r\n\r\n")
        if act.drop:
            return False
        size = len(act.body) * act.repeat
        told = {"content-type": "application/json", "content-length": str(size), **act.headers}
        lines = [f"HTTP/1.1 {act.status} X", *(f"{name}: {value}" for name, value in told.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        for _ in range(act.repeat):
            writer.write(act.body)
            await writer.drain()
        return True


@contextlib.asynccontextmanager
async def stand_in(*acts: Act, by: Callable[[dict[str, Any]], Act] | None = None) -> AsyncIterator[StandIn]:
    """A server on a free port of loopback, as long as the block lasts."""
    server = StandIn(by or acts)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in server.serving:
            task.cancel()
        await asyncio.gather(*server.serving, return_exceptions=True)
        await listening.wait_closed()


def main() -> None:
    """As a process: the stand-in for tests that need one outside; the replies are a recording's."""
    import sys
    from pathlib import Path

    port, recording = int(sys.argv[1]), Path(sys.argv[2])
    replies = [json.loads(line) for line in recording.read_text().splitlines()]

    def act(request: dict[str, Any]) -> Act:
        prompt = request["messages"][0]["content"]
        role = "test" if prompt.startswith("Write pytest tests") else "code"
        role = "repair" if prompt.startswith("Change this project") else role
        found = [each["reply"] for each in replies if each["role"] == role]
        return say(found[0]) if found else Act(status=500, body=error("nothing to say"))

    async def run() -> None:
        server = await asyncio.start_server(StandIn(act).serve, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":
    main()
