"""Whether a port is to be had."""

from __future__ import annotations

import socket

from orchestrator.errors import MachineError


def check_free(host: str, port: int) -> None:
    """Return when `port` can be bound.

    Raises:
        MachineError: It cannot; Serve itself would try for ever.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as door:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(address)
    except OSError as error:
        raise MachineError(
            f"{host} port {port} cannot be bound: {error.strerror}", "give another --port or --host"
        ) from error
