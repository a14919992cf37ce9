"""A local server that speaks as much of Slack's Web API as the reporter uses, and fails on demand."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

TOKEN = "xoxb-stand-in-0123456789"
CHANNEL = "C0123456789"


@dataclass(kw_only=True)
class Fault:
    """What happens to the next `times` calls of `method` ("" for any)."""

    method: str = ""
    times: int = 1
    status: int = 200
    error: str = ""
    retry_after_s: int | None = None
    delay_s: float = 0.0
    is_done_all_the_same: bool = False
    hang_up: bool = False
    then: Callable[[dict[str, Any]], None] | None = None


@dataclass(kw_only=True)
class Message:
    """One message, and every text that it showed."""

    channel: str
    ts: str
    texts: list[str]
    blocks: list[Any]
    thread_ts: str | None
    metadata: dict[str, Any] | None
    edited_at: list[float] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.texts[-1]

    @property
    def key(self) -> str:
        return str((self.metadata or {}).get("event_payload", {}).get("key", ""))


class SlackStandIn:
    """Use it as a context manager; it serves from a thread of its own, at `base_url`."""

    def __init__(self, *, token: str = TOKEN, channel: str = CHANNEL) -> None:
        self.token = token
        self.channels = {channel}
        self.messages: list[Message] = []
        self.calls: list[tuple[float, str, dict[str, Any]]] = []
        self.faults: deque[Fault] = deque()
        self._clock = 1_700_000_000.0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/"

    def __enter__(self) -> Self:
        self._thread.start()
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def up(self) -> None:
        """Listen."""
        self._run(self._up())

    def down(self) -> None:
        """Refuse connections."""
        self._run(self._down())

    def fail(self, **fault: Any) -> None:
        """Add a `Fault`."""
        self.faults.append(Fault(**fault))

    def heal(self) -> None:
        """No more faults."""
        self.faults.clear()

    @property
    def roots(self) -> list[Message]:
        return [message for message in self.messages if message.thread_ts is None]

    def replies(self, root: Message) -> list[Message]:
        return [message for message in self.messages if message.thread_ts == root.ts]

    def thread_of(self, word: str) -> Message:
        """The one root that shows `word`."""
        (found,) = [root for root in self.roots if word in root.text]
        return found

    def methods(self) -> list[str]:
        return [method for _, method, _ in self.calls]

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _up(self) -> None:
        if self._runner is not None:
            return
        app = web.Application()
        app.router.add_route("*", "/api/{method}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def _down(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        given: dict[str, Any] = dict(request.query)
        if request.method == "POST" and request.can_read_body:
            if request.content_type == "application/json":
                given |= await request.json()
            else:
                given |= dict(await request.post())
        given["_port"] = request.transport.get_extra_info("peername")[1] if request.transport else 0
        self.calls.append((time.monotonic(), method, given))
        fault = next((each for each in self.faults if each.method in ("", method)), None)
        if fault is None:
            return web.json_response(self._done(method, given, request))
        fault.times -= 1
        if fault.times <= 0:
            self.faults.remove(fault)
        answer = self._done(method, given, request) if fault.is_done_all_the_same else {}
        if fault.then is not None:
            await asyncio.to_thread(fault.then, given)
        await asyncio.sleep(fault.delay_s)
        if fault.hang_up:
            assert request.transport is not None
            request.transport.close()
        if fault.retry_after_s is not None:
            headers = {"Retry-After": str(fault.retry_after_s)}
            return web.json_response({"ok": False, "error": "ratelimited"}, status=429, headers=headers)
        if fault.error:
            return web.json_response({"ok": False, "error": fault.error}, status=fault.status)
        if fault.status != 200:
            return web.Response(status=fault.status, text="<html>oops</html>", content_type="text/html")
        return web.json_response(answer or self._done(method, given, request))

    def _done(self, method: str, given: dict[str, Any], request: web.Request) -> dict[str, Any]:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return {"ok": False, "error": "invalid_auth"}
        known = {
            "auth.test": self._who,
            "chat.postMessage": self._post,
            "chat.update": self._update,
            "conversations.history": self._history,
            "conversations.replies": self._replies,
        }
        return known[method](given) if method in known else {"ok": False, "error": "unknown_method"}

    def _who(self, _given: dict[str, Any]) -> dict[str, Any]:
        return {"ok": True, "team": "Stand-in", "user": "raysmith", "team_id": "T1", "user_id": "U1"}

    def _post(self, given: dict[str, Any]) -> dict[str, Any]:
        if problem := self._problem(given):
            return {"ok": False, "error": problem}
        thread_ts = given.get("thread_ts")
        if thread_ts and not any(message.ts == thread_ts for message in self.messages):
            return {"ok": False, "error": "thread_not_found"}
        ts = f"{time.time():.3f}{len(self.messages):03d}"
        made = Message(
            channel=given["channel"],
            ts=ts,
            texts=[given["text"]],
            blocks=given.get("blocks", []),
            thread_ts=thread_ts,
            metadata=given.get("metadata"),
        )
        self.messages.append(made)
        return {"ok": True, "channel": made.channel, "ts": ts, "message": self._shown(made)}

    def _update(self, given: dict[str, Any]) -> dict[str, Any]:
        if problem := self._problem(given):
            return {"ok": False, "error": problem}
        for message in self.messages:
            if message.ts == given["ts"]:
                message.texts.append(given["text"])
                message.edited_at.append(time.monotonic())
                message.blocks = given.get("blocks", [])
                return {"ok": True, "channel": message.channel, "ts": message.ts, "text": message.text}
        return {"ok": False, "error": "message_not_found"}

    def _problem(self, given: dict[str, Any]) -> str:
        if given.get("channel") not in self.channels:
            return "channel_not_found"
        if len(given.get("text", "")) > 40_000:
            return "msg_too_long"
        blocks = given.get("blocks", [])
        if len(blocks) > 50 or any(not 0 < len(each["text"]["text"]) <= 3000 for each in blocks):
            return "invalid_blocks"
        metadata = given.get("metadata")
        if metadata is not None and not isinstance(metadata.get("event_payload"), dict):
            return "invalid_metadata_format"
        return "" if given.get("text") or blocks else "no_text"

    def _history(self, given: dict[str, Any]) -> dict[str, Any]:
        return self._page([message for message in self.messages if message.thread_ts is None][::-1], given)

    def _replies(self, given: dict[str, Any]) -> dict[str, Any]:
        return self._page([m for m in self.messages if given["ts"] in (m.ts, m.thread_ts)], given)

    def _page(self, messages: list[Message], given: dict[str, Any]) -> dict[str, Any]:
        if given.get("channel") not in self.channels:
            return {"ok": False, "error": "channel_not_found"}
        oldest, latest = float(given.get("oldest", 0)), float(given.get("latest", "inf"))
        found = [m for m in messages if m.channel == given["channel"] and oldest < float(m.ts) < latest]
        # Pages are small, so that somebody has to turn them.
        start, size = int(given.get("cursor") or 0), min(int(given.get("limit", 100)), 3)
        shown = [self._shown(m, bool(given.get("include_all_metadata"))) for m in found[start : start + size]]
        following = str(start + size) if start + size < len(found) else ""
        return {
            "ok": True,
            "messages": shown,
            "has_more": bool(following),
            "response_metadata": {"next_cursor": following},
        }

    def _shown(self, message: Message, metadata: bool = True) -> dict[str, Any]:
        shown: dict[str, Any] = {"type": "message", "ts": message.ts, "text": message.text}
        if metadata and message.metadata:
            shown["metadata"] = json.loads(json.dumps(message.metadata))
        return shown
