"""One piece of work at a shell: ask, run, tell, until it is submitted and passes, or a limit is reached.

The agent never decides that it is green: Raysmith's own runner tests its workspace, and the loop's judge
certifies what comes out like any other candidate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from actors.engines.port import Engine, NoReply, Reply, Structured, Unusable
from actors.shell import words
from actors.shell.checks import Checked
from actors.shell.history import History
from actors.shell.reply import MOST_CHARACTERS, SCHEMA, Command, read_command
from actors.shell.settings import ShellSettings
from actors.shell.workspace import Ran, Workspace, WorkspaceLost
from orchestrator.errors import AgentError, BudgetSpent, MachineError, PromptTooLong
from orchestrator.steps import Improvement, Turn, Usage

log = structlog.get_logger()

AGENT = "shell"
# From here on the agent is told how many turns are left.
_LAST_TURNS = 5


@dataclass(slots=True, kw_only=True)
class Spent:
    """What the work has taken so far, and why it ended."""

    turns: int = 0
    commands: int = 0
    usage: Usage = field(default_factory=Usage)
    ended: str = ""


class Checks(Protocol):
    """Looks at the workspace for the work: what is reached, and what the agent is to be told of it."""

    @property
    def best(self) -> Improvement | None:
        """The best state so far."""
        ...

    def is_due(self) -> bool:
        """Whether a change is to be looked at before it is submitted."""
        ...

    async def now(self) -> Checked:
        """Look at the workspace as it is."""
        ...

    async def last(self) -> None:
        """Look at it at the end."""
        ...

    def rest(self) -> None:
        """Where nothing better was reached, take what is there as it is: nothing can be run any more."""
        ...


class ShellWork:
    """The turns of one piece of work.

    Args:
        engine: Whom to ask.
        workspace: Where commands run.
        history: Holds the task.
        check: Tests the workspace and remembers the best of it.
        tell: Awaited with every turn.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        workspace: Workspace,
        history: History,
        check: Checks,
        settings: ShellSettings,
        tell: Callable[[Turn], Awaitable[None]],
    ) -> None:
        self.spent = Spent()
        self._engine = engine
        self._workspace = workspace
        self._history = history
        self._check = check
        self._settings = settings
        self._tell = tell
        self._refused_in_a_row = 0
        self._submitted: tuple[str, str] | None = None

    async def run(self, wall_s: float) -> Spent:
        """Work until it is over; what was reached is with `check`.

        Whatever ends it, the difference that the workspace has by then is not lost.

        Raises:
            PromptTooLong: The task alone does not fit.
            MachineError: The engine or the sandbox cannot be used, and nothing was changed yet.
            BudgetSpent: The run may ask no model any more, and nothing was changed yet.
        """
        try:
            async with asyncio.timeout(min(wall_s, self._settings.wall_s)):
                self.spent.ended = await self._turns()
                if self.spent.ended != "passed":
                    await self._check.last()
        except TimeoutError:
            self.spent.ended = "wall time"
            self._check.rest()
        except WorkspaceLost:
            self.spent.ended = "sandboxes"
            self._check.rest()
        except (MachineError, BudgetSpent) as error:
            self._check.rest()
            if self._check.best is None:
                raise
            self.spent.ended = error.message
        log.info("shell_ended", engine=self._engine.name, turns=self.spent.turns, reason=self.spent.ended)
        return self.spent

    async def _turns(self) -> str:
        for number in range(1, self._settings.turns + 1):
            if self.spent.usage.prompt + self.spent.usage.completion >= self._settings.tokens:
                return "tokens"
            self.spent.turns = number
            try:
                reply = await self._asked()
            except NoReply:
                return "no reply"
            ended = await self._turn(number, reply)
            if ended:
                return ended
            if self._refused_in_a_row >= self._settings.unusable:
                return "unusable replies"
        return "turns"

    async def _asked(self) -> Reply | AgentError:
        """The model's next reply, or why there is none that could be used."""
        sampling = await self._history.fit(self._engine, self._settings.context_share)
        if self._settings.structured:
            sampling = replace(sampling, structured=Structured(json=SCHEMA))
        try:
            reply = await self._engine.complete(AGENT, self._history.messages, sampling)
        except NoReply:
            raise
        except PromptTooLong as error:
            if not self._history.squeeze():
                raise
            return error
        except AgentError as error:
            return error
        return replace(reply, text=reply.text[:MOST_CHARACTERS])

    async def _turn(self, number: int, reply: Reply | AgentError) -> str:
        """Do what a reply says; why the work is over, empty when it goes on."""
        if isinstance(reply, AgentError):
            usage = reply.usage if isinstance(reply, Unusable) else Usage()
            self.spent.usage = self.spent.usage + usage
            await self._refuse(number, Reply(text="", usage=usage), reply)
            return ""
        self.spent.usage = self.spent.usage + reply.usage
        try:
            command = read_command(reply.text)
        except AgentError as error:
            await self._refuse(number, reply, error)
            return ""
        self._refused_in_a_row = 0
        ran = await self._ran(command)
        told, checked, ended = await self._looked_at(command, ran)
        left = self._settings.turns - number
        if not ended and left <= _LAST_TURNS:
            told += f"\n{left} turn{'' if left == 1 else 's'} left."
        self._history.add(command.said, told)
        turn = Turn(
            agent=AGENT,
            number=number,
            reply=reply.text,
            command=command.text,
            exit_code=ran.exit_code if ran else None,
            told=told,
            failing=len(checked.failing) if checked and checked.failing is not None else None,
            usage=reply.usage,
            answers=self._workspace.answered(),
        )
        await self._tell(turn)
        return ended

    async def _ran(self, command: Command) -> Ran | None:
        if not command.text:
            return None
        self.spent.commands += 1
        return await self._workspace.run(command.text, self._settings.command_s)

    async def _looked_at(self, command: Command, ran: Ran | None) -> tuple[str, Checked | None, str]:
        """What to tell of a command, what a test of the workspace showed, and why the work is over."""
        told = [words.outcome(ran, self._settings)] if ran else []
        submits = command.submits and (ran is None or ran.exit_code == 0)
        checked = None
        if submits or (ran is not None and ran.changed and self._check.is_due()):
            checked = await self._check.now()
            told.append(checked.words)
        if not submits or checked is None:
            return "\n".join(told), checked, ""
        if checked.passes:
            return "\n".join(told), checked, "passed"
        submitted = (checked.digest, checked.words)
        if submitted == self._submitted:
            return "\n".join(told), checked, "submitted again unchanged"
        self._submitted = submitted
        return "\n".join(told), checked, ""

    async def _refuse(self, number: int, reply: Reply, error: AgentError) -> None:
        """Count a reply that cannot be used, and say why; it does not stay in the history."""
        self._refused_in_a_row += 1
        self.spent.usage = self.spent.usage + Usage(unusable=1)
        cut = " It was cut off at its longest." if reply.finish_reason == "length" else ""
        told = f"Your reply {number} could not be used: {error.message}.{cut} {error.next_move}".rstrip()
        self._history.refuse(told)
        turn = Turn(agent=AGENT, number=number, reply=reply.text, told=told, usable=False, usage=reply.usage)
        await self._tell(turn)
