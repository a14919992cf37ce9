"""Leaves alone for a while who failed too often in a row."""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Closed while all is well; open for `rest_s` after `failures` failures in a row.

    When the rest is over one request may try; the others wait for what becomes of it.
    """

    def __init__(self, failures: int, rest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures = failures
        self._rest_s = rest_s
        self._clock = clock
        self._row = 0
        self._until: float | None = None

    @property
    def resting_s(self) -> float:
        """Seconds to be left alone still, 0 when it may be asked."""
        return 0.0 if self._until is None else max(0.0, self._until - self._clock())

    def enter(self) -> float:
        """Ask to go through: 0 for yes, else the seconds to wait."""
        left = self.resting_s
        if not left and self._until is not None:
            # Whoever asks next finds it resting until this one has been heard of.
            self._until = self._clock() + self._rest_s
        return left

    def succeeded(self) -> None:
        """It answered."""
        self._row, self._until = 0, None

    def failed(self) -> None:
        """It did not."""
        self._row += 1
        if self._failures and self._row >= self._failures:
            self._until = self._clock() + self._rest_s
