"""A step done again by its agents, which ask the recording in place of models and sandboxes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actors.engines.replayed import ReplayedEngine
from actors.formats import ReplySettings
from actors.model_repairer import ModelRepairer
from actors.planner import Planner
from actors.portfolio import MODEL, SEARCH, SHELL, RepairSettings, together
from actors.replay.sandbox import OnTest, ReplayedRunners
from actors.reviewer import Reviewer
from actors.shell.coder import ShellCoder
from actors.shell.repairer import ShellRepairer
from actors.shell.settings import ShellSettings
from actors.shell.work import AGENT
from actors.tester import Tester
from orchestrator.codec import from_json
from orchestrator.errors import RaysmithError
from orchestrator.recording import Differs, RecordedStep, Recording
from orchestrator.report import error_from_json
from orchestrator.steps import (
    Allowance,
    Answer,
    Improvement,
    RaceEnd,
    Racer,
    Repaired,
    RepairRequest,
    Role,
    Turn,
)

# Errors of what is around an agent: nothing of it happens again in a replay.
_AROUND = frozenset({"replica_lost", "stale_epoch", "queue_full", "error", "cancelled_by_user"})


@dataclass(slots=True, kw_only=True)
class Redone:
    """What became of a step that was done again.

    Attributes:
        result: What its agents returned; None where they cannot be asked to, as `why_not` says.
        turns, improvements: That they told of.
        replies: Recorded calls that were asked again.
    """

    result: Any = None
    why_not: str = ""
    turns: list[Turn] = field(default_factory=list)
    improvements: list[Improvement] = field(default_factory=list)
    replies: int = 0

    async def hear(self, news: Improvement | Turn) -> None:
        """Implements `orchestrator.ports.Progress`."""
        if isinstance(news, Turn):
            self.turns.append(news)
        else:
            self.improvements.append(news)


class StepAgain:
    """One recorded step, done again.

    Args:
        recording: Of its run.
        step: Which.
        method: Of the agent that is asked.
        request: What the graph asks now.
        allowance: What was left of the run's budget.
        on_test: Told of every test run that the recording answers.
    """

    def __init__(
        self,
        recording: Recording,
        step: RecordedStep,
        *,
        method: str,
        request: Any,
        allowance: Allowance,
        on_test: OnTest,
    ) -> None:
        self._recording = recording
        self._step = step
        self._method = method
        self._request = request
        self._allowance = allowance
        self._on_test = on_test
        self.redone = Redone()
        settings = recording.json(step.settings) if step.settings else {}
        self._shell = ShellSettings(**(settings.get("shell") or {}))
        self._reply = ReplySettings(**(settings.get("reply") or {}))
        repair = settings.get("repair") or {}
        self._repairers = tuple(repair.get("agents") or RepairSettings().agents)
        self._samples = int(repair.get("samples", 1))

    async def done(self) -> Redone:
        """Do it.

        Raises:
            Differs: It asks for something else than was recorded.
            RaysmithError: It failed, as it may have when it was recorded.
        """
        error = self._step.error
        if error is not None and (error.get("code") in _AROUND or not self._step.calls):
            self.redone.why_not = f"it failed by what is around agents ({error.get('code')})"
            return self.redone
        if self._step.role == Role.REPAIR:
            await self._repair()
        else:
            end = error_from_json(error) if error is not None else None
            self.redone.result = await self._asked(
                lambda engine: self._written(engine, end), at_end=end or self._cut()
            )
        return self.redone

    def _cut(self) -> BaseException | None:
        """What ends a step that the recorded run was cut off in."""
        return None if self._step.has_ended else asyncio.CancelledError()

    async def _asked(
        self, work: Callable[[ReplayedEngine], Awaitable[Any]], *, at_end: BaseException | None
    ) -> Any:
        """What `work` returns with an engine that answers from the record, all of which it has to ask."""
        engine = ReplayedEngine(
            self._request.model or "",
            self._recording,
            self._step,
            allowance=self._allowance,
            at_end=at_end,
        )
        try:
            return await work(engine)
        finally:
            self.redone.replies += len(engine.used)

    async def _written(self, engine: ReplayedEngine, end: BaseException | None) -> Any:
        result = await self._in_its_form(engine, lambda replies: self._by_agent(engine, end, replies))
        _check_all_asked(self._step, engine)
        return result

    async def _by_agent(
        self, engine: ReplayedEngine, end: BaseException | None, replies: ReplySettings
    ) -> Any:
        shelf, role = _Shelf(engine), Role(self._step.role)
        if role is Role.CODE:
            coder = ShellCoder(shelf, self._shell, replies)
            return await coder.write(self._request, self._runners(end), self.redone.hear)
        if role is Role.TEST:
            return await Tester(shelf, replies).write(self._request)
        agent: Any = Planner(shelf) if role is Role.PLAN else Reviewer(shelf)
        return await getattr(agent, self._method)(self._request)

    async def _in_its_form(
        self, engine: ReplayedEngine, work: Callable[[ReplySettings], Awaitable[Any]]
    ) -> Any:
        """In the form of reply that was asked for: that followed what the replica had seen of the model."""
        if self._reply.format != "auto":
            return await work(self._reply)
        try:
            return await work(replace(self._reply, format="edits"))
        except Differs as error:
            if engine.used:
                raise
            first = error
        try:
            return await work(replace(self._reply, format="whole"))
        except Differs:
            if engine.used:
                raise
            raise first from None

    def _runners(self, end: BaseException | None) -> ReplayedRunners:
        # Where no more was answered the agent's own time was over.
        return ReplayedRunners(
            self._step.name,
            self._answers(),
            at_end=end or self._cut() or TimeoutError(),
            on_test=self._on_test,
        )

    def _answers(self) -> Sequence[Answer]:
        """All that sandboxes answered in this step."""
        told = [answer for data in self._step.progress for answer in self._recording.answers(data)]
        if self._step.result is not None:
            result = json.loads(self._recording.load(self._step.result))
            rest = json.dumps(result.get("answers", [])).encode()
            told += from_json(tuple[Answer, ...], rest)
        return told

    # ---- repair

    async def _repair(self) -> None:
        request: RepairRequest = self._request
        models = [name for name in (SHELL, MODEL) if name in self._repairers and request.model]
        if not models:
            self.redone.why_not = "a search takes other ways in other time; what it found is taken"
            return
        result: Repaired | None = None
        if self._step.result is not None:
            result = from_json(Repaired, self._recording.load(self._step.result))
        if SEARCH not in self._repairers and len(models) == 1:
            racer = Racer(name=models[0], end=RaceEnd.ANSWERED)
            if not self._step.has_ended:
                racer = replace(racer, end=RaceEnd.STOPPED)
            elif self._step.error is not None:
                racer = _failed(models[0], self._step.error)
            self.redone.result = await self._raced(racer)
            return
        if result is None or not result.raced:
            self.redone.why_not = "who won its race was not recorded"
            return
        outcomes = {}
        for racer in result.raced:
            try:
                outcomes[racer.name] = await self._raced(racer)
            except Differs:
                raise
            except RaysmithError as error:
                outcomes[racer.name] = error
        self.redone.result = together(self._request.base, outcomes, result.cpu_s)

    async def _raced(self, racer: Racer) -> Any:
        """What one of several repairers comes to, as far as it was let; None where it was stopped."""
        end: BaseException | None = None
        if racer.end is RaceEnd.STOPPED:
            end = asyncio.CancelledError()
        elif racer.end is RaceEnd.FAILED:
            end = error_from_json({"code": racer.code, "message": racer.error, "next": racer.next_move})
        if racer.name == SEARCH:
            if isinstance(end, RaysmithError):
                raise end
            return racer.found
        working = asyncio.ensure_future(
            self._asked(lambda engine: self._repaired(racer.name, engine, end), at_end=end)
        )
        await asyncio.wait([working])
        if working.cancelled():
            return None
        return working.result()

    async def _repaired(self, name: str, engine: ReplayedEngine, end: BaseException | None) -> Repaired:
        if name == SHELL:
            shell = ShellRepairer(_Shelf(engine), self._shell)
            result = await shell.repair(self._request, self._runners(end), self.redone.hear)
        else:
            result = await self._in_its_form(
                engine,
                lambda replies: ModelRepairer(_Shelf(engine), replies, samples=self._samples).repair(
                    self._request
                ),
            )
        _check_all_asked(self._step, engine, _ROLES[name])
        return result


class _Shelf:
    """Implements `actors.engines.port.Engines` for one engine."""

    def __init__(self, engine: ReplayedEngine) -> None:
        self._engine = engine

    def __call__(self, _model: str) -> ReplayedEngine:
        return self._engine

    async def close(self) -> None:
        """It holds nothing."""


def _check_all_asked(step: RecordedStep, engine: ReplayedEngine, role: str | None = None) -> None:
    """Refuse a replay that came to its result with fewer calls.

    Raises:
        Differs: One was not asked.
    """
    if (call := engine.unasked(role)) is not None:
        raise Differs(
            f"{step.name}, role {call.role}: call {call.number} of {len(step.calls)} was recorded "
            "and is not asked again",
            "the agent's code has changed since; replay with the release that recorded it",
        )


def _failed(name: str, error: Mapping[str, Any]) -> Racer:
    return Racer(
        name=name,
        end=RaceEnd.FAILED,
        code=str(error.get("code")),
        error=str(error.get("message")),
        next_move=str(error.get("next", "")),
    )


_ROLES = {SHELL: AGENT, MODEL: str(Role.REPAIR)}
