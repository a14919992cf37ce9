"""A run's events as Server-Sent Events, read from the log by cursor: a stream can be resumed anywhere.

An event's `id` is its seq in the run. What a client missed is sent first; nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from orchestrator.errors import ReplicaLost
from orchestrator.events import Event, Kind
from serve.plain_json import dumps
from serve.problems import Problem
from serve.routes.site import Site

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_ASK_AGAIN_S = 0.5
# After this long without an orchestrator the stream ends; the client resumes it.
_PATIENCE_S = 120.0


class EventStream(StreamingResponse):
    """The response that is a stream; it counts as open from its first byte to its end, however that comes."""

    def __init__(self, site: Site, content: AsyncIterator[bytes]) -> None:
        """Stream `content`.

        Raises:
            Problem: As many streams are open as may be.
        """
        most = site.config.http.max_streams
        if site.streams_open >= most:
            raise Problem(
                503,
                "too_many_streams",
                f"{most} event streams are open here",
                "ask for the events as JSON, or again later",
                retry_after_s=5,
            )
        super().__init__(content, media_type="text/event-stream", headers=_HEADERS)
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._count(1)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._site.streams_open += change
        self._site.metrics.streams_open(self._site.streams_open)


async def stream(
    site: Site, run_id: str, after_seq: int, write: Callable[[Event], bytes]
) -> AsyncIterator[bytes]:
    """The events after `after_seq`, up to the run's end; a comment where nothing happens."""
    # The first bytes tell a client that it is connected, and how soon to come back.
    yield b"retry: 1000\n\n"
    lost_at: float | None = None
    while lost_at is None or time.monotonic() - lost_at < _PATIENCE_S:
        try:
            events = await site.floor.events(run_id, after_seq, site.heartbeat_s)
            lost_at = None
        except ReplicaLost:
            lost_at = lost_at or time.monotonic()
            yield b": the orchestrator restarts\n\n"
            await asyncio.sleep(_ASK_AGAIN_S)
            continue
        if not events:
            yield b": nothing new\n\n"
        for event in events:
            yield write(event)
            after_seq = event.seq
            if event.type is Kind.RUN_FINISHED and await _is_over(site, run_id, event):
                return


def message(event: Event) -> bytes:
    """One event as it goes over the wire. JSON in ASCII has no line break to take care of."""
    data = dumps(asdict(event), separators=(",", ":"))
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n".encode()


async def _is_over(site: Site, run_id: str, ended: Event) -> bool:
    """Whether the run was not taken up again after this end."""
    try:
        return (await site.floor.state(run_id)).finished_at == ended.at
    except ReplicaLost:
        return True
