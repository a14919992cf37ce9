"""A past run done again: its graph for real, its steps from the recording, each fact compared as it comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

from actors.replay.comparing import MEASURED, first_difference, result_difference
from actors.replay.facts import Facts, sha256
from actors.replay.steps import Redone, StepAgain
from orchestrator.codec import from_json
from orchestrator.declaration import Declaration
from orchestrator.endings import cut_off, failed
from orchestrator.errors import RaysmithError, StoreError
from orchestrator.events import Kind, Status, canonical
from orchestrator.graph_work import execute
from orchestrator.loop import Outcome
from orchestrator.patch import Changes
from orchestrator.pausing import PAUSED
from orchestrator.ports import Call
from orchestrator.recording import Differs, RecordedStep, Recording
from orchestrator.report import (
    changes_json,
    diff_text,
    error_from_json,
    error_to_json,
    finished,
)
from orchestrator.steps import Allowance, Improvement, RepairRequest, Role, TestRequest, Usage
from orchestrator.task import allowance_of
from orchestrator.tree import Tree
from orchestrator.verdict import TestRun

T = TypeVar("T")
# What else a replay of an old log cannot know: how many tokens each part of a prompt had.
_OLD = MEASURED | {"contexts"}
# Told by whoever adds up what a run cost, and how long it took.
_OF_THE_END = MEASURED | {"tokens", "gpu_s", "cost_usd", "replies"}

OnTest = Callable[[str, object, object], Awaitable[None]]


class CutOff(Exception):
    """The recorded run was stopped here."""


@dataclass(slots=True, kw_only=True)
class Replayed:
    """What a replay came to.

    Attributes:
        difference: The first, with the place; None when everything was equal.
        facts: The graph's, in number, that were equal.
        steps_redone, steps_taken: Steps whose agents worked again; those whose result was taken as recorded.
        replies: Recorded engine calls that were asked again.
        tests: Recorded test runs that were answered.
        status, reason: That it ended with.
        patch: SHA-256 of the patch's bytes, None without one.
        notes: Why steps were taken, in words.
    """

    difference: Differs | None = None
    facts: int = 0
    steps_redone: int = 0
    steps_taken: int = 0
    replies: int = 0
    tests: int = 0
    status: str = ""
    reason: str | None = None
    patch: str | None = None
    verdict: Mapping[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


async def replay(
    recording: Recording, graph: Declaration, tree: Tree, candidate: Tree | None, on_test: OnTest
) -> Replayed:
    """Do the run again and compare; stops at the first difference.

    Args:
        recording: Of the run.
        graph: That it was executed by.
        tree: The task's.
        candidate: The task's, None where it has none.
        on_test: Told of every recorded test run: its step's name, the request and the record.

    Raises:
        StoreError: The recording lacks something, or is damaged.
    """
    run = ReplayRun(recording, tree, candidate, on_test)
    try:
        await run.execute(graph)
    except Differs as error:
        run.replayed.difference = error
    return run.replayed


class ReplayRun:
    """Implements `orchestrator.ports.Run` on a recording.

    The graph always goes on with what was recorded; that its agents come to the same again is checked beside.
    So numbers that were measured then decide again what they decided then.
    """

    def __init__(self, recording: Recording, tree: Tree, candidate: Tree | None, on_test: OnTest) -> None:
        self.task = recording.task
        self.tree = tree
        self.candidate = candidate
        self.replayed = Replayed()
        self._recording = recording
        self._on_test = on_test
        self._facts = Facts(recording)
        self._gates: set[str] = set()
        self._decided = asyncio.Event()
        self._asked: set[tuple[str, int]] = set()
        self._busy = 0
        self._idle = asyncio.Condition()
        self._difference: Differs | None = None

    # ---- the run's course

    async def execute(self, graph: Declaration) -> None:
        """Do the run again.

        Raises:
            Differs: It went another way.
        """
        try:
            outcome, error = await self._outcome(graph)
        finally:
            self.replayed.facts = self._facts.equal
        if self._difference is not None:
            raise self._difference
        self._check_all_done()
        self._finish(outcome, error)

    async def _outcome(self, graph: Declaration) -> tuple[Outcome, RaysmithError | None]:
        end = self._recording.state
        try:
            outcome = await execute(graph, self)
            if end.reason not in ("cancelled_by_user", PAUSED):
                return outcome, None
        except (Differs, StoreError):
            raise
        except CutOff:
            if self._recording.was_cut_off is False:
                raise self._differs("the replay was cut off where the recorded run went on") from None
        except RaysmithError as error:
            return failed(self, self._facts.attempt, error), error
        status = end.status if end.status.is_finished else Status.FAILED
        return cut_off(self, self._facts.attempt, status, end.reason or ""), None

    def _check_all_done(self) -> None:
        if self._facts.left:
            left = self._facts.left[0]
            raise self._differs(f"event {left.seq} ({left.type}) was recorded and does not happen again")
        left_steps = [step for key, step in self._recording.steps.items() if key not in self._asked]
        if left_steps:
            raise self._differs(f"{left_steps[0].name} was recorded and is not asked for again")

    def _finish(self, outcome: Outcome, error: RaysmithError | None) -> None:
        """Compare the end, and the patch byte for byte."""
        replayed, report = self.replayed, self._recording.state.report
        diff = patch = None
        if outcome.changes:
            text = diff_text(self.tree, outcome.changes)
            diff, patch = sha256(text), sha256(changes_json(outcome.changes))
        replayed.status, replayed.reason, replayed.patch = str(outcome.status), outcome.reason, diff
        usage = self._recording.usage
        data = finished(
            outcome,
            usage=usage if usage.requests else outcome.usage,
            diff=diff,
            patch=patch,
            wall_s=0.0,
            error=error,
        )
        replayed.verdict = data["verdict"]
        if not report:
            replayed.status, replayed.reason = str(self._recording.state.status), None
            replayed.notes.append("the recorded run has not ended: it is equal up to where it stands")
            return
        then = {name: value for name, value in report.items() if name in data}
        now = {name: value for name, value in data.items() if name in then}
        ignore = _OF_THE_END if self._is_old else MEASURED
        if found := first_difference(then, json.loads(canonical(now)), ignore=ignore):
            raise self._differs(f"the end: {found}")
        replayed.facts = self._facts.equal + 1

    @property
    def _is_old(self) -> bool:
        return any(step.settings is None for step in self._recording.steps.values())

    # ---- what the graph asks for

    async def call(self, call: Call[T]) -> T:
        """See `Run.call`: the step's recorded result, after its agents came to the same."""
        key = (str(call.step), call.attempt)
        step = self._recording.steps.get(key)
        if step is None:
            raise self._beyond(f"the graph asks for {_name(call)}, which was not recorded")
        if step.role and (step.role, step.method) != (str(call.role), call.method):
            raise self._differs(
                f"{step.name} is {call.method} of {call.role}, not {step.method} of {step.role}"
            )
        if key in self._asked and step.result is not None:
            known: T = from_json(call.returns, self._recording.load(step.result))
            return known
        self._asked.add(key)
        try:
            if not step.has_ended:
                await self._cut_off_in(step, call)
            return await self._busily(step, call)
        except Differs as error:
            # Whoever asked may take it for a failure of the step.
            self._difference = self._difference or error
            raise

    async def _busily(self, step: RecordedStep, call: Call[T]) -> T:
        self._busy += 1
        try:
            return await self._answered(step, call)
        finally:
            self._busy -= 1
            async with self._idle:
                self._idle.notify_all()

    async def _answered(self, step: RecordedStep, call: Call[T]) -> T:
        redone = await self._redo(step, call)
        await self._progress(step, call, redone)
        if step.error is not None:
            raise error_from_json(step.error)
        assert step.result is not None
        content = self._recording.load(step.result)
        result: T = from_json(call.returns, content)
        if call.role is Role.RUN:
            self.replayed.tests += 1
            await self._on_test(step.name, call.request, result)
        return result

    async def _cut_off_in(self, step: RecordedStep, call: Call[Any]) -> NoReturn:
        """A step that never came back: it works as far as it came, and so do those beside it."""
        redone = await self._redo(step, call)
        await self._progress(step, call, redone)
        if call.role is Role.REVIEW and self._recording.state.status is Status.SUCCEEDED:
            raise TimeoutError
        if not self._recording.was_cut_off:
            # The run went on without it: its node's time was over, or another had won.
            await asyncio.Event().wait()
        async with self._idle:
            await self._idle.wait_for(lambda: self._busy == 0)
        raise CutOff

    async def _redo(self, step: RecordedStep, call: Call[Any]) -> Redone:
        """Have the step's agents work again, and compare what they come to."""
        if call.role is Role.RUN:
            return Redone(why_not="a test run")
        request: Any = call.request
        if isinstance(request, RepairRequest):
            request = replace(request, lessons=self._recording.lessons(step))
        again = StepAgain(
            self._recording,
            step,
            method=call.method,
            request=request,
            allowance=allowance_of(self.task.budget, step.spent),
            on_test=lambda request, run: self._tested(step, request, run),
        )
        try:
            redone = await self._compared(again, step, call)
        except (Differs, CutOff) as error:
            if step.settings is not None:
                raise
            redone = Redone(why_not=f"its log is of an older release ({error})")
        self.replayed.replies += redone.replies
        if redone.why_not:
            self.replayed.steps_taken += 1
            self.replayed.notes.append(f"{step.name}: taken as recorded: {redone.why_not}")
        else:
            self.replayed.steps_redone += 1
        return redone

    async def _compared(self, again: StepAgain, step: RecordedStep, call: Call[Any]) -> Redone:
        try:
            redone = await again.done()
        except (Differs, StoreError):
            raise
        except asyncio.CancelledError:
            # Only where the recorded step was cut off; nobody cancels a replay's steps.
            if step.has_ended:
                raise
            return again.redone
        except RaysmithError as error:
            if step.error is None:
                raise self._differs(f"{step.name} fails ({error}) where it was recorded to return") from error
            ignore = frozenset({"exit_code"}) if step.settings else frozenset({"exit_code", "next"})
            if found := first_difference(dict(step.error), error_to_json(error), ignore=ignore):
                raise self._differs(f"{step.name} fails otherwise: {found}") from error
            return again.redone
        if redone.why_not:
            return redone
        if step.error is not None:
            raise self._differs(
                f"{step.name} returns where it was recorded to fail ({step.error.get('message')})"
            )
        if step.result is not None:
            ignore = MEASURED if step.settings else _OLD
            content = self._recording.load(step.result)
            if found := result_difference(content, redone.result, call.returns, ignore):
                raise self._differs(f"the result of {step.name}: {found}")
        self._compare_progress(step, redone)
        return redone

    async def _tested(self, step: RecordedStep, request: TestRequest, run: TestRun) -> None:
        self.replayed.tests += 1
        await self._on_test(step.name, request, run)

    # ---- progress

    def _compare_progress(self, step: RecordedStep, redone: Redone) -> None:
        recorded = [data for data in step.progress if "turn" in data]
        for number, data in enumerate(recorded):
            if number >= len(redone.turns):
                raise self._differs(f"{step.name} had a turn {data['turn']}, which is not taken again")
            turn = redone.turns[number]
            now = {"turn": turn.number, "reply": turn.reply, "command": turn.command, "told": turn.told}
            now |= {"exit_code": turn.exit_code, "usable": turn.usable, "failing": turn.failing}
            if found := first_difference({name: data.get(name) for name in now}, now):
                raise self._differs(f"{step.name}, turn {data['turn']}: {found}")
        if len(redone.turns) > len(recorded):
            raise self._differs(f"{step.name} takes {len(redone.turns)} turns, {len(recorded)} were recorded")

    async def _progress(self, step: RecordedStep, call: Call[Any], redone: Redone) -> None:
        """What was kept while the step worked, in the order in which it was then: racers' order is chance."""
        for event in step.lost:
            self._facts.take(event)
        if call.progress is None:
            return
        for event in step.kept:
            data = event.data
            changes = self._facts.changes_of(event)
            improvement = Improvement(
                changes=changes, failing=tuple(data["failing_tests"]), explanation=data["explanation"]
            )
            again = [each for each in redone.improvements if _is_told_of(each, improvement)]
            await call.progress(again[0] if again else improvement)

    # ---- facts

    async def record(self, kind: Kind, data: Mapping[str, Any], *, attempt: int = 0) -> None:
        """See `Run.record`: compared with the next fact of the record."""
        self._record(kind, data, attempt=attempt)

    def _record(self, kind: Kind, data: Mapping[str, Any], *, step: str = "", attempt: int = 0) -> None:
        if self._facts.knows(kind, step, attempt, data):
            return
        then = self._facts.expected(step, data)
        if then is None:
            raise self._beyond(f"the graph records a {kind} (attempt {attempt}), which was not recorded")
        if found := self._facts.record(then, kind, step, attempt, data):
            raise self._differs(found)

    async def keep(self, changes: Changes, failing: Sequence[str], explanation: str, node: str = "") -> None:
        """See `Run.keep`."""
        if (data := self._facts.keep(changes, failing, explanation, node)) is not None:
            self._record(Kind.PATCH_KEPT, data, attempt=self._facts.attempt)

    def kept(self, node: str = "") -> tuple[Changes, tuple[str, ...]] | None:
        """See `Run.kept`."""
        return self._facts.kept(node)

    def left(self) -> Allowance:
        """Nothing is spent in a replay: what was left then is kept with every step."""
        return Allowance()

    def spent(self, _under: str) -> Usage:
        """See `left`."""
        return Usage()

    async def recall(self, _node: str) -> bytes | None:
        """See `Run.recall`: every node works again."""
        return None

    async def begin(self, node: str) -> None:
        """See `Run.begin`."""
        self._record(Kind.NODE_STARTED, {}, step=node)

    async def end(self, node: str, data: Mapping[str, Any], output: bytes) -> None:
        """See `Run.end`."""
        self._record(Kind.NODE_ENDED, {**data, "output": output.decode()}, step=node)

    async def ask(self, node: str, data: Mapping[str, Any]) -> None:
        """See `Run.ask`; whoever decided then has decided now."""
        self._record(Kind.APPROVAL_ASKED, data, step=node)
        self._gates.add(node)
        self._decided.set()

    def decision(self, node: str) -> Mapping[str, Any] | None:
        """See `Run.decision`."""
        known = self._recording.state.approvals.get(node)
        if node not in self._gates or known is None or known.approved is None:
            return None
        return {"approved": known.approved, "by": known.by, "why": known.why}

    def decided(self) -> asyncio.Event:
        """See `Run.decided`."""
        return self._decided

    def remaining_s(self) -> float:
        """All of the budget, until the recorded run found it spent."""
        is_left = bool(self._facts.left) or self._asked != self._recording.steps.keys()
        if self._recording.state.reason == "budget_exhausted" and not is_left:
            return 0.0
        return self.task.budget.wall_s

    # ---- differences

    def _beyond(self, what: str) -> Exception:
        """Something that the record does not hold: where it was cut off, the end of it."""
        is_left = bool(self._facts.left) or self._asked != self._recording.steps.keys()
        if self._recording.was_cut_off and not is_left:
            return CutOff()
        return self._differs(what)

    def _differs(self, what: str) -> Differs:
        error = Differs(what, "the code has changed since; replay with the release that recorded it")
        self._difference = self._difference or error
        return error


def _is_told_of(found: Improvement, kept: Improvement) -> bool:
    return (found.failing, found.explanation) == (kept.failing, kept.explanation)


def _name(call: Call[Any]) -> str:
    return f"step {call.step} (attempt {call.attempt})" if call.attempt else f"step {call.step}"
