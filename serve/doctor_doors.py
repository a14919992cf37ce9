"""What the doctor says of the ways in and out: the cluster, the fleet, the HTTP door, the metrics."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from orchestrator.errors import MachineError
from serve.config import Loaded, api_keys
from serve.ports import check_free

Found = tuple[bool | None, str, str]
# Where Ray's own processes on the head serve their numbers.
_RAY_METRICS_PORTS = (44217, 44227)
_CONNECT_S = 3.0


def cluster(_loaded: Loaded) -> Found:
    """Whether the cluster that RAY_ADDRESS names can be reached."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local", "auto"):
        return True, "RAY_ADDRESS names none: commands join `raysmith up` or start their own", ""
    place = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        port = place.port or 6379
        socket.create_connection((place.hostname or "", port), timeout=_CONNECT_S).close()
    except (OSError, ValueError) as error:
        return False, f"nothing answers at {address} ({error})", "check RAY_ADDRESS, or unset it"
    mode = os.environ.get("RAY_AUTH_MODE", "disabled")
    return True, f"{address} answers; RAY_AUTH_MODE {mode}", ""


def fleet(loaded: Loaded, gpus: Callable[[], int]) -> Found:
    """What the fleet asks of its nodes, and whether this machine alone could give it."""
    groups = loaded.config.fleet
    told = ", ".join(f"{group.name} {group.min_replicas}..{group.max_replicas}" for group in groups)
    least = sum(group.num_gpus * max(1, group.min_replicas) for group in groups)
    if least and not os.environ.get("RAY_ADDRESS") and gpus() < least:
        fix = "set RAY_ADDRESS to the cluster that has them, or use configs/laptop.yaml here"
        return None, f"{told}; {least:g} GPUs at least, this machine has {gpus()}", fix
    return True, told, ""


def http(loaded: Loaded) -> Found:
    """Whether `raysmith serve` could open its door, and to whom."""
    from serve.auth import Keyring
    from serve.routes.site import LOOPBACK

    settings = loaded.config.http
    try:
        check_free(settings.host, settings.port)
    except MachineError as error:
        return None, f"{error.message}; perhaps by `raysmith serve` itself", error.next_move
    place = f"{settings.host} port {settings.port} is free"
    if settings.host in LOOPBACK:
        return True, f"{place}; no key needed on loopback", ""
    if Keyring(loaded.home, api_keys()).is_empty:
        return None, f"{place}; no key exists, so nobody gets in", "raysmith keys create NAME"
    return True, f"{place}; callers need a key", ""


def metrics(_loaded: Loaded) -> Found:
    """How Prometheus gets the factory's numbers."""
    taken = [port for port in _RAY_METRICS_PORTS if not _is_free("127.0.0.1", port)]
    told = "served by every Ray node while the dashboard runs; see configs/prometheus"
    if taken:
        ports = " and ".join(map(str, taken))
        fix = "another cluster has them; only Ray's own head numbers go missing, Raysmith's do not"
        return None, f"{told}; port {ports} taken", fix
    return True, told, ""


def _is_free(host: str, port: int) -> bool:
    try:
        check_free(host, port)
    except MachineError:
        return False
    return True
