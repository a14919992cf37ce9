"""Where a replica tells what its agents did: progress, and calls of engines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from cluster.answered import answered
from orchestrator.errors import ReplicaLost, StaleEpoch
from orchestrator.steps import EngineCall, Improvement, Turn

# How long progress waits for an orchestrator that is coming back.
REPORTER_PATIENCE_S = 60.0


class RayProgress:
    """Implements `orchestrator.ports.Progress` through an actor's `report_progress`."""

    def __init__(self, reporter: Any, dispatch_id: str, epoch: int) -> None:
        self._reporter = reporter
        self._dispatch_id = dispatch_id
        self._epoch = epoch

    async def __call__(self, news: Improvement | Turn) -> None:
        """Report; waits while the reporter restarts and takes its runs up again.

        Raises:
            StaleEpoch: The step is no longer wanted.
            ReplicaLost: The reporter did not come back.
        """
        if self._reporter is not None:
            await _reported(
                lambda: self._reporter.report_progress.remote(self._dispatch_id, self._epoch, news)
            )


class RayCalls:
    """Where a replica tells of its engine calls, through an actor's `report_call`."""

    def __init__(self, reporter: Any, dispatch_id: str, epoch: int) -> None:
        self._reporter = reporter
        self._dispatch_id = dispatch_id
        self._epoch = epoch

    async def __call__(self, call: EngineCall) -> None:
        """Report, as `RayProgress` does."""
        if self._reporter is not None:
            await _reported(lambda: self._reporter.report_call.remote(self._dispatch_id, self._epoch, call))


async def _reported(report: Callable[[], Any]) -> None:
    """Have `report` answered; waits while the reporter restarts and takes its runs up again.

    Raises:
        StaleEpoch: The step is no longer wanted.
        ReplicaLost: The reporter did not come back.
    """
    deadline = time.monotonic() + REPORTER_PATIENCE_S
    was_away = False
    while True:
        try:
            return await answered(report())  # type: ignore[no-any-return]
        except (ReplicaLost, StaleEpoch) as error:
            # A reporter that comes back does not know its runs yet.
            was_away = was_away or isinstance(error, ReplicaLost)
            if not was_away or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.5)
