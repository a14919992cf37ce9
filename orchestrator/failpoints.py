"""Named places where a fault test can make a process fail. Unset, a point costs one comparison.

`RAYSMITH_FAILPOINT=name:action[:nth]`, several separated by commas; `nth` counts from 1 and
fires once, without it every passage fires. Actions: `raise` an `InjectedFault`, `sleep` for a
second (`sleep=0.2` for another time), `block` the whole process until SIGCONT, as a machine that
hangs would, `exit` the process as kill -9 would.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass


class InjectedFault(OSError):
    """What `raise` throws: the kind of error that a disk or a connection gives."""


@dataclass(slots=True)
class _Point:
    action: str
    nth: int | None
    hits: int = 0


POINTS = (
    "artifacts.before_rename",
    "event_log.before_append",
    "event_log.before_commit",
    "event_log.after_commit",
    "graph.node_begun",
    "graph.node_ended",
    "owner.after_lock",
    "step.granted",
    "step.dispatched",
    "step.answered",
)
"""Every point of the product; a test holds it to the code."""

_lock = threading.Lock()
_armed: dict[str, _Point] | None = None


def hit(name: str) -> None:
    """Pass the point `name`; nothing happens unless it is armed."""
    if _armed is not None:
        _fire(name)


def passages() -> dict[str, int]:
    """How often each armed point was passed since it was armed."""
    return {name: point.hits for name, point in (_armed or {}).items()}


def arm(spec: str) -> None:
    """Arm the points of `spec` in this process and disarm all others; "" disarms every one.

    Raises:
        ValueError: `spec` is not in the form above.
    """
    global _armed  # noqa: PLW0603  # a fault is a property of the process, as its environment is
    points = [_parse(word) for word in spec.split(",") if word.strip()]
    _armed = dict(points) or None


def _parse(word: str) -> tuple[str, _Point]:
    name, action, nth = (*word.strip().split(":"), "", "")[:3]
    verb, _, value = action.partition("=")
    known = verb in ("raise", "sleep", "block", "exit") and (not value or verb == "sleep")
    if not name or not known or (nth and not (nth.isdigit() and int(nth))) or word.count(":") > 2:
        raise ValueError(f"fail point {word!r} is not NAME:raise|sleep[=SECONDS]|block|exit[:NTH]")
    float(value or 0)
    return name, _Point(action=action, nth=int(nth) if nth else None)


def _fire(name: str) -> None:
    with _lock:
        point = (_armed or {}).get(name)
        if point is None:
            return
        point.hits += 1
        if point.nth is not None and point.hits != point.nth:
            return
    verb, _, value = point.action.partition("=")
    if verb == "exit":
        os._exit(137)
    if verb == "block":
        os.kill(os.getpid(), signal.SIGSTOP)
    if verb == "sleep":
        time.sleep(float(value or 1))
    if verb == "raise":
        raise InjectedFault(f"fail point {name}")


# Read here and not in serve/config.py: a fault has to reach every process, Ray's workers too.
arm(os.environ.get("RAYSMITH_FAILPOINT", ""))
