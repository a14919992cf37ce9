"""Applications on the side of the code under test: asked over ASGI and WSGI, on one event loop."""

from __future__ import annotations

import asyncio
import inspect
import io
import sys
from typing import Any

# How long an application may work on a websocket before the test is heard again.
_TURN_S = 0.02


class Applications:
    """Answers what comes over the protocols of services; `server` knows objects by number."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.lifespans: dict[int, tuple[Any, Any, Any]] = {}
        self.states: dict[int, dict[str, Any]] = {}
        self.talks: list[_Talk] = []

    def request(self, message: dict[str, Any]) -> dict[str, Any]:
        """One HTTP request to an ASGI application: its messages, and what it raised after them."""
        app, scope = self._asked(message)
        sent: list[Any] = []
        waiting = [{"type": "http.request", "body": self.server.decode(message["body"]), "more_body": False}]

        async def receive() -> dict[str, Any]:
            return waiting.pop() if waiting else {"type": "http.disconnect"}

        async def send(told: dict[str, Any]) -> None:
            sent.append(told)

        reply: dict[str, Any] = {}
        try:
            self.server.run(app(scope, receive, send))
        except BaseException as error:
            reply["raised"] = self.server.error(error)
        return {"value": self.server.encode([dict(told) for told in sent]), **reply}

    def wsgi(self, message: dict[str, Any]) -> dict[str, Any]:
        """One request to a WSGI application: status, headers and the parts of its body."""
        started: list[Any] = []
        body: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _error: Any = None) -> Any:
            started[:] = [status, headers]
            return body.append

        environ = self.server.decode(message["environ"])
        environ["wsgi.input"] = io.BytesIO(self.server.decode(message["body"]))
        environ |= {"wsgi.errors": sys.stderr, "wsgi.version": (1, 0)}
        parts = self.server.resolve(message)(environ, start_response)
        try:
            body.extend(parts)
        finally:
            getattr(parts, "close", lambda: None)()
        status, headers = started
        plain = [(str(name), str(value)) for name, value in headers]
        return {"value": self.server.encode((str(status), plain, [bytes(part) for part in body]))}

    # ---- websockets

    def connect(self, message: dict[str, Any]) -> dict[str, Any]:
        """Open a websocket: its number, and what the application said until it waited."""
        app, scope = self._asked(message)
        talk = _Talk()
        self.talks.append(talk)
        reply = self._turn(talk, talk.begin(app, scope))
        return {"talk": len(self.talks) - 1, **reply}

    def talk(self, message: dict[str, Any]) -> dict[str, Any]:
        """Pass on what a test said; what the application said since, and whether it is over."""
        talk = self.talks[message["talk"]]
        return self._turn(talk, talk.hear(self.server.decode(message["said"])))

    def hang_up(self, message: dict[str, Any]) -> dict[str, Any]:
        """End a conversation that nobody listens to any more."""
        self.server.run(self.talks[message["talk"]].end())
        return {"value": None}

    def _turn(self, talk: _Talk, work: Any) -> dict[str, Any]:
        self.server.run(work)
        reply: dict[str, Any] = {"value": self.server.encode([dict(told) for told in talk.said()])}
        if talk.over:
            reply["over"] = True
            if (error := talk.error()) is not None:
                reply["raised"] = self.server.error(error)
        return reply

    # ---- lifespans

    def start(self, message: dict[str, Any]) -> dict[str, Any]:
        """The application's start-up; `value` is its first lifespan message."""
        return {"value": self.server.encode(self.server.run(self._start(message["ref"])))}

    async def _start(self, number: int) -> Any:
        inbox: asyncio.Queue[Any] = asyncio.Queue()
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        state = self.states[number] = {}
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
        task = asyncio.ensure_future(self.server.objects[number](scope, inbox.get, outbox.put))
        self.lifespans[number] = (task, inbox, outbox)
        await inbox.put({"type": "lifespan.startup"})
        return await _first(task, outbox)

    def stop(self, message: dict[str, Any]) -> dict[str, Any]:
        """The application's shutdown; `value` is its last lifespan message."""
        return {"value": self.server.encode(self.server.run(self._stop(message["ref"])))}

    async def _stop(self, number: int) -> Any:
        self.states.pop(number, None)
        task, inbox, outbox = self.lifespans.pop(number)
        await inbox.put({"type": "lifespan.shutdown"})
        return await _first(task, outbox)

    def _asked(self, message: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        scope = self.server.decode(message["scope"])
        if message["ref"] in self.states:
            scope["state"] = dict(self.states[message["ref"]])
        return self.server.resolve(message), scope


class _Talk:
    """One websocket: a task of the application, and the messages both ways."""

    def __init__(self) -> None:
        self.task: Any = None
        self._in: asyncio.Queue[Any] = asyncio.Queue()
        self._out: list[Any] = []
        self._still = asyncio.Event()

    @property
    def over(self) -> bool:
        return bool(self.task.done())

    async def begin(self, app: Any, scope: dict[str, Any]) -> None:
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))
        self.task.add_done_callback(lambda _: self._still.set())
        await self._until_still()

    async def hear(self, said: list[Any]) -> None:
        for each in said:
            self._in.put_nowait(each)
        await self._until_still()

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    def said(self) -> list[Any]:
        said, self._out = self._out, []
        return said

    def error(self) -> BaseException | None:
        return None if self.task.cancelled() else self.task.exception()

    async def _until_still(self) -> None:
        """Until the application has said something or listens in vain, or for a while."""
        self._still.clear()
        if not self.task.done():
            await asyncio.wait([asyncio.ensure_future(self._still.wait())], timeout=_TURN_S)

    async def _receive(self) -> Any:
        if self._in.empty():
            self._still.set()
        return await self._in.get()

    async def _send(self, told: Any) -> None:
        self._out.append(told)
        self._still.set()


async def _first(task: Any, outbox: Any) -> Any:
    """The next message of a lifespan, or what the application raised instead."""
    getting = asyncio.ensure_future(outbox.get())
    await asyncio.wait([task, getting], return_when=asyncio.FIRST_COMPLETED)
    if getting.done():
        return getting.result()
    getting.cancel()
    await task
    return {"type": "lifespan.shutdown.complete"}


def protocol_of(value: Any) -> str:
    """`asgi` or `wsgi` for what is called as such an application, else nothing."""
    call = value if inspect.isroutine(value) else getattr(type(value), "__call__", None)  # noqa: B004
    try:
        named = [*inspect.signature(call).parameters] if callable(call) else []
    except (TypeError, ValueError):
        return ""
    named = named if inspect.isroutine(value) else named[1:]
    if named == ["scope", "receive", "send"] and inspect.iscoroutinefunction(call):
        return "asgi"
    return "wsgi" if named[:1] in (["environ"], ["env"]) and named[1:] == ["start_response"] else ""
