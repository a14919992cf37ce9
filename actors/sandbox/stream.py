"""Exactly so many bytes from a stream socket, in time."""

from __future__ import annotations

import select
import socket
import time

from orchestrator.errors import SandboxTimeout

_PART = 1 << 20


def receive(stream: socket.socket, count: int, timeout_s: float) -> bytes:
    """`count` bytes of `stream`; blocks.

    Raises:
        SandboxTimeout: They did not arrive in time.
        OSError: The other end is gone.
    """
    deadline, data = time.monotonic() + timeout_s, bytearray()
    while len(data) < count:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            raise SandboxTimeout("a call into the sandbox", timeout_s)
        part = stream.recv(min(count - len(data), _PART))
        if not part:
            raise ConnectionResetError("the other end is closed")
        data += part
    return bytes(data)
