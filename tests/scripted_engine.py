"""An engine that answers from a script and keeps what it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from actors.engines.port import Measure, Message, NoReply, Reply, Sampling
from orchestrator.steps import Usage


@dataclass
class ScriptedEngine:
    """`script` holds texts, replies or errors, one a call. A token is three characters."""

    script: list[str | Reply | Exception]
    room: int | None = None
    kind: str = "scripted"
    name: str = "scripted:m"
    asked: list[list[Message]] = field(default_factory=list)
    sampled: list[Sampling | None] = field(default_factory=list)
    closed: int = 0

    async def complete(
        self, role: str, messages: Sequence[Message], sampling: Sampling | None = None
    ) -> Reply:
        self.asked.append(list(messages))
        self.sampled.append(sampling)
        if not self.script:
            raise NoReply("the script has ended")
        said = self.script.pop(0)
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, Reply) else Reply(text=said, usage=Usage(completion=1, requests=1))

    async def measure(self, messages: Sequence[Message]) -> Measure:
        return Measure(prompt=sum(len(each.content) for each in messages) // 3, room=self.room)

    async def check_health(self) -> None: ...

    async def close(self) -> None:
        self.closed += 1


class Only:
    """Engines that are all the same one."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine
        self.models: list[str] = []

    def __call__(self, model: str) -> ScriptedEngine:
        self.models.append(model)
        return self.engine

    async def close(self) -> None:
        await self.engine.close()


def block(path: str, content: str) -> str:
    """One file as a reply holds it."""
    return f"{path}\n```python\n{content}\n```\n"
