"""The steps of one run as tasks of their own: a pause ends the graph, and what has begun comes to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class HeldBack(Exception):
    """A step was lent a replica after the run had been paused; the lease goes back."""


class StepTasks:
    """Whoever waits for a step may be stopped without the step being stopped.

    Invariant: when `ended` returns during a pause, no step is at work; after `stop`, none ever.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._begun: set[str] = set()
        self._at_once = False
        self._pausing = asyncio.Event()
        self._news = asyncio.Event()

    def pause(self, *, at_once: bool) -> None:
        """Let no further step begin; with `at_once` nobody waits for those that have."""
        self._at_once = self._at_once or at_once
        self._pausing.set()
        self._news.set()

    def call_off(self) -> None:
        """The pause is over before it came."""
        self._at_once = False
        self._pausing.clear()
        self._news.set()

    async def pausing(self) -> None:
        """Return when the run is to pause."""
        await self._pausing.wait()

    async def done(self, name: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """What the step `name` gives, of the task that is at it already or of a new one that does `work`.

        Cancelled, it stops the step too, unless that has begun and the run is to pause.
        """
        task = self._tasks.get(name)
        if task is None:
            task = self._tasks[name] = asyncio.create_task(work(), name=name)
            task.add_done_callback(lambda _: self._forget(name))
        try:
            return await asyncio.shield(task)
        except HeldBack:
            # Whoever holds steps back ends the graph that asks for them.
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not (self._pausing.is_set() and name in self._begun):
                await _stopped([task])
            raise

    def begin(self, name: str) -> None:
        """The step is about to begin on a replica.

        Raises:
            HeldBack: The run is to pause.
        """
        if self._pausing.is_set():
            raise HeldBack(name)
        self._begun.add(name)

    def requeued(self, name: str) -> None:
        """Its replica was lost: it has to begin again."""
        self._begun.discard(name)

    async def ended(self) -> None:
        """Return when no step is at work, or nobody waits for that any more."""
        while self._tasks and self._pausing.is_set() and not self._at_once:
            self._news.clear()
            news = asyncio.create_task(self._news.wait())
            try:
                await asyncio.wait([*self._tasks.values(), news], return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
            await asyncio.sleep(0)  # for what is done when a task ends

    async def stop(self) -> None:
        """Stop every step."""
        await _stopped(list(self._tasks.values()))

    def _forget(self, name: str) -> None:
        self._begun.discard(name)
        task = self._tasks.pop(name)
        if not task.cancelled():
            task.exception()  # told to whoever still waits


async def _stopped(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
