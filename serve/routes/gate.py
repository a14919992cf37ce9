"""What every request passes first: counting, the host it names, where it comes from, its key, its size.

Plain ASGI, so that a body is neither read nor kept here, and a stream passes as it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.errors import RaysmithError
from serve.auth import Key, basic, bearer
from serve.problems import MEDIA_TYPE, FieldFault, Problem, internal, of_error
from serve.routes.site import LOOPBACK, Site

log = structlog.get_logger()

VERSIONED = "/api/v1"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = _SAFE | {"POST", "PUT", "PATCH", "DELETE"}
_FREE = frozenset({"/health", "/health/ready"})
_MIB = 1024 * 1024


class Gate:
    """Lets a request through to the application, or answers it with a problem."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send, self._site)
        try:
            self._check(scope)
            await self._app(scope, _Limited(receive, self._most), answer)
        except Problem as problem:
            await answer.problem(problem)
        except RaysmithError as error:
            await answer.problem(of_error(error))
        except Exception:
            log.exception("request_broke", path=scope["path"])
            await answer.problem(internal())

    @property
    def _most(self) -> int:
        return self._site.config.http.max_body_mib * _MIB

    def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), plain_path(scope)
        self._check_host(headers, path)
        if scope["method"] not in _SAFE:
            _check_origin(headers)
        if path not in _FREE:
            key = self._check_key(headers, path, scope["method"])
            state = scope.setdefault("state", {})
            state["caller"] = key.id if key is not None else ""
            state["tenant"] = key.tenant if key is not None else None
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._most:
            raise too_large(self._most)

    def _check_host(self, headers: Headers, path: str) -> None:
        """A page of another site that rebinds its own name to our address names that name here."""
        allowed = {name.lower() for name in self._site.config.http.allowed_hosts}
        if not self._site.is_open and (not allowed or path in _FREE):
            return
        host = _host(headers.get("host", ""))
        if host not in allowed | LOOPBACK:
            raise Problem(
                421,
                "wrong_host",
                f"nothing is served here under the name {host[:200]!r}",
                "use the server's own name, or add this one to `http.allowed_hosts`",
            )

    def _check_key(self, headers: Headers, path: str, method: str) -> Key | None:
        """The key that the request came with; None where none is needed and none was sent."""
        given = headers.get("authorization")
        if given is None and self._site.is_open:
            return None
        is_page = path == "/dashboard" or path.startswith("/dashboard/")
        presented = bearer(given) if given is not None else None
        if presented is None and given is not None and is_page and method in _SAFE:
            # A browser's own prompt. It is sent along by itself, so it opens nothing that changes anything.
            presented = basic(given)
        key = self._site.keyring.whose(presented) if presented is not None else None
        if key is None:
            raise _no_key(given is not None, is_page, self._site.keyring.is_empty)
        return key


class _Limited:
    """`receive` that counts the body, so that one without a length stops at the limit too."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._seen = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen > self._most:
            raise too_large(self._most)
        return message


class _Answer:
    """`send` that counts what was answered, and can answer with a problem as long as nothing was."""

    def __init__(self, scope: Scope, send: Send, site: Site) -> None:
        self._scope = scope
        self._send = send
        self._site = site
        self._began = time.monotonic()
        self._started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            method = self._scope["method"]
            self._site.metrics.answered(
                route_of(self._scope),
                method if method in _METHODS else "other",
                message["status"],
                time.monotonic() - self._began,
            )
        await self._send(message)

    async def problem(self, problem: Problem) -> None:
        self._site.metrics.refused(problem.code)
        if self._started:
            # Half an answer is out; ending it is all that is left.
            await self._send({"type": "http.response.body", "body": b""})
            return
        body = problem.body(self._scope["path"])
        headers = {**problem.headers, "Content-Type": MEDIA_TYPE, "Content-Length": str(len(body))}
        await self(
            {
                "type": "http.response.start",
                "status": problem.status,
                "headers": [
                    (name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()
                ],
            }
        )
        await self({"type": "http.response.body", "body": body if self._scope["method"] != "HEAD" else b""})


_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


def too_large(most: int) -> Problem:
    """The refusal of a body that is larger than `most` bytes."""
    return Problem(
        413,
        "body_too_large",
        f"at most {most // _MIB} MiB are taken in one request",
        "send less, or raise `http.max_body_mib`",
        headers={"Connection": "close"},
    )


def plain_path(scope: Mapping[str, Any]) -> str:
    """The request's path as it is without the version in front."""
    path: str = scope["path"]
    return path.removeprefix(VERSIONED) if path.startswith(f"{VERSIONED}/") else path


def route_of(scope: Mapping[str, Any]) -> str:
    """The pattern of the route that answers, `none` where no route does."""
    route = scope.get("route")
    pattern = getattr(route, "path_format", None) or getattr(route, "path", None)
    return str(pattern).removeprefix(VERSIONED) if pattern else "none"


def _check_origin(headers: Headers) -> None:
    """Browsers say so when a page of another site makes them send something."""
    origin = headers.get("origin")
    is_foreign = origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    if is_foreign or headers.get("sec-fetch-site") == "cross-site":
        raise Problem(
            403, "cross_site", "a page of another site made a browser send this", "send it from a program"
        )


def _no_key(was_given: bool, is_page: bool, none_exists: bool) -> Problem:
    detail = "this key is not known, or was revoked" if was_given else "no key came with the request"
    next_move = (
        "make one where the factory runs: `raysmith keys create NAME`"
        if none_exists
        else "send `Authorization: Bearer KEY`"
    )
    scheme = "Basic" if is_page else "Bearer"
    return Problem(
        401,
        "unauthorized",
        detail,
        next_move,
        faults=[FieldFault(field="Authorization", message=detail)],
        headers={"WWW-Authenticate": f'{scheme} realm="raysmith"'},
    )


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""
