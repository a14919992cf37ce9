"""What a step asks of engines, written down call by call as it happens, and what it may still cost.

Agents know nothing of it: whoever has a step done keeps a ledger around it, and every metered engine
finds that ledger by context.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import asdict, replace
from typing import Any

import structlog

from actors.engines.port import Engine, Measure, Message, Reply, Sampling
from actors.engines.shares import GpuShares, Share
from orchestrator.errors import BudgetSpent, RaysmithError
from orchestrator.steps import Allowance, EngineCall, Usage, conversation_hash

log = structlog.get_logger()

Report = Callable[[EngineCall], Awaitable[None]]


class Ledger:
    """The calls of one step, in the order in which they ended."""

    def __init__(
        self, *, allowance: Allowance | None = None, attempt: int = 0, report: Report | None = None
    ) -> None:
        self.attempt = attempt
        self.left = allowance or Allowance()
        self.calls: list[EngineCall] = []
        self._measures: dict[str, tuple[int, int | None]] = {}
        self._report = report
        self._telling: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[Ledger]:
        """Around the step; what was called is reported when it is left, in every case."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)
            if self._telling:
                await _in_every_case(asyncio.gather(*self._telling))

    def check(self) -> None:
        """Refuse a call that nothing is left for.

        Raises:
            BudgetSpent: Under the setting's name.
        """
        if name := self.left.spent:
            raise BudgetSpent(f"the run's budget.{name} is spent", f"raise budget.{name}, or set it to 0")

    def measured(self, messages: Sequence[Message], measure: Measure) -> None:
        """What an engine said of a conversation; the next call tells it."""
        if measure.prompt or measure.room is not None:
            self._measures[conversation_hash(pairs(messages))] = (measure.prompt, measure.room)

    def add(self, call: EngineCall) -> None:
        """One more call; it is reported while the step goes on."""
        call = replace(call, number=len(self.calls) + 1, measures=self._measures)
        self._measures = {}
        self.calls.append(call)
        self.left = self.left.after(call.usage)
        if self._report is not None:
            task = asyncio.create_task(self._told(call), name="report engine call")
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _told(self, call: EngineCall) -> None:
        assert self._report is not None
        try:
            await self._report(call)
        except RaysmithError as error:
            log.warning("engine_call_not_recorded", engine=call.engine, role=call.role, error=str(error))


_current: ContextVar[Ledger | None] = ContextVar("ledger", default=None)


def current() -> Ledger:
    """The ledger of the step that this code works for; one that nobody reads where none is kept."""
    return _current.get() or Ledger()


class Aborted(asyncio.CancelledError):
    """A cancellation that tells what the request had cost by then."""

    def __init__(self, usage: Usage) -> None:
        super().__init__()
        self.usage = usage


class MeteredEngine:
    """An engine whose every call goes into the step's ledger, whatever becomes of it."""

    def __init__(self, engine: Engine, *, provider: str = "", gpu_hour_usd: float = 0.0) -> None:
        self.inner = engine
        self._gpu_hour_usd = gpu_hour_usd
        # Of a server of one's own nobody tells the GPU time: it is taken for one GPU, shared by our requests.
        counts = engine.kind == "openai" and gpu_hour_usd > 0
        self._shares = GpuShares(1.0 if counts else 0.0, time.monotonic)
        self.kind = engine.kind
        self.name = engine.name
        self._provider = provider

    async def complete(
        self,
        role: str,
        messages: Sequence[Message],
        sampling: Sampling | None = None,
        *,
        why: str = "",
    ) -> Reply:
        """See `Engine.complete`.

        Raises:
            BudgetSpent: Nothing is left for it.
        """
        ledger = current()
        ledger.check()
        began = time.monotonic()
        ended: dict[str, Any] = {}
        try:
            with self._shares.running() as share:
                reply = await self.inner.complete(role, messages, sampling)
            reply = replace(reply, usage=self._priced(reply.usage, share))
            ended = {
                "usage": reply.usage,
                "replies": (reply.text, *reply.others),
                "finish_reason": reply.finish_reason,
            }
            return reply
        except asyncio.CancelledError as error:
            ended = {"error": "cancelled", "usage": self._priced(getattr(error, "usage", Usage()), share)}
            raise
        except RaysmithError as error:
            spent = getattr(error, "usage", Usage(retries=getattr(error, "retries", 0)))
            usage = self._priced(spent, share)
            ended = {
                "error": f"{error.code}: {error.message}",
                "next_move": error.next_move,
                "usage": usage,
            }
            raise
        finally:
            ledger.add(
                EngineCall(
                    engine=self.name,
                    kind=self.kind,
                    role=str(role),
                    provider=self._provider,
                    why=why,
                    messages=pairs(messages),
                    sampling=plain_sampling(sampling),
                    wall_s=time.monotonic() - began,
                    **ended,
                )
            )

    def _priced(self, usage: Usage, share: Share) -> Usage:
        gpu_s = usage.gpu_s + share.gpu_s
        return replace(usage, gpu_s=gpu_s, cost_usd=usage.cost_usd + gpu_s / 3600 * self._gpu_hour_usd)

    @property
    def continues(self) -> bool:
        """See `Engine.continues`."""
        return bool(getattr(self.inner, "continues", False))

    async def measure(self, messages: Sequence[Message]) -> Measure:
        """See `Engine.measure`."""
        measure = await self.inner.measure(messages)
        current().measured(messages, measure)
        return measure

    async def check_health(self) -> None:
        """See `Engine.check_health`."""
        await self.inner.check_health()

    async def close(self) -> None:
        """See `Engine.close`."""
        await self.inner.close()


def pairs(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    """The messages as pairs of role and text."""
    return tuple((each.role, each.content) for each in messages)


def plain_sampling(sampling: Sampling | None) -> dict[str, Any]:
    """What is asked for, as JSON values, without what is not."""
    asked = asdict(sampling or Sampling())
    structured = asked.pop("structured")
    plain = {name: value for name, value in asked.items() if value is not None and (name, value) != ("n", 1)}
    if structured is not None:
        plain["structured"] = {name: value for name, value in structured.items() if value is not None}
    return plain


async def _in_every_case(work: asyncio.Future[Any]) -> None:
    """Have `work` done also when this task is being cancelled; what was paid is not lost."""
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
