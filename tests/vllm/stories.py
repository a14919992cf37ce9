"""What the tiny model is taught: the very prompts that the `/add` story sends, and replies to them.

The repair's prompt holds what tests say, so the loop is run once with scripted replies to see it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.coder import Coder
from actors.engines.port import Measure, Message, NoReply, Reply, Sampling
from actors.model_repairer import ModelRepairer
from actors.runner import Runner
from actors.sandbox.settings import SandboxSettings
from actors.tester import Tester
from orchestrator.events import Kind
from orchestrator.loop import Outcome
from orchestrator.ports import Call
from orchestrator.story import story
from orchestrator.task import Budget, Task
from orchestrator.tree import Tree

ROOT = Path(__file__).parents[2]
GOAL = (ROOT / "examples/add_story/goal.txt").read_text().strip()
RECORDING = ROOT / "actors/recordings/add_story.jsonl"


@dataclass(frozen=True)
class Story:
    """One conversation of a single turn."""

    role: str
    prompt: str
    reply: str


@dataclass
class Scripted:
    """An engine that answers by role and keeps what it was asked."""

    replies: Mapping[str, str]
    stories: list[Story] = field(default_factory=list)
    kind: str = "scripted"
    name: str = "scripted"

    async def complete(
        self, role: str, messages: Sequence[Message], sampling: Sampling | None = None
    ) -> Reply:
        if role not in self.replies or len(messages) > 1:
            raise NoReply("nothing more is scripted")
        self.stories.append(Story(str(role), messages[0].content, self.replies[role]))
        return Reply(text=self.replies[role])

    async def measure(self, messages: Sequence[Message]) -> Measure:
        return Measure(prompt=0)

    async def check_health(self) -> None: ...

    async def close(self) -> None: ...


class Only:
    """Engines that are all the same one."""

    def __init__(self, engine: Scripted) -> None:
        self._engine = engine

    def __call__(self, model: str) -> Scripted:
        return self._engine

    async def close(self) -> None: ...


class LocalRun:
    """Implements `orchestrator.ports.Run` with agents in this process."""

    candidate = None

    def __init__(self, task: Task, agents: Mapping[str, Any]) -> None:
        self.task = task
        self.tree = Tree()
        self._agents = agents

    async def call(self, call: Call[Any]) -> Any:
        return await getattr(self._agents[str(call.role)], call.method)(call.request)

    async def record(self, kind: Kind, data: Mapping[str, Any], *, attempt: int = 0) -> None: ...

    async def keep(self, changes: Mapping[str, Any], failing: Sequence[str], explanation: str) -> None: ...

    def kept(self) -> None: ...

    def remaining_s(self) -> float:
        return 600.0


def replies() -> dict[str, str]:
    """By role: the recorded code, which forgets to round, the recorded tests, and the code mended."""
    found = {}
    for line in RECORDING.read_text().splitlines():
        entry = json.loads(line)
        found[entry["role"]] = entry["reply"]
    forgetful = 'return {"result": a + b}'
    assert found["code"].count(forgetful) == 1
    found["repair"] = (
        found["code"]
        .replace(forgetful, 'total = a + b\n    return {"result": round(total) if do_round else total}')
        .replace("I wrote a small FastAPI application.", "`do_round` was ignored; now it is not.")
    )
    return found


async def rehearse() -> tuple[list[Story], Outcome]:
    """Run the story with scripted replies and real test runs."""
    engine = Scripted(replies())
    agents = {
        "code": Coder(Only(engine)),
        "test": Tester(Only(engine)),
        "repair": ModelRepairer(Only(engine)),
        "run": Runner(SandboxSettings()),
    }
    task = Task(id="add", graph="story", goal=GOAL, model="scripted", budget=Budget(attempts=1))
    outcome = await story(LocalRun(task, agents))
    return engine.stories, outcome


if __name__ == "__main__":
    for each in asyncio.run(rehearse())[0]:
        print(f"=== {each.role}\n{each.prompt}\n--- reply\n{each.reply}")
