"""One run's end of the event log: what it tells is committed in order, and folded into its state.

What somebody outside could see the effects of is told by `append` and waited for. What only the next
thing told has to stand behind is told by `append_soon`; it is written with whatever comes meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from orchestrator.errors import StoreError
from orchestrator.events import Event, NewEvent, RunState, apply
from orchestrator.ports import EventLog

Told = asyncio.Future[None]

# Long enough that the end of a step, of its node, and the next one's start are written as one.
SOON_S = 0.02


class RunLog:
    """Invariant: an event is in the log only behind all that was told before it, and `state` is the fold of
    all events up to its last.

    Args:
        state: What the run's events fold to.
        event_log: Where they are committed.
        seen: Called with every event as it is folded.
        on_news: Called after every commit.
    """

    def __init__(
        self,
        state: RunState,
        event_log: EventLog,
        *,
        seen: Callable[[Event], None],
        on_news: Callable[[], None],
    ) -> None:
        self.state = state
        self._event_log = event_log
        self._seen = seen
        self._on_news = on_news
        self._order = asyncio.Lock()
        self._unsaid: list[tuple[NewEvent, Told]] = []
        self._saying: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failure: Exception | None = None

    async def append(self, *events: NewEvent) -> None:
        """Commit `events`, and all that was told before, also for a caller that is cancelled meanwhile.

        Raises:
            StoreError: They, or something told before, could not be committed. Nothing more will be.
            ValueError: An event does not fit the log, or one that was told before did not.
        """
        waited_for = [self._tell(event) for event in events]
        self._say_now()
        for told in waited_for:
            await asyncio.shield(told)
        self._raise_failure()

    def append_soon(self, event: NewEvent) -> None:
        """Have `event` committed within a moment, and before anything that is told later.

        A failure is told to who appends next.
        """
        self._tell(event).add_done_callback(self._keep_failure)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SOON_S, self._say_now)

    async def settled(self) -> None:
        """Return when all that was told is committed and folded.

        Raises:
            StoreError: It could not be committed.
        """
        self._say_now()
        while self._saying is not None and not self._saying.done():
            await asyncio.shield(self._saying)
        self._raise_failure()

    async def catch_up(self) -> None:
        """Fold what was committed by others, or by an append that was cancelled."""
        async with self._order:
            self._fold(await self._read())

    def _tell(self, event: NewEvent) -> Told:
        told: Told = asyncio.get_running_loop().create_future()
        told.add_done_callback(_looked_at)
        self._unsaid.append((event, told))
        return told

    def _say_now(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if self._unsaid and (self._saying is None or self._saying.done()):
            self._saying = asyncio.create_task(self._say(), name="append events")

    async def _say(self) -> None:
        while self._unsaid:
            batch, self._unsaid = self._unsaid, []
            error = await self._committed(batch)
            if error is not None and not isinstance(error, StoreError) and len(batch) > 1:
                # One of them does not fit; the others do.
                for each in batch:
                    _answer([each], await self._committed([each]))
            else:
                _answer(batch, error)

    async def _committed(self, batch: Sequence[tuple[NewEvent, Told]]) -> Exception | None:
        if isinstance(self._failure, StoreError):
            return self._failure
        try:
            async with self._order:
                committed = await self._event_log.append([event for event, _ in batch])
                if committed[0].seq > self.state.last_seq + 1:
                    # Somebody else told of this run too: a person's decision, an effect.
                    committed = await self._read()
                self._fold(committed)
        except Exception as error:  # whatever it is, somebody waits for it
            if isinstance(error, StoreError):
                self._failure = error
            return error
        self._on_news()
        return None

    async def _read(self) -> Sequence[Event]:
        return await asyncio.to_thread(self._event_log.events, self.state.run_id, self.state.last_seq)

    def _fold(self, events: Sequence[Event]) -> None:
        for event in events:
            self.state = apply(self.state, event)
            self._seen(event)

    def _raise_failure(self) -> None:
        failure = self._failure
        if failure is not None and not isinstance(failure, StoreError):
            self._failure = None
        if failure is not None:
            raise failure

    def _keep_failure(self, told: Told) -> None:
        if not told.cancelled() and (error := told.exception()) is not None and self._failure is None:
            self._failure = error if isinstance(error, Exception) else None


def _answer(batch: Sequence[tuple[NewEvent, Told]], error: Exception | None) -> None:
    for _, told in batch:
        if not told.done():
            if error is None:
                told.set_result(None)
            else:
                told.set_exception(error)


def _looked_at(told: Told) -> None:
    """A failure that nobody waits for any more is nobody's."""
    if not told.cancelled():
        told.exception()
