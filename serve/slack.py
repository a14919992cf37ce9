"""The Slack reporter: a thread for every run and every batch, fed by the event log.

It keeps nothing that matters; what was told and what was only intended are facts in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydantic import SecretStr

from cluster.event_log_reads import LogReads
from cluster.outbox import Effects
from orchestrator.errors import RaysmithError, StaleEpoch, StoreDamaged, StoreError, TaskError
from orchestrator.events import ASIDE, Event, Kind
from serve.slack_client import Misconfigured, NotSent, Refused, SlackChannel, Unsure
from serve.slack_settings import SlackSettings
from serve.slack_source import ThreadSource
from serve.slack_speaker import Speaker
from serve.slack_thread import Thread

log = structlog.get_logger()

REPORTER = "serve.slack:build_reporter"
POLL_S = 0.5
ADVANCE_EVERY_S = 5.0
LONGEST_PAUSE_S = 60.0
# Threads with something to tell at a time; beyond it the log waits, which costs no memory.
MOST_OPEN = 2000
# A thread that breaks the reporter this often is left alone.
MOST_FAILURES = 5
_READ = 500
_CHANGES_A_BATCH = frozenset({Kind.RUN_SUBMITTED, Kind.RUN_STARTED, Kind.RUN_RESUMED, Kind.RUN_FINISHED})


def build_reporter(
    config: Mapping[str, Any], *, log: LogReads, load: Callable[[str], bytes], effects: Effects
) -> SlackReporter:
    """The reporter of `config`, which is what `reporter_config` gave."""
    settings = SlackSettings(**{**config, "token": SecretStr(config["token"])})
    return SlackReporter(settings, log=log, load=load, effects=effects)


def reporter_config(settings: SlackSettings) -> dict[str, Any]:
    """`settings` as plain values that cross Ray. They hold the token when the environment gave it."""
    values = {name: getattr(settings, name) for name in SlackSettings.__slots__}
    return {**values, "token": settings.token.get_secret_value()}


def read_token(settings: SlackSettings) -> str:
    """The token, from its file when there is one.

    Raises:
        Misconfigured: The file cannot be read.
    """
    if not settings.token_file:
        return settings.token.get_secret_value()
    try:
        return Path(settings.token_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Misconfigured("token unreadable", f"mend `slack.token_file`: {reason}") from error


@dataclass(slots=True, kw_only=True)
class _Open:
    """A thread with something to tell, since `since` in the log and not before `due`."""

    since: int
    due: float = 0.0
    failures: int = 0
    changes_batch: bool = False


class SlackReporter:
    """Implements `cluster.outbox.Reporter`. One thread speaks at a time; while Slack is away, none.

    Invariant: every thread with something to tell is open, or lies behind the position read; the
    cursor stays before the first of both.
    """

    def __init__(
        self,
        settings: SlackSettings,
        *,
        log: LogReads,
        load: Callable[[str], bytes],
        effects: Effects,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._slack = SlackChannel(settings, lambda: read_token(settings))
        self._speaker = Speaker(settings, self._slack, effects, clock=clock)
        self._source = ThreadSource(log, load)
        self._log = log
        self._effects = effects
        self._clock = clock
        self._open: OrderedDict[tuple[str, str], _Open] = OrderedDict()
        self._position = self._cursor = 0
        self._advanced = 0.0
        self._is_checked = False
        self._trouble = ""
        self._failures = 0
        self._paused_until = 0.0
        self._hurry_until = 0.0
        self._wake = asyncio.Event()
        self._turned = asyncio.Condition()

    async def run(self) -> None:
        """Tell what happens, for ever.

        Raises:
            StaleEpoch: Another reporter took over.
        """
        self._position = self._cursor = await self._effects.cursor()
        while True:
            try:
                await self._step()
            except StaleEpoch:
                raise
            except (RaysmithError, OSError) as error:
                log.warning("slack_waits_for_store", error=str(error))
                await asyncio.sleep(4 * POLL_S)
            async with self._turned:
                self._turned.notify_all()

    async def flush(self, timeout_s: float) -> bool:
        """Whether everything was told within `timeout_s`; False at once while Slack is away."""
        self._hurry_until = self._clock() + timeout_s
        for each in self._open.values():
            each.due = 0.0
        end = await asyncio.to_thread(self._log.end)
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._turned:
                await self._turned.wait_for(lambda: self._is_paused or self._has_told(end))
        return self._has_told(end)

    def _has_told(self, end: int) -> bool:
        return not self._open and self._cursor >= end

    @property
    def _is_paused(self) -> bool:
        return self._clock() < self._paused_until

    @property
    def _is_hurried(self) -> bool:
        return self._clock() < self._hurry_until

    async def _step(self) -> None:
        """Read on, then let one thread speak, or rest."""
        await self._read()
        await self._advance()
        chosen = None if self._is_paused else self._next()
        if chosen is None or not await self._is_well():
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            return
        await self._turn(*chosen)

    async def _read(self) -> None:
        """Open the threads of what happened since; as many as there is room for."""
        while len(self._open) < MOST_OPEN:
            rows = await asyncio.to_thread(self._log.feed, self._position, _READ)
            for position, event in rows:
                self._take(position, event)
            if len(rows) < _READ:
                return

    def _take(self, position: int, event: Event) -> None:
        self._position = position
        if event.type in ASIDE:
            return
        opened = self._open.setdefault(("run", event.run_id), _Open(since=position))
        opened.changes_batch |= event.type in _CHANGES_A_BATCH

    async def _advance(self) -> None:
        """Keep in the log how far everything was told, now and then."""
        told_to = min((each.since - 1 for each in self._open.values()), default=self._position)
        now = self._clock()
        if told_to > self._cursor and (self._is_hurried or now - self._advanced > ADVANCE_EVERY_S):
            await self._effects.advance(told_to)
            self._cursor, self._advanced = told_to, now

    def _next(self) -> tuple[tuple[str, str], _Open] | None:
        now = self._clock()
        return next((item for item in self._open.items() if item[1].due <= now), None)

    async def _is_well(self) -> bool:
        """At first and after trouble, whether Slack answers and lets us look; no thread is tried before."""
        if self._is_checked and not self._trouble:
            return True
        with self._trouble_told():
            log.info("slack_answers", who=await self._slack.check())
            self._is_checked, self._trouble = True, ""
        return self._is_checked and not self._trouble

    async def _turn(self, which: tuple[str, str], each: _Open) -> None:
        """Let a thread say all that it has to say now; what fails stays open."""
        self._open.move_to_end(which)
        try:
            with self._trouble_told():
                thread = await self._thread(which, each)
                is_hurried = self._is_hurried
                wait_s = await self._speaker.speak(thread, is_hurried=is_hurried) if thread else 0.0
                self._failures = 0
                each.due = self._clock() + wait_s
                if wait_s <= 0:
                    del self._open[which]
        except (StaleEpoch, StoreError) as error:
            if not isinstance(error, StoreDamaged):
                raise
            self._broke(which, each)
        except Exception:
            self._broke(which, each)

    async def _thread(self, which: tuple[str, str], each: _Open) -> Thread | None:
        kind, name = which
        if kind == "batch":
            return await self._source.batch(name)
        found = await self._source.run(name)
        if found is None:
            return None
        thread, batch = found
        if batch and each.changes_batch:
            # From the same place on: the cursor waits for the batch too.
            self._open.setdefault(("batch", batch), _Open(since=each.since))
            each.changes_batch = False
        return thread

    def _broke(self, which: tuple[str, str], each: _Open) -> None:
        each.failures += 1
        each.due = self._clock() + 2.0**each.failures
        log.exception("slack_thread_broke", thread=which, failures=each.failures)
        if each.failures >= MOST_FAILURES:
            self._open.pop(which)

    @contextlib.contextmanager
    def _trouble_told(self) -> Any:
        """Leave Slack alone for longer and longer after trouble; one log line for the same trouble."""
        try:
            yield
        except Misconfigured as error:
            self._pause(str(error), self._settings.recheck_s, log.error)
        except (NotSent, Unsure, Refused) as error:
            self._failures += 1
            pause_s = min(LONGEST_PAUSE_S, 2.0 ** min(self._failures - 1, 10))
            self._pause(str(error), max(pause_s, getattr(error, "retry_after_s", 0.0)), log.warning)

    def _pause(self, reason: str, pause_s: float, tell: Callable[..., Any]) -> None:
        self._paused_until = self._clock() + pause_s
        if reason != self._trouble:
            tell("slack_is_away", reason=reason, pause_s=round(pause_s, 1))
        self._trouble = reason


async def look(settings: SlackSettings) -> str:
    """Who the token is and where it posts, for the doctor.

    Raises:
        TaskError: Slack refuses the token or the channel, or does not answer; with the way to mend it.
    """
    slack = SlackChannel(settings, lambda: read_token(settings))
    try:
        return await slack.check()
    except Misconfigured as error:
        raise TaskError(f"Slack refuses: {error.code}", error.fix) from error
    except (NotSent, Unsure, Refused) as error:
        raise TaskError(
            f"Slack does not answer: {error}", "mend the way there; what was not told is told later"
        ) from error
