"""Says what a thread has to say: each message once, whatever crashes between the log and Slack."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

import structlog

from cluster.outbox import Effects
from orchestrator.events import EffectState
from serve.slack_client import Misconfigured, NotSent, Refused, SlackChannel
from serve.slack_settings import SlackSettings
from serve.slack_text import cut
from serve.slack_thread import EDIT, FOUND, REFUSED, REPLY, ROOT, SENT, Thread, key_of, what_of

log = structlog.get_logger()

BURST = 5
MOST_REMEMBERED = 2000
# An intent older than this is told anew before its effect, so that it says about when to look for it.
FRESH_S = 30.0
SOON_S = 0.01


class Speaker:
    """Posts, edits and looks up for one thread at a time.

    Before a post there is an intent in the log, after it an outcome. An intent without one is looked up
    in the channel first, unless this process knows that Slack was never asked.
    """

    def __init__(
        self,
        settings: SlackSettings,
        slack: SlackChannel,
        effects: Effects,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._slack = slack
        self._effects = effects
        self._clock = clock
        self._now = now
        # When a thread was last written to, and what its root shows.
        self._written: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._unsent: set[str] = set()
        self._allowance, self._allowed_at = float(BURST), clock()

    async def speak(self, thread: Thread, *, is_hurried: bool = False) -> float:
        """Say what there is to say; seconds until the thread has to be looked at again, 0 for done.

        Raises:
            NotSent, Unsure, Misconfigured: Slack is away or refuses all; the thread has to be tried again.
        """
        if thread.told.is_refused:
            return 0.0
        written_at, shown = self._written.get(thread.name, (0.0, ""))
        wait_s = written_at + self._settings.edit_every_s - self._clock() if written_at else 0.0
        if wait_s > 0 and not is_hurried:
            return wait_s
        if thread.told.unsettled is not None:
            return await self._settle(thread, thread.told.unsettled)
        if thread.told.root is None:
            await self._post(thread, ROOT, thread.final, thread.root_text)
            return SOON_S
        lines = thread.untold()
        is_stale = thread.told.shown != thread.final if thread.final else thread.root_text != shown
        if lines:
            await self._post(thread, REPLY, thread.upto, cut(lines))
        if is_stale:
            await self._edit(thread, thread.told.root)
        if lines or is_stale:
            self._remember(thread, self._clock())
        return 0.0

    def _remember(self, thread: Thread, at: float) -> None:
        self._written[thread.name] = (at, thread.root_text)
        self._written.move_to_end(thread.name)
        while len(self._written) > MOST_REMEMBERED:
            self._written.popitem(last=False)

    async def _post(self, thread: Thread, what: str, upto: str, text: str, attempt: int = 1) -> None:
        """Post, between the intent and the outcome in the log."""
        key = key_of(thread.name, what, upto if what == REPLY else "")
        root = thread.told.root if what == REPLY else None
        data = {"channel": root[0] if root else self._slack.channel, "upto": upto}
        await self._pace()
        await self._effects.intend(thread.home, key, {**data, "try": attempt})
        self._unsent.discard(key)
        try:
            channel, ts = await self._slack.post(text, key=key, thread=root)
        except (NotSent, Misconfigured):
            self._unsent.add(key)
            raise
        except Refused as error:
            await self._refuse(thread, key, upto, error)
            return
        await self._effects.settle(thread.home, key, SENT, {"channel": channel, "ts": ts, "upto": upto})
        if what == ROOT:
            self._remember(thread, 0.0)

    async def _settle(self, thread: Thread, effect: EffectState) -> float:
        """Find out about an effect that may have happened; do it again only when it has not."""
        intended_at = datetime.fromisoformat(effect.intended_at).timestamp()
        what = what_of(effect.key, thread.name) or ROOT
        if effect.key not in self._unsent:
            # What was on its way when its sender died may still arrive.
            wait_s = intended_at + 1.5 * self._settings.timeout_s - self._now()
            if wait_s > 0:
                return wait_s
            if await self._is_there(thread, effect, what, intended_at):
                return SOON_S
        attempt = int(effect.data.get("try", 1))
        if effect.key not in self._unsent or self._now() - intended_at > FRESH_S:
            attempt += 1
        if what == REPLY:
            upto = str(effect.data.get("upto", ""))
            await self._post(thread, REPLY, upto, cut(thread.untold(upto)), attempt)
        else:
            await self._post(thread, ROOT, thread.final, thread.root_text, attempt)
        return SOON_S

    async def _is_there(self, thread: Thread, effect: EffectState, what: str, intended_at: float) -> bool:
        """Whether the effect happened, or never will; then that is in the log."""
        upto = str(effect.data.get("upto", ""))
        channel = str(effect.data.get("channel", ""))
        root = thread.told.root if what == REPLY else None
        await self._pace()
        try:
            found = await self._slack.find(effect.key, intended_at, channel=channel, thread=root)
        except Refused as error:
            await self._refuse(thread, effect.key, upto, error)
            return True
        if found is None:
            return False
        data = {"channel": found[0], "ts": found[1], "upto": upto}
        await self._effects.settle(thread.home, effect.key, FOUND, data)
        return True

    async def _edit(self, thread: Thread, root: tuple[str, str]) -> None:
        """Make the root show how things stand. An edit can be repeated, so only the last one is a fact."""
        key = key_of(thread.name, EDIT, thread.final)
        await self._pace()
        try:
            await self._slack.edit(root, thread.root_text, key=key_of(thread.name, ROOT))
        except Refused as error:
            if thread.final:
                await self._refuse(thread, key, thread.final, error)
            return
        if thread.final:
            data = {"channel": root[0], "ts": root[1], "upto": thread.final}
            await self._effects.settle(thread.home, key, SENT, data)

    async def _refuse(self, thread: Thread, key: str, upto: str, error: Refused) -> None:
        log.warning("slack_message_refused", key=key, code=error.code)
        await self._effects.settle(thread.home, key, REFUSED, {"upto": upto, "code": error.code})

    async def _pace(self) -> None:
        """A message per `pace_s`, a few at once when it was quiet before."""
        pace_s = self._settings.pace_s
        if pace_s <= 0:
            return
        now = self._clock()
        self._allowance = min(float(BURST), self._allowance + (now - self._allowed_at) / pace_s) - 1.0
        self._allowed_at = now
        if self._allowance < 0:
            await asyncio.sleep(-self._allowance * pace_s)
