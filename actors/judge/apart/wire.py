"""Plain values between the process with the tests and the process with the code: JSON, and nothing that acts.

A value is itself (None, bool, int, float, str) or `{tag: ...}`. Whatever is no plain value crosses as a
reference, `{"ref": number, ...}`, made by one side's `refer` and understood by the other's `resolve`.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import fractions
import json
import os
import uuid
from collections.abc import Callable
from typing import Any

MOST_BYTES = 16 << 20
_DEEPEST = 60
_SIMPLE = (bool, int, float, str)
_UTC = datetime.timezone.utc  # noqa: UP017 - a task's interpreter may be older
Inner = Callable[[Any], Any]
Write = Callable[[Any, Inner], Any]

# Per exact type: its tag, how a value is written and how it is read again.
_KINDS: dict[type, tuple[str, Write, Write]] = {
    dict: (
        "dict",
        lambda value, inner: [[inner(key), inner(item)] for key, item in value.items()],
        lambda body, inner: {inner(key): inner(item) for key, item in body},
    ),
    datetime.timedelta: (
        "timedelta",
        lambda value, _: [value.days, value.seconds, value.microseconds],
        lambda body, _: datetime.timedelta(*body),
    ),
}


def _sequence(kind: type) -> None:
    _KINDS[kind] = (
        kind.__name__,
        lambda value, inner: [inner(item) for item in value],
        lambda body, inner: kind(inner(item) for item in body),
    )


def _text(kind: type, write: Inner, read: Inner) -> None:
    _KINDS[kind] = (kind.__name__, lambda value, _: write(value), lambda body, _: read(body))


_sequence(list)
_sequence(tuple)
_sequence(set)
_sequence(frozenset)
_text(datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat)
_text(datetime.date, datetime.date.isoformat, datetime.date.fromisoformat)
_text(datetime.time, datetime.time.isoformat, datetime.time.fromisoformat)
_text(decimal.Decimal, str, decimal.Decimal)
_text(fractions.Fraction, str, fractions.Fraction)
_text(uuid.UUID, str, uuid.UUID)
_text(complex, str, complex)
_text(bytes, lambda value: base64.b64encode(value).decode(), base64.b64decode)
_text(
    bytearray, lambda value: base64.b64encode(value).decode(), lambda body: bytearray(base64.b64decode(body))
)
_READ = {tag: read for tag, _, read in _KINDS.values()}


class Broken(Exception):
    """What arrived is not what this module writes."""


def encode(value: Any, refer: Callable[[Any], dict[str, Any]], depth: int = 0) -> Any:
    """`value` as JSON values; exact types only, because a subclass may answer for itself."""
    kind = type(value)
    if value is None or kind in _SIMPLE:
        return value
    if kind not in _KINDS or depth > _DEEPEST or getattr(value, "tzinfo", None) not in (None, _UTC):
        return refer(value)
    tag, write, _ = _KINDS[kind]
    return {tag: write(value, lambda item: encode(item, refer, depth + 1))}


def decode(data: Any, resolve: Callable[[dict[str, Any]], Any]) -> Any:
    """The value that `encode` wrote.

    Raises:
        Broken: `data` is no such thing.
    """
    if data is None or type(data) in _SIMPLE:
        return data
    if type(data) is not dict or not data:
        raise Broken(f"a {type(data).__name__} in the place of a value")
    if "ref" in data:
        return resolve(data)
    tag, body = next(iter(data.items()))
    try:
        return _READ[tag](body, lambda item: decode(item, resolve))
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise Broken(f"{str(tag)[:40]!r} is not a value that crosses: {error}") from error


class Stream:
    """Frames on a stream socket: 4 bytes length, big-endian, then JSON."""

    def __init__(self, fd: int) -> None:
        # Bound now: what is loaded later may put anything in their place.
        self._fd, self._read, self._write = fd, os.read, os.write
        self._dumps, self._loads = json.JSONEncoder().encode, json.JSONDecoder().decode

    def send(self, message: dict[str, Any]) -> None:
        """Write one message.

        Raises:
            Broken: It is longer than a frame may be.
        """
        text = self._dumps(message).encode()
        if len(text) > MOST_BYTES:
            raise Broken(f"a message of {len(text)} bytes; {MOST_BYTES} may cross")
        data = len(text).to_bytes(4, "big") + text
        while data:
            data = data[self._write(self._fd, data) :]

    def receive(self) -> dict[str, Any]:
        """Wait for one message.

        Raises:
            EOFError: The other side is gone.
            Broken: It is no JSON object, or too long.
        """
        size = int.from_bytes(self._exactly(4), "big")
        if size > MOST_BYTES:
            raise Broken(f"a message of {size} bytes was announced")
        try:
            message = self._loads(self._exactly(size).decode())
        except (ValueError, RecursionError) as error:
            raise Broken("a message that is no JSON") from error
        if type(message) is not dict:
            raise Broken("a message that is no object")
        return message

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = self._read(self._fd, min(count, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
