"""An engine that answers each call as a past run's engine answered the same call. It asks nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import zip_longest

from actors.engines.ledger import Ledger, pairs, plain_sampling
from actors.engines.names import parse_model
from actors.engines.port import Measure, Message, NoReply, Reply, Sampling, Unusable
from orchestrator.errors import EngineDown, EngineMissing, MachineError, PromptTooLong, RaysmithError
from orchestrator.recording import Differs, RecordedCall, RecordedStep, Recording, identity, text_digest
from orchestrator.steps import Allowance, conversation_hash

_CANCELLED = "cancelled"
_KINDS: dict[str, type[RaysmithError]] = {
    "no_reply": NoReply,
    "prompt_too_long": PromptTooLong,
    "no_model": EngineMissing,
    "engine": EngineDown,
    "environment": MachineError,
}
# A provider that fails so is passed over for the next one.
_PASSED_OVER = ("prompt_too_long", "no_model", "engine", "environment")
_SHOWN = 160


class ReplayedEngine:
    """Answers by identity (role, prompt and parameters); equal calls in the order in which they were made.

    Args:
        model: As `--model` named it.
        recording: Gives texts.
        step: Whose calls are answered.
        allowance: What was left of the budget when the step began.
        at_end: Raised when more is asked than was recorded; None for a `Differs`.
    """

    def __init__(
        self,
        model: str,
        recording: Recording,
        step: RecordedStep,
        *,
        allowance: Allowance | None = None,
        at_end: BaseException | None = None,
    ) -> None:
        kind = parse_model(model).kind
        self.kind = "openai" if kind == "endpoint" else kind
        self.name = model
        # Some are given the beginning of their own turn, and go on with it.
        self.continues = any(call.messages and call.messages[-1][0] == "assistant" for call in step.calls)
        self.used: set[int] = set()
        self._recording = recording
        self._step = step
        self._left = Ledger(allowance=allowance)
        self._at_end = at_end
        self._measures: dict[str, tuple[int, int | None]] = {}
        for call in step.calls:
            if call.measures:
                self._measures.update(recording.json(call.measures))

    async def complete(
        self, role: str, messages: Sequence[Message], sampling: Sampling | None = None
    ) -> Reply:
        """The recorded reply to this call, or the recorded error raised.

        Raises:
            Differs: No such call was recorded; the message names the first that is asked otherwise.
        """
        self._left.check()
        call = self._found(str(role), messages, sampling)
        self._left.left = self._left.left.after(call.usage)
        if call.code == _CANCELLED:
            # The step was stopped, or its own time was over.
            raise self._at_end if isinstance(self._at_end, asyncio.CancelledError) else TimeoutError
        if call.code:
            raise _error(call)
        texts = [self._recording.text(digest) for digest in call.replies]
        return Reply(
            text=texts[0], others=tuple(texts[1:]), usage=call.usage, finish_reason=call.finish_reason
        )

    async def measure(self, messages: Sequence[Message]) -> Measure:
        """As it was recorded. A conversation that nobody measured fits: it will be told apart when asked."""
        known = self._measures.get(conversation_hash(pairs(messages)))
        if known is not None:
            return Measure(prompt=int(known[0]), room=None if known[1] is None else int(known[1]))
        return Measure(prompt=0, room=self._room(messages))

    async def check_health(self) -> None:
        """It is always well."""

    async def close(self) -> None:
        """It holds nothing."""

    def unasked(self, role: str | None = None) -> RecordedCall | None:
        """The first recorded call, of `role` or any, that was not asked; one told twice counts once."""
        calls = self._step.calls
        asked = [_told(call) for call in calls if call.number in self.used]
        left = (call for call in calls if call.number not in self.used)
        return next((call for call in left if role in (None, call.role) and _told(call) not in asked), None)

    def _room(self, messages: Sequence[Message]) -> int | None:
        """In logs that kept no measures: what the reply's bound was, for this very conversation."""
        digests = tuple((each.role, text_digest(each.content)) for each in messages)
        same = next((call for call in self._step.calls if call.messages == digests), None)
        return None if same is None or self._measures else same.sampling.get("max_tokens")

    def _found(self, role: str, messages: Sequence[Message], sampling: Sampling | None) -> RecordedCall:
        digests = tuple((each.role, text_digest(each.content)) for each in messages)
        wanted = identity(role, digests, plain_sampling(sampling))
        left = [call for call in self._step.calls if call.number not in self.used]
        same = [call for call in left if call.identity == wanted]
        if not same:
            expected = next((call for call in left if call.role == role), None)
            if expected is None and self._at_end is not None:
                raise self._at_end
            raise self._differs(role, messages, plain_sampling(sampling), expected)
        # Providers that were passed over, and the one that served or was the last.
        for call in same:
            self.used.add(call.number)
            if not (call.provider and call.code in _PASSED_OVER):
                return call
        return same[-1]

    def _differs(
        self,
        role: str,
        messages: Sequence[Message],
        sampling: dict[str, object],
        expected: RecordedCall | None,
    ) -> Differs:
        where = f"{self._step.name}, role {role}"
        if expected is None:
            return Differs(
                f"{where}: {self.name} is asked once more than was recorded ({len(self._step.calls)} calls)",
                "the agent's code has changed since; replay with the release that recorded it",
            )
        return Differs(
            f"{where}, call {expected.number} of {len(self._step.calls)}: "
            f"{self._first_difference(messages, sampling, expected)}",
            "prompts or code have changed since; replay with the release that recorded it",
        )

    def _first_difference(
        self, messages: Sequence[Message], sampling: dict[str, object], expected: RecordedCall
    ) -> str:
        for number, (message, recorded) in enumerate(zip(messages, expected.messages, strict=False), 1):
            if (message.role, text_digest(message.content)) != recorded:
                then = self._recording.text(recorded[1])
                return f"message {number} ({message.role}) differs, {line_difference(then, message.content)}"
        if len(messages) != len(expected.messages):
            return f"{len(messages)} messages where {len(expected.messages)} were recorded"
        return f"parameters {sampling} where {dict(expected.sampling)} were recorded"


def line_difference(then: str, now: str) -> str:
    """Where two texts first differ, and how."""
    lines = zip_longest(then.splitlines(), now.splitlines())
    for number, (old, new) in enumerate(lines, 1):
        if old != new:
            return f"line {number}: recorded {_shown(old)}, now {_shown(new)}"
    return "only in its line ends"


def _shown(line: str | None) -> str:
    return "nothing" if line is None else repr(line[:_SHOWN])


def _told(call: RecordedCall) -> tuple[str, tuple[str, ...], str, float]:
    return call.identity, call.replies, call.code, call.wall_s


def _error(call: RecordedCall) -> RaysmithError:
    if (kind := _KINDS.get(call.code)) is not None:
        return kind(call.error, call.next_move)
    if call.code == Unusable.code:
        return Unusable(call.error, call.next_move, call.usage)
    unknown = RaysmithError(call.error, call.next_move)
    unknown.code = call.code
    return unknown
