"""Lives of one run, each in a process of its own that may be made to die: forks of one that has imported all.

A line of JSON in, `{"home", "journal", "key", "store", "failpoint"}`; a line out, how the process ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
LIMIT_S = 60.0
EFFECT = "teller"


class Lives:
    """Starts lives and tells how each ended."""

    def __init__(self) -> None:
        self._forks = subprocess.Popen(
            [sys.executable, str(TESTS / "graph_child.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        )

    def live(self, **job: Any) -> dict[str, Any]:
        """One life: `{"exit", "passed", "blocked"}`; `exit` is 137 for one that was killed at its point."""
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.write(json.dumps(job) + "\n")
        self._forks.stdin.flush()
        told: dict[str, Any] = json.loads(self._forks.stdout.readline())
        return told

    def close(self) -> None:
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.close()
        self._forks.wait(LIMIT_S)
        self._forks.stdout.close()


async def _life(job: Mapping[str, Any]) -> None:
    from graph_suite import TASK, TREE, Journal, JournaledFleet

    from cluster.artifacts import ArtifactStore
    from cluster.event_log import open_log
    from cluster.orchestrator import Orchestrator
    from cluster.orchestrator_settings import OrchestratorSettings
    from cluster.store_settings import StoreSettings

    home, journal = Path(job["home"]), Journal(Path(job["journal"]))
    settings = StoreSettings(url=job["store"]) if job["store"] else StoreSettings()
    log = await asyncio.to_thread(open_log, settings, home)
    orchestrator = Orchestrator(
        event_log=log,
        artifacts=ArtifactStore(str(home / "artifacts" / job["key"])),
        fleet=JournaledFleet(journal),
        settings=OrchestratorSettings(),
        life="life",
    )
    run_id = await orchestrator.submit(TASK, TREE, key=job["key"])
    await orchestrator.resume_life(["life"])
    telling = asyncio.create_task(_tell(log, journal, run_id))
    await _to_its_end(orchestrator, run_id)
    await telling
    await asyncio.to_thread(log.close)


async def _to_its_end(orchestrator: Any, run_id: str) -> None:
    """Be the people of the run: answer what it asks, and take up what a fault ended."""
    from orchestrator.errors import StoreError, TaskError
    from orchestrator.events import Status

    while True:
        state = await orchestrator.state(run_id)
        if state.status is Status.SUCCEEDED:
            return
        if state.status is Status.FAILED:
            await orchestrator.resume([run_id])
        for gate, asked in state.approvals.items():
            if asked.approved is None:
                with contextlib.suppress(TaskError, StoreError):
                    await orchestrator.decide(run_id, gate, approved=True, by=gate, why="seen")
        await asyncio.sleep(0.03)


async def _tell(log: Any, journal: Any, run_id: str) -> None:
    """Tell the outside of every node's end, once: intent, effect, outcome; the outside can be asked."""
    from cluster.outbox import Outbox
    from orchestrator import failpoints
    from orchestrator.errors import StoreError
    from orchestrator.events import Kind, Status

    outbox = Outbox(log, effect=EFFECT, term="term")
    while True:
        state = await asyncio.to_thread(log.state, run_id)
        events = await asyncio.to_thread(log.events, run_id)
        keys = [f"{run_id}:{each.step}" for each in events if each.type is Kind.NODE_ENDED]
        due = [key for key in keys if key not in state.effects or state.effects[key].outcome is None]
        if state.status is Status.SUCCEEDED and not due:
            return
        for key in due:
            with contextlib.suppress(StoreError, OSError):
                await outbox.record("term", run_id, key, None, {})
                if ["effect", key] not in journal.lines():
                    journal.add("effect", key)
                failpoints.hit("teller.effect_done")
                await outbox.record("term", run_id, key, "told", {})
        await asyncio.sleep(0.03)


def _ended(pid: int, told: int) -> dict[str, Any]:
    """How the child ended; one that stands still is killed as it stands, one that hangs too."""
    give_up = time.monotonic() + LIMIT_S
    blocked = hangs = False
    while True:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if found and os.WIFSTOPPED(status):
            blocked = True
            os.kill(pid, signal.SIGKILL)
        elif found:
            break
        elif time.monotonic() > give_up and not hangs:
            hangs = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    passed = os.read(told, 65536).decode() or "{}"
    os.close(told)
    code = -9 if hangs else 137 if blocked else os.waitstatus_to_exitcode(status)
    return {"exit": code, "blocked": blocked, "passed": json.loads(passed)}


def _be(job: Mapping[str, Any], tell: int) -> None:
    from orchestrator import failpoints

    failpoints.arm(job["failpoint"])
    asyncio.run(_life(job))
    os.write(tell, json.dumps(failpoints.passages()).encode())


def main() -> None:
    import graph_suite  # noqa: F401  # what every life needs is there before it begins
    import structlog

    import cluster.event_log_postgres
    import cluster.orchestrator  # noqa: F401

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    for line in sys.stdin:
        job = json.loads(line)
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(told)
            code = 1
            try:
                _be(job, tell)
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(tell)
        sys.stdout.write(json.dumps(_ended(pid, told)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
