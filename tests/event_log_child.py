"""A process for the kill test: 20 tasks append, and journal what was acknowledged, until it is killed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from cluster.event_log import open_log
from cluster.store_settings import StoreSettings
from orchestrator.events import Kind, NewEvent


async def work(home: Path, journal: int, url: str) -> None:
    """Append for ever; one line per acknowledged event, written in one piece."""
    log = open_log(StoreSettings(url=url), home)
    os.write(1, b"ready\n")

    async def loop(number: int) -> None:
        run_id = f"r-{number}"
        while True:
            new = [
                NewEvent(run_id=run_id, type=Kind.RUN_STARTED, data={"blob": "x" * 2000}),
                NewEvent(run_id=run_id, type=Kind.STEP_PROGRESS, step="run", data={"pid": os.getpid()}),
            ]
            for event in await log.append(new):
                os.write(journal, f"{event.run_id} {event.seq} {event.hash}\n".encode())

    await asyncio.gather(*(loop(number) for number in range(20)))


if __name__ == "__main__":
    descriptor = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    asyncio.run(work(Path(sys.argv[1]), descriptor, "".join(sys.argv[3:])))
