"""Memory shared with a forked child: what it is at, and its results so far. It may be scribbled over."""

from __future__ import annotations

import json
import mmap
import struct
import time
from typing import Any

_SIZE = 1 << 20
#: The number of what the child is at, its CPU and wall clock at that start, and the bytes of results.
_HEAD = struct.Struct("<qddq")


class Slate:
    """Filled by one child at a time, without waking its parent for every result."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)
        self._length = 0

    def clear(self) -> None:
        """Make it ready for another child."""
        self._length = 0
        _HEAD.pack_into(self._memory, 0, 0, 0.0, time.monotonic(), 0)

    def begin(self, number: int) -> None:
        """Note that the child starts with its `number`th piece of work."""
        _HEAD.pack_into(self._memory, 0, number, time.process_time(), time.monotonic(), self._length)

    def add(self, result: Any) -> None:
        """Note the result of what was begun last."""
        data = json.dumps(result, separators=(",", ":")).encode() + b"\n"
        at = _HEAD.size + self._length
        self._memory[at : at + len(data)] = data
        self._length += len(data)
        struct.pack_into("<q", self._memory, _HEAD.size - 8, self._length)

    def started(self) -> tuple[int, float, float]:
        """The number begun last, and the child's CPU and wall clock at that time."""
        number, cpu_s, wall_s, _ = _HEAD.unpack_from(self._memory)
        return number, cpu_s, wall_s

    def results(self) -> list[Any]:
        """Every result so far, in order; none where they are not ours."""
        length = _HEAD.unpack_from(self._memory)[3]
        if not 0 <= length <= _SIZE - _HEAD.size:
            return []
        try:
            return [json.loads(line) for line in self._memory[_HEAD.size : _HEAD.size + length].splitlines()]
        except ValueError:
            return []
