"""The seam to whatever turns messages into text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from orchestrator.errors import AgentError
from orchestrator.steps import Usage


class NoReply(AgentError):
    """The engine has nothing to say here and would have nothing if it were asked again."""

    code = "no_reply"


class Unusable(AgentError):
    """A reply that cannot be used and was paid for all the same.

    Attributes:
        usage: What it cost.
    """

    def __init__(self, message: str, next_move: str = "", usage: Usage | None = None) -> None:
        super().__init__(message, next_move)
        self.args = (message, next_move, usage)
        self.usage = usage or Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Structured:
    """What form a reply has to have, exactly one of the fields.

    An engine that cannot hold a model to it draws freely, so that a reply is always checked again.
    """

    json: Mapping[str, Any] | None = None
    """A JSON schema."""
    regex: str | None = None
    """A regular expression that the whole reply matches."""
    choice: tuple[str, ...] | None = None
    """The replies to choose from."""
    grammar: str | None = None
    """A context-free grammar as GBNF or Lark, as vLLM takes it."""

    def __post_init__(self) -> None:
        given = [self.json, self.regex, self.choice, self.grammar]
        if sum(each is not None for each in given) != 1:
            raise ValueError("a structured reply has exactly one of json, regex, choice and grammar")

    @property
    def kind(self) -> str:
        """Which field is given."""
        return next(
            name for name in ("json", "regex", "choice", "grammar") if getattr(self, name) is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next turn is drawn; None leaves a choice to the model's own defaults."""

    temperature: float | None = None
    """0 for the likeliest token every time."""
    top_p: float | None = None
    """Share of the likeliest tokens to draw from."""
    max_tokens: int | None = None
    """Tokens of one reply at most; a smaller bound of the engine holds too."""
    seed: int | None = None
    """Makes a draw repeatable where the model's server allows it."""
    n: int = 1
    """Turns to draw for the one prompt, in one request."""
    structured: Structured | None = None
    """What form each of them has to have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An engine's text and what it cost.

    Attributes:
        text: The turn, never empty.
        finish_reason: `stop` for a turn that ended by itself, `length` for one that was cut off,
            `repetition` for one that was cut because it said the same over and over; its text ends
            after the first time.
        others: Further turns where `Sampling.n` asked for some, none of them empty; an engine may
            give fewer than it was asked for. `usage` counts all.
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = "stop"
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Whether a conversation fits.

    Attributes:
        prompt: Its tokens, exact where the engine has the tokenizer, else estimated.
        room: Tokens that conversation and reply may have together, None where nobody knows.
    """

    prompt: int
    room: int | None = None


class Engine(Protocol):
    """Turns messages into text.

    A call that is cancelled stops the request in the engine too. Engines may be shared:
    they keep nothing of one conversation for another.

    Attributes:
        kind: Which engine it is: recorded, openai, vllm.
        name: The model as `--model` names it.
    """

    kind: str
    name: str

    async def complete(
        self, role: str, messages: Sequence[Message], sampling: Sampling | None = None, /
    ) -> Reply:
        """The next turn of the conversation.

        Args:
            role: Of the agent that asks: code, test, …
            messages: At least one; the last is the user's, or the assistant's where the engine has an
                attribute `continues` that is true: the reply then goes on from its last character.
            sampling: None for the engine's configured way.

        Raises:
            NoReply: Nothing is recorded for this turn.
            PromptTooLong: The messages do not fit into the model's context.
            AgentError: The engine answered and the answer cannot be used.
            MachineError: There is no engine to answer; it was tried again where that can help.
        """
        ...

    async def measure(self, messages: Sequence[Message], /) -> Measure:
        """How many tokens the conversation has, and how many fit.

        Raises:
            MachineError: There is no engine to ask.
        """
        ...

    async def check_health(self) -> None:
        """Return when the engine could answer.

        Raises:
            MachineError: It could not, and why.
        """
        ...

    async def close(self) -> None:
        """Give back what it holds; a later call starts it again."""
        ...


class Engines(Protocol):
    """The engines of one replica, by the model's name."""

    def __call__(self, model: str, /) -> Engine:
        """The engine that serves `model`; every caller gets the same.

        Raises:
            EngineMissing: None does.
            TaskError: The name cannot be read.
        """
        ...

    async def close(self) -> None:
        """Close them all."""
        ...
