"""The processes below this one, so that none of them outlives a cluster that was started here.

Ray's agents are children of the raylet; when that ends first they look for it for a minute more.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path


def below(pid: int, *, depth: int = -1) -> dict[int, str]:
    """The living descendants of `pid`, `depth` generations of them (-1: all), each with its start time.

    The start time tells a process from a later one of its number. Empty where there is no /proc.
    """
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = entry.read_text().rpartition(")")[2].split()
            parents[int(entry.parent.name)] = (int(fields[1]), fields[19])
    found: dict[int, str] = {}
    generation = {pid}
    while generation and depth != 0:
        depth -= 1
        generation = {child for child, (parent, _) in parents.items() if parent in generation}
        found.update({child: parents[child][1] for child in generation})
    return found


def end(family: Mapping[int, str]) -> None:
    """Kill those of `family` that still live."""
    for pid, started in family.items():
        with contextlib.suppress(OSError, IndexError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19] == started:
                os.kill(pid, signal.SIGKILL)
