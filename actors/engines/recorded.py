"""An engine that answers from a file: for demonstrations, tests and offline replay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from actors.engines.port import Measure, Message, NoReply, Reply, Sampling
from orchestrator.errors import EngineMissing, TaskError
from orchestrator.steps import Usage

RECORDINGS = Path(__file__).parent.parent / "recordings"


class RecordedEngine:
    """Replies from JSON lines `{"role", "turn", "reply", "when"}`; it keeps no state between calls.

    The turn is the number of assistant messages before it, so the same conversation always
    gets the same reply, on any replica. Of several lines for one turn the first counts whose `when`, a text,
    stands in the conversation's first message; a line without one always does.
    """

    kind = "recorded"

    def __init__(self, name: str, replies: dict[tuple[str, int], list[tuple[str, str]]]) -> None:
        self.name = name
        self._replies = replies

    @classmethod
    def named(cls, name: str) -> RecordedEngine:
        """The recording that ships as `actors/recordings/NAME.jsonl`, the same on every node.

        Raises:
            EngineMissing: None is called so.
        """
        known = {path.stem: path for path in sorted(RECORDINGS.glob("*.jsonl"))}
        if name not in known:
            raise EngineMissing(f"no recording is called {name!r}", f"choose one of {', '.join(known)}")
        return cls.parse(name, known[name].read_text("utf-8"))

    @classmethod
    def parse(cls, name: str, text: str) -> RecordedEngine:
        """A recording from its text.

        Raises:
            TaskError: A line of it is not a reply.
        """
        replies: dict[tuple[str, int], list[tuple[str, str]]] = {}
        for number, line in enumerate(text.splitlines(), 1):
            try:
                entry = json.loads(line)
                place = str(entry["role"]), int(entry.get("turn", 0))
                replies.setdefault(place, []).append((str(entry.get("when", "")), str(entry["reply"])))
            except (ValueError, KeyError, TypeError) as error:
                raise TaskError(
                    f"line {number} of recording {name!r} is no reply: {error}",
                    'write {"role", "turn", "reply"}',
                ) from error
        return cls(f"recorded:{name}", replies)

    async def complete(
        self, role: str, messages: Sequence[Message], _sampling: Sampling | None = None
    ) -> Reply:
        """The recorded reply to this turn of `role`, however it is to be drawn."""
        turn = sum(message.role == "assistant" for message in messages)
        asked = messages[0].content if messages else ""
        for when, reply in self._replies.get((role, turn), ()):
            if when in asked:
                return Reply(text=reply, usage=Usage(requests=1))
        raise NoReply(f"{self.name} holds no reply of role {role} for turn {turn}", "record one")

    async def measure(self, _messages: Sequence[Message]) -> Measure:
        """No tokens: what is recorded always fits."""
        return Measure(prompt=0)

    async def check_health(self) -> None:
        """It is always well."""

    async def close(self) -> None:
        """It holds nothing."""
