"""What an orchestrator can be asked of its runs; all of it is read from the log and the artifacts."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cluster.artifacts import ArtifactStore
from cluster.event_log import EventLog, RunSummary
from cluster.event_log_usage import By, Spent
from cluster.export import export_bytes
from orchestrator.events import Event, RunState, Status
from orchestrator.report import changes_from, diff_text, result


class RunReads:
    """Reads, and news of runs for those who wait for some."""

    def __init__(self, event_log: EventLog, artifacts: ArtifactStore) -> None:
        self._log = event_log
        self._artifacts = artifacts
        self._news: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def state(self, run_id: str) -> RunState:
        """The run's state; `run_id` may be a unique prefix."""
        return await self._state(await asyncio.to_thread(self._log.find_run, run_id))

    async def events(self, run_id: str, after_seq: int = 0, wait_s: float = 0.0) -> Sequence[Event]:
        """The run's events after `after_seq`; waits up to `wait_s` for the first of them."""
        news = self._news[run_id]
        events = await asyncio.to_thread(self._log.events, run_id, after_seq)
        if not events and wait_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), wait_s)
            events = await asyncio.to_thread(self._log.events, run_id, after_seq)
        return events

    async def runs(
        self,
        status: Collection[Status] | None = None,
        limit: int = 100,
        offset: int = 0,
        tenant: str | None = None,
    ) -> tuple[list[RunSummary], int]:
        """A page of runs, the newest first, and how many there are in all."""
        page = await asyncio.to_thread(
            self._log.runs, status=status, tenant=tenant, limit=limit, offset=offset
        )
        return page, await asyncio.to_thread(self._log.count, status=status, tenant=tenant)

    async def usage(self, by: By, tenant: str | None, since: str) -> list[Spent]:
        """What engines cost, see `LogReads.usage`."""
        return await asyncio.to_thread(self._log.usage, by, tenant=tenant, since=since)

    async def diff(self, run_id: str) -> bytes:
        """The run's patch as the bytes of a `.diff` file, or the best so far; empty when there is none."""
        state = await self.state(run_id)
        if digest := state.report.get("diff"):
            return await self.artifact(digest)
        if state.best_patch is None:
            return b""
        changes = changes_from(await self.artifact(state.best_patch))
        return diff_text(await asyncio.to_thread(self._artifacts.load_tree, state.task["tree"]), changes)

    async def result(self, run_id: str) -> dict[str, Any]:
        """The run's result in the words of every output."""
        state = await self.state(run_id)
        return await asyncio.to_thread(result, state, self._artifacts.get)

    async def export(self, run_id: str, secrets: Mapping[str, str]) -> bytes:
        """Everything of a run as one file, see `cluster.export.write_export`."""
        events = await asyncio.to_thread(self._log.events, run_id)
        return await asyncio.to_thread(export_bytes, events, self._artifacts, secrets)

    async def artifact(self, digest: str) -> bytes:
        """The bytes behind `digest`."""
        return await asyncio.to_thread(self._artifacts.get, digest)

    async def _state(self, run_id: str) -> RunState:
        return await asyncio.to_thread(self._log.state, run_id)

    def _announce(self, run_id: str) -> None:
        self._news.pop(run_id, asyncio.Event()).set()
