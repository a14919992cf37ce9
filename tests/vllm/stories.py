"""What the tiny model is taught: the very prompts that three stories send, and replies to them.

`/add` is written and repaired in one prompt, `stock` is a planned repository of several files, `shop` is a
package that is mended at a shell. Prompts hold what tests and commands print, so each story is run once with
scripted replies to see them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from local_runners import tree_of
from one_runner import OneRunner
from told import ITSELF, SHOP, SHOP_STEPS, STOCK, STOCK_GOAL, WHO

from actors.coder import Coder
from actors.engines.port import Measure, Message, NoReply, Reply, Sampling
from actors.model_repairer import ModelRepairer
from actors.planner import Planner
from actors.runner import Runner
from actors.sandbox.settings import SandboxSettings
from actors.shell.repairer import ShellRepairer
from actors.tester import Tester
from orchestrator.events import Kind
from orchestrator.loop import Outcome, RepairLoop, profile_of
from orchestrator.ports import Call
from orchestrator.steps import Allowance, Usage
from orchestrator.story import story
from orchestrator.task import Budget, Task
from orchestrator.tree import Tree

ROOT = Path(__file__).parents[2]
GOAL = (ROOT / "examples/add_story/goal.txt").read_text().strip()
RECORDING = ROOT / "actors/recordings/add_story.jsonl"
CONTEXT = 8192


@dataclass(frozen=True)
class Story:
    """One conversation; its last turn is the model's.

    Attributes:
        name: Of the story and the role, `/add code`.
        turns: Pairs of role and text.
    """

    name: str
    turns: tuple[tuple[str, str], ...]

    @property
    def prompt(self) -> str:
        return self.turns[0][1]

    @property
    def reply(self) -> str:
        return self.turns[-1][1]


Script = Callable[[str, Sequence[Message]], str | None]


@dataclass
class Scripted:
    """An engine that answers by a script and keeps what it was asked; of a longer growing talk, its end."""

    title: str
    script: Script
    stories: dict[str, Story] = field(default_factory=dict)
    kind: str = "scripted"
    name: str = "scripted"

    async def complete(
        self, role: str, messages: Sequence[Message], sampling: Sampling | None = None
    ) -> Reply:
        reply = self.script(role, messages)
        if reply is None:
            raise NoReply("nothing more is scripted")
        name = f"{self.title} {role}"
        turns = tuple((message.role, message.content) for message in messages)
        if known := self.stories.get(name):
            assert turns[: len(known.turns)] == known.turns, "a talk that does not grow is not recited"
        self.stories[name] = Story(name, (*turns, ("assistant", reply)))
        return Reply(text=reply)

    async def measure(self, messages: Sequence[Message]) -> Measure:
        # What goes into a prompt depends on the room; tokens of three characters are near enough.
        return Measure(prompt=sum(len(message.content) for message in messages) // 3, room=CONTEXT)

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

    def __init__(self, task: Task, agents: Mapping[str, Any], tree: Tree | None = None) -> None:
        self.task = task
        self.tree = tree or Tree()
        self._agents = agents

    async def call(self, call: Call[Any]) -> Any:
        agent = self._agents[str(call.role)]
        lent = (OneRunner(self._agents["run"]), _unheard) if isinstance(agent, ShellRepairer) else ()
        return await getattr(agent, call.method)(call.request, *lent)

    async def record(self, kind: Kind, data: Mapping[str, Any], *, attempt: int = 0) -> None: ...

    async def keep(self, changes: Mapping[str, Any], failing: Sequence[str], explanation: str) -> None: ...

    def kept(self) -> None: ...

    def remaining_s(self) -> float:
        return 600.0

    def left(self) -> Allowance:
        return Allowance()

    def spent(self, _under: str) -> Usage:
        return Usage()


async def _unheard(_news: object) -> None: ...


def by_role(replies: Mapping[str, str]) -> Script:
    """One reply for each role."""
    return lambda role, messages: replies.get(role) if len(messages) == 1 else None


def at_a_shell(steps: Sequence[str]) -> Script:
    """One command for each turn."""

    def script(_role: str, messages: Sequence[Message]) -> str | None:
        turn = sum(message.role == "assistant" for message in messages)
        return f"Next.\n\n```bash\n{steps[turn]}\n```" if turn < len(steps) else None

    return script


def add_replies() -> dict[str, str]:
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


async def _rehearsed(
    title: str, script: Script, graph: str, goal: str | None, tree: Tree
) -> dict[str, Story]:
    engine = Scripted(title, script)
    only = Only(engine)
    agents = {
        "plan": Planner(only),
        "code": Coder(only),
        "test": Tester(only),
        "repair": ModelRepairer(only) if graph == "story" else ShellRepairer(only),
        "run": Runner(SandboxSettings()),
    }
    task = Task(id=title, graph=graph, goal=goal, model="scripted", budget=Budget(attempts=1))
    run = LocalRun(task, agents, tree)
    outcome: Outcome = await (story(run) if graph == "story" else _repair(run))
    assert outcome.reason == "certified", (title, outcome)
    return engine.stories


async def _repair(run: LocalRun) -> Outcome:
    profiled = await profile_of(run, run.tree, (), ())
    return await RepairLoop(run, base=run.tree, profile=profiled.profile, shown=profiled.run).execute()


async def rehearse() -> dict[str, Story]:
    """Run the stories with scripted replies and real test runs; by name, what was asked and said."""
    told = {"who": Story("who", (("user", WHO), ("assistant", ITSELF)))}
    told |= await _rehearsed("/add", by_role(add_replies()), "story", GOAL, Tree())
    told |= await _rehearsed("stock", by_role(STOCK), "story", STOCK_GOAL, Tree())
    told |= await _rehearsed("shop", at_a_shell(SHOP_STEPS), "repair", None, tree_of(SHOP))
    return told


if __name__ == "__main__":
    for each in asyncio.run(rehearse()).values():
        for said_by, text in each.turns:
            print(f"=== {each.name}: {said_by}\n{text}")
