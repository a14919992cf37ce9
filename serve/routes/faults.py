"""What the framework refuses, in the words of every other refusal."""

from __future__ import annotations

from typing import NoReturn

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Match

from serve.problems import FieldFault, Problem, internal

_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 422: "invalid"}


async def http_exception(request: Request, error: Exception) -> NoReturn:
    """Nothing is served at this path, or not by this method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods(request)))
        raise Problem(
            405,
            "method_not_allowed",
            f"{request.method} is not for {request.url.path}",
            f"use {allowed}",
            headers={"Allow": allowed},
        )
    if error.status_code == 404:
        raise Problem(404, "not_found", f"nothing is at {request.url.path}", "/openapi.json lists what is")
    if error.status_code in _CODES:
        raise Problem(error.status_code, _CODES[error.status_code], str(error.detail))
    raise internal()


async def invalid_request(_request: Request, error: Exception) -> NoReturn:
    """A path, query or header value is not what it should be."""
    assert isinstance(error, RequestValidationError)
    faults = [
        FieldFault(field=".".join(map(str, each["loc"][1:])) or "body", message=str(each["msg"]))
        for each in error.errors()
    ]
    detail = "; ".join(f"{fault.field}: {fault.message}" for fault in faults)
    raise Problem(422, "invalid", detail, faults=faults)


def _methods(request: Request) -> set[str]:
    found: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return found
