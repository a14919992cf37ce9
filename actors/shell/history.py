"""One linear history that fits: the task, commands and what they printed, old output shortened first."""

from __future__ import annotations

from dataclasses import dataclass

from actors.engines.port import Engine, Message, Sampling
from orchestrator.errors import PromptTooLong

# Compaction goes well below the bound: every time it is done, the engine's prefix cache is lost.
_COMPACTED_TO = 0.6
# Turns at the end that stay whole as long as they can.
_RECENT = 4
_STUB = 200
_LEAST_REPLY = 256


@dataclass(slots=True)
class _Turn:
    said: str
    told: str
    is_short: bool = False


class History:
    """What the model is shown. Invariant: user and assistant take turns, and the task comes first."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._turns: list[_Turn] = []
        self._reason = ""
        self._dropped = 0
        self.compactions = 0

    def add(self, said: str, told: str) -> None:
        """A turn that did something."""
        self._turns.append(_Turn(said, told))
        self._reason = ""

    def refuse(self, reason: str) -> None:
        """A reply could not be used: the model is told why, and the reply is forgotten."""
        self._reason = reason

    @property
    def messages(self) -> list[Message]:
        """The conversation; its last message is the user's."""
        messages = [Message(role="user", content=self._task)]
        if self._dropped:
            note = f"\n\n[The first {self._dropped} commands are not shown any more.]"
            messages[0] = Message(role="user", content=self._task + note)
        for turn in self._turns:
            messages.append(Message(role="assistant", content=turn.said))
            messages.append(Message(role="user", content=turn.told))
        if self._reason:
            last = messages[-1]
            messages[-1] = Message(role="user", content=f"{last.content}\n\n{self._reason}")
        return messages

    async def fit(self, engine: Engine, share: float) -> Sampling:
        """Compact the history until it fits into `share` of the engine's context; how long a reply may be.

        Raises:
            PromptTooLong: The task alone does not fit.
            MachineError: The engine cannot be asked.
        """
        measure = await engine.measure(self.messages)
        if measure.room is None:
            return Sampling()
        room, reserve = measure.room, min(_LEAST_REPLY, measure.room // 4)
        if measure.prompt > min(room * share, room - reserve):
            self.compactions += 1
            wanted = room * min(_COMPACTED_TO, share)
            while measure.prompt > wanted and self._shorten():
                measure = await engine.measure(self.messages)
        left = room - measure.prompt
        if left < reserve:
            raise PromptTooLong(
                f"the task alone takes {measure.prompt} of the {room} tokens that {engine.name} has",
                "use a model with a longer context",
            )
        return Sampling(max_tokens=left)

    def squeeze(self) -> bool:
        """Shorten once more than measuring asked for, after an engine refused; False when nothing is left."""
        self.compactions += 1
        steps = max(1, len(self._turns) // 2)
        return sum(self._shorten() for _ in range(steps)) > 0

    def _shorten(self) -> bool:
        """Shorten the oldest output, else drop the oldest turn; False when only the task is left."""
        for turn in self._turns[: max(0, len(self._turns) - _RECENT)]:
            if not turn.is_short:
                turn.told, turn.is_short = _stub(turn.told), True
                return True
        if len(self._turns) > 1:
            del self._turns[0]
            self._dropped += 1
            return True
        if self._turns and not self._turns[0].is_short:
            self._turns[0].told, self._turns[0].is_short = _stub(self._turns[0].told), True
            return True
        return False


def _stub(told: str) -> str:
    """The first line and the end of what was told; short ones stay as they are."""
    if len(told) <= 2 * _STUB:
        return told
    first = told.split("\n", 1)[0][:_STUB]
    return f"{first}\n[the output of this command is not shown any more: {len(told)} characters]"
