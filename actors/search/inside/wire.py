"""Frames on a stream: four bytes of length, big-endian, then UTF-8 JSON. It interprets nothing."""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

MAX_FRAME = 64 * 1024 * 1024


def pack(value: Any) -> bytes:
    """`value` as one frame."""
    data = json.dumps(value, separators=(",", ":")).encode()
    return struct.pack(">I", len(data)) + data


def send(channel: socket.socket, value: Any) -> None:
    """Write one frame to `channel`."""
    channel.sendall(pack(value))


def receive(channel: socket.socket) -> Any:
    """The next frame of `channel`, None at its end.

    Raises:
        ValueError: The stream holds something else than frames.
        TimeoutError: The channel's own time-out passed.
    """
    head = _exactly(channel, 4)
    if head is None:
        return None
    (size,) = struct.unpack(">I", head)
    if size > MAX_FRAME:
        raise ValueError(f"a frame of {size} bytes; at most {MAX_FRAME} are taken")
    data = _exactly(channel, size)
    return None if data is None else json.loads(data)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to a pipe."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    parts: list[bytes] = []
    while size:
        part = channel.recv(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
