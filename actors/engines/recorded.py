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
    """Replies from JSON lines `{"role", "turn", "reply"}`; it keeps no state between calls.

    The turn is the number of assistant messages before it, so the same conversation always
    gets the same reply, on any replica.
    """

    kind = "recorded"

    def __init__(self, name: str, replies: dict[tuple[str, int], str]) -> None:
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
        replies = {}
        for number, line in enumerate(text.splitlines(), 1):
            try:
                entry = json.loads(line)
                replies[str(entry["role"]), int(entry.get("turn", 0))] = str(entry["reply"])
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
        if (role, turn) not in self._replies:
            raise NoReply(f"{self.name} holds no reply of role {role} for turn {turn}", "record one")
        return Reply(text=self._replies[role, turn], usage=Usage(requests=1))

    async def measure(self, _messages: Sequence[Message]) -> Measure:
        """No tokens: what is recorded always fits."""
        return Measure(prompt=0)

    async def check_health(self) -> None:
        """It is always well."""

    async def close(self) -> None:
        """It holds nothing."""
