"""Splits the time of GPUs among the requests that an engine works on at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Share:
    """GPU seconds of one request, known when it has ended."""

    gpu_s: float = 0.0


class GpuShares:
    """Processor sharing: at any moment every running request bears an equal part of all GPUs.

    So the shares of all requests add up to the time in which there was one, times the GPUs.
    """

    def __init__(self, gpus: float, clock: Callable[[], float]) -> None:
        self._gpus = gpus
        self._clock = clock
        self._running = 0
        self._at = clock()
        self._each_s = 0.0

    @contextmanager
    def running(self) -> Iterator[Share]:
        """Around one request."""
        share = Share()
        self._advance()
        began = self._each_s
        self._running += 1
        try:
            yield share
        finally:
            self._advance()
            self._running -= 1
            share.gpu_s = self._each_s - began

    def _advance(self) -> None:
        now = self._clock()
        if self._running:
            self._each_s += (now - self._at) * self._gpus / self._running
        self._at = now
