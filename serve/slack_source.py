"""Threads as the event log and the artifacts have them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from cluster.event_log_projection import RunSummary
from cluster.event_log_reads import LogReads
from orchestrator.errors import StoreError
from orchestrator.events import ASIDE, RunState, fold
from serve import slack_text
from serve.slack_text import DiffSize
from serve.slack_thread import Thread, batch_thread, mark, run_thread, told

log = structlog.get_logger()

_LONGEST_DIFF = 4 * 2**20


class ThreadSource:
    """Reads what a thread has to say, anew each time: nothing of a run is kept in memory."""

    def __init__(self, log: LogReads, load: Callable[[str], bytes]) -> None:
        self._log = log
        self._load = load

    async def run(self, run_id: str) -> tuple[Thread, str | None] | None:
        """A run's thread and the batch that it belongs to; None for a run that is not there."""
        events = await asyncio.to_thread(self._log.events, run_id)
        if not events:
            return None
        state = fold(events)
        diff = await self._diff(state)
        last = max(event.seq for event in events if event.type not in ASIDE)
        name = run_thread(run_id)
        thread = Thread(
            name=name,
            home=run_id,
            told=told(state.effects, name),
            root_text=slack_text.run_root(state, diff),
            lines=[(mark(seq), line) for seq, line in slack_text.run_lines(events, diff)],
            final=mark(last) if state.status.is_finished else "",
        )
        batch = _inputs(state).get("batch")
        return thread, batch if isinstance(batch, str) and batch else None

    async def batch(self, batch_id: str) -> Thread | None:
        """A batch's thread; None when no run belongs to it."""
        runs = await asyncio.to_thread(self._log.batch, batch_id)
        if not runs:
            return None
        home = await asyncio.to_thread(self._log.state, runs[0].run_id)
        size = _inputs(home).get("batch_size")
        size = size if type(size) is int else 0
        ended = sorted((run for run in runs if run.status.is_finished), key=_ended_at)
        is_over = len(ended) >= max(size, len(runs))
        name = batch_thread(home.run_id)
        return Thread(
            name=name,
            home=home.run_id,
            told=told(home.effects, name),
            root_text=slack_text.batch_root(batch_id, runs, size),
            lines=[(_ended_at(run), slack_text.batch_line(run)) for run in ended],
            final=_ended_at(ended[-1]) if is_over else "",
        )

    async def _diff(self, state: RunState) -> DiffSize | None:
        digest = state.report.get("diff")
        if not isinstance(digest, str):
            return None
        try:
            content = await asyncio.to_thread(self._load, digest)
        except StoreError as error:
            log.warning("slack_diff_unreadable", run=state.run_id, error=str(error))
            return None
        return slack_text.diff_size(content[:_LONGEST_DIFF])


def _inputs(state: RunState) -> dict[str, Any]:
    inputs = state.task.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _ended_at(run: RunSummary) -> str:
    return run.finished_at or ""
