"""Stand-ins for applications: a service is asked over its own protocol, and answers with data.

Requests to ASGI and WSGI applications go over as data, so do their messages and answers. A websocket is a
conversation: what the application sends is fetched whenever it waits, and looked for while a test is silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

# How long a test may be silent before the application is asked whether it has something to say.
_SILENCE_S = 0.02
_OF_A_SCOPE = """
type asgi http_version method scheme path raw_path query_string root_path headers client server subprotocols
"""
_OF_AN_ENVIRONMENT = (str, int, float, bool, bytes)


def kinds(remote: Any) -> dict[str, Any]:
    """Stand-ins by what the other side calls them, below the class of all stand-ins."""

    class Asgi(remote):  # type: ignore[misc]
        """An application called as `await app(scope, receive, send)`."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            link, number = object.__getattribute__(self, "_raysmith")
            if scope["type"] == "lifespan":
                await _lifespan(link, number, receive, send)
                return
            if scope["type"] not in ("http", "websocket"):
                link.unable(f"a test opens a {scope['type']} to the application")
            link.requests += 1
            talk = _request if scope["type"] == "http" else _websocket
            await talk(link, number, link.encode(_plain_scope(scope)), (receive, send))

    class Wsgi(remote):  # type: ignore[misc]
        """An application called as `app(environ, start_response)`."""

        def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
            link, number = object.__getattribute__(self, "_raysmith")
            link.requests += 1
            given = {name: value for name, value in environ.items() if type(value) in _OF_AN_ENVIRONMENT}
            body = _body(environ)
            reply = link.ask("wsgi", ref=number, environ=link.encode(given), body=link.encode(body))
            status, headers, parts = link.decode(reply["value"])
            start_response(str(status), [(str(name), str(value)) for name, value in headers])
            return [bytes(part) for part in parts]

    return {"asgi": Asgi, "wsgi": Wsgi}


async def _lifespan(link: Any, number: int, receive: Any, send: Any) -> None:
    await receive()
    await send(link.decode(link.ask("start", ref=number)["value"]))
    await receive()
    await send(link.decode(link.ask("stop", ref=number)["value"]))


async def _request(link: Any, number: int, scope: Any, ends: tuple[Any, Any]) -> None:
    receive, send = ends
    body, more = b"", True
    while more:
        part = await receive()
        body, more = body + part.get("body", b""), part.get("more_body", False)
    reply = link.ask("request", ref=number, scope=scope, body=link.encode(body))
    await _told(link, reply, send)


async def _websocket(link: Any, number: int, scope: Any, ends: tuple[Any, Any]) -> None:
    receive, send = ends
    reply = link.ask("connect", ref=number, scope=scope)
    talk = link.decode(reply["talk"])
    hearing = asyncio.ensure_future(receive())
    try:
        while True:
            await _told(link, reply, send)
            if reply.get("over"):
                return
            await asyncio.wait([hearing], timeout=_SILENCE_S)
            said = []
            if hearing.done():
                said = [hearing.result()]
                hearing = asyncio.ensure_future(receive())
            reply = link.ask("talk", talk=talk, said=link.encode(said))
    finally:
        hearing.cancel()
        link.ask("hang_up", talk=talk)


async def _told(link: Any, reply: dict[str, Any], send: Any) -> None:
    """Pass on what an application sent, then what it raised."""
    for message in link.decode(reply["value"]):
        await send(message)
    if "raised" in reply:
        raise link.raised.error(reply["raised"])


def _plain_scope(scope: Any) -> dict[str, Any]:
    found = {name: scope[name] for name in _OF_A_SCOPE.split() if name in scope}
    found["headers"] = [[bytes(name), bytes(value)] for name, value in scope.get("headers", ())]
    return found


def _body(environ: Any) -> bytes:
    """What a WSGI client sends: so many bytes as it says, all where it says that the stream ends."""
    stream = environ.get("wsgi.input")
    if stream is None:
        return b""
    if environ.get("wsgi.input_terminated"):
        return bytes(stream.read())
    return bytes(stream.read(int(environ.get("CONTENT_LENGTH") or 0)))
