"""Reads the body of a chat completion. Nothing in it is trusted: any bytes give a reply or a `BadAnswer`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.steps import Usage


class BadAnswer(Exception):
    """The body is no usable completion.

    Attributes:
        status: The HTTP status that the body itself tells, 0 for none.
        is_protocol: It is no chat completion at all, so another prompt would not help.
        usage: What it cost all the same.
    """

    def __init__(
        self, reason: str, *, status: int = 0, is_protocol: bool = False, usage: Usage | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.is_protocol = is_protocol
        self.usage = usage or Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A completion's texts, why the first ended, and what it used; `cost_usd` as the endpoint tells it."""

    text: str
    finish_reason: str
    usage: Usage
    others: tuple[str, ...] = ()


def read_answer(body: bytes) -> Answer:
    """The completion in `body`.

    Raises:
        BadAnswer: There is none.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"{len(body)} bytes that are no JSON", is_protocol=True) from error
    if not isinstance(content, dict):
        raise BadAnswer("JSON that is no chat completion", is_protocol=True)
    if isinstance(fault := content.get("error"), dict):
        code = fault.get("code")
        raise BadAnswer(told(content), status=code if isinstance(code, int) else 0)
    choices = content.get("choices")
    if not isinstance(choices, list):
        raise BadAnswer("JSON that is no chat completion", is_protocol=True)
    drawn = [(_text(each.get("message")), each) for each in choices if isinstance(each, dict)]
    usable = [(text, choice) for text, choice in drawn if text.strip()]
    first = usable[0][1] if usable else drawn[0][1] if drawn else {}
    finish_reason = str(first.get("finish_reason") or "stop")
    usage = _usage(content.get("usage"))
    if not usable:
        raise BadAnswer(f"an empty reply (finish_reason {finish_reason:.40})", usage=usage)
    texts = [text for text, _ in usable]
    return Answer(text=texts[0], finish_reason=finish_reason, usage=usage, others=tuple(texts[1:]))


def told(body: object) -> str:
    """The reason in an error's body, as servers of this kind write it."""
    at: object = body
    if isinstance(at, Mapping):
        at = at.get("error", at)
    if isinstance(at, Mapping):
        at = at.get("message") or at.get("detail") or at
    return str(at) if at is not None else ""


def _text(message: object) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _usage(given: object) -> Usage:
    used: Mapping[str, Any] = given if isinstance(given, dict) else {}
    details = used.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(
        prompt=_count(used.get("prompt_tokens")),
        completion=_count(used.get("completion_tokens")),
        cached=_count(cached),
        cost_usd=_amount(used.get("cost")),
        requests=1,
    )


def _count(value: object) -> int:
    return int(_amount(value))


def _amount(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Also leaves out nan and infinity, which JSON as Python reads it may hold.
    return float(value) if is_number and 0 <= value < 10**12 else 0.0  # type: ignore[operator, arg-type]
