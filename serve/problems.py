"""Every refusal over HTTP as a problem document (RFC 9457), and what an error of ours becomes there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import (
    EngineMissing,
    KeyReused,
    MachineError,
    QueueFull,
    RaysmithError,
    ReplicaLost,
    TaskError,
)

MEDIA_TYPE = "application/problem+json"

# Stable words: the last part of `type`, and the title that goes with them.
TITLES: Mapping[str, str] = {
    "bad_request": "The request cannot be read",
    "unauthorized": "An API key is required",
    "operators_only": "Only an operator's key may see this",
    "cross_site": "Another site's page sent this",
    "not_found": "There is no such thing here",
    "no_patch": "The run has no patch",
    "method_not_allowed": "This cannot be done here",
    "timeout": "The request did not arrive in time",
    "body_too_large": "The request body is too large",
    "unsupported_media_type": "The request body is of another kind",
    "wrong_host": "Another host was meant",
    "invalid": "The request does not hold what it should",
    "archive": "The archive is refused",
    "key_reused": "The idempotency key belongs to another request",
    "no_model": "No model is configured that could do this",
    "queue_full": "Too many runs are waiting",
    "internal": "This should not have happened",
    "too_many_streams": "Too many event streams are open",
    "unavailable": "The factory does not answer right now",
    "unsandboxed": "This factory runs code without a sandbox",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldFault:
    """What is wrong with one field; `field` is its dotted path, a header's or a query parameter's name."""

    field: str
    message: str


class Problem(Exception):
    """A refusal. `code` is one of `TITLES`; `detail` is for a person, `next_move` says what may help."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        next_move: str = "",
        *,
        faults: Sequence[FieldFault] = (),
        headers: Mapping[str, str] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(status, code, detail, next_move)
        self.status = status
        self.code = code
        self.detail = detail
        self.next_move = next_move
        self.faults = tuple(faults)
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)

    def document(self, path: str = "") -> dict[str, Any]:
        """The problem's members; `path` is the request's."""
        document: dict[str, Any] = {
            "type": f"urn:raysmith:problem:{self.code}",
            "title": TITLES[self.code],
            "status": self.status,
            "detail": self.detail,
            "instance": path,
            "code": self.code,
        }
        if self.next_move:
            document["next"] = self.next_move
        if self.faults:
            document["errors"] = [{"field": each.field, "message": each.message} for each in self.faults]
        return document

    def body(self, path: str = "") -> bytes:
        """The document as JSON; ASCII, since what a client sent may be no text at all."""
        return json.dumps(self.document(path), ensure_ascii=True).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class _As:
    status: int
    code: str
    retry_after_s: int | None = None
    field: str = field(default="")


# The first that an error is an instance of counts.
_OURS: tuple[tuple[type[RaysmithError], _As], ...] = (
    (KeyReused, _As(status=422, code="key_reused", field="Idempotency-Key")),
    (TaskError, _As(status=422, code="invalid")),
    (QueueFull, _As(status=429, code="queue_full", retry_after_s=5)),
    (ReplicaLost, _As(status=503, code="unavailable", retry_after_s=2)),
    (EngineMissing, _As(status=422, code="no_model", field="model")),
    (MachineError, _As(status=503, code="unavailable", retry_after_s=30)),
)


def of_error(error: RaysmithError, field: str = "") -> Problem:
    """The problem that an error of ours is over HTTP.

    Args:
        error: What happened.
        field: The field of the request that it is about, where that is known.
    """
    for kind, told in _OURS:
        if isinstance(error, kind):
            code = error.code if error.code in TITLES and kind is TaskError else told.code
            named = field or told.field
            return Problem(
                told.status,
                code,
                error.message,
                error.next_move,
                faults=[FieldFault(field=named, message=error.message)] if named else (),
                retry_after_s=told.retry_after_s,
            )
    return internal()


def internal() -> Problem:
    """Something of ours broke; what exactly is in the log and not for a stranger."""
    return Problem(500, "internal", "an unexpected error; the ingress's log has it")
