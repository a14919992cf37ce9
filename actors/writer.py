"""What the agents that write share: prompt, engine, reply, validator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

import structlog

from actors.continuing import Asked, gone_on
from actors.counted import CountedDraft
from actors.draft import Draft, Unfinished
from actors.engines.port import Engine, Engines, Message, NoReply, Reply, Structured
from actors.formats import Formats, ReplySettings
from actors.packing import (
    PROMPT_CHARACTERS,
    Compose,
    Composed,
    Packed,
    chosen,
    manifest_of,
    pack,
    parts_of,
    texts,
)
from actors.prompts import render
from orchestrator.context import ContextManifest
from orchestrator.errors import AgentError, PromptTooLong
from orchestrator.patch import Changes, check_changes, outside
from orchestrator.plan import CI_FILE
from orchestrator.steps import Usage, WriteRequest, Written
from orchestrator.tree import File, Tree

T = TypeVar("T")
log = structlog.get_logger()

# A reply that cannot be used is told why and asked again this often.
MAX_TURNS = 3
# Replies of one conversation in all: those that bring something new do not count against `MAX_TURNS`.
MAX_REPLIES = 8
# What stands in the conversation for a reply that cannot be used.
LEFT_OUT = "(That reply could not be used.)"
# And for each part but the last of one that was put together.
GONE_ON = "(The reply went on.)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversed(Generic[T]):
    """How a conversation ended: a result, or why there is none."""

    result: T | None
    usage: Usage
    refused: str = ""
    contexts: tuple[ContextManifest, ...] = ()


async def converse(
    engine: Engine,
    role: str,
    compose: Compose,
    take: Callable[[str], T] | Draft[T],
    *,
    structured: Structured | None = None,
    samples: int = 1,
    again: str = "Reply again with every file.",
) -> Conversed[T]:
    """Ask until `take` can use a reply, at most `MAX_TURNS` times in vain and `MAX_REPLIES` times in all.

    A reply that cannot be used never stands in the conversation: each turn is put to the model with
    what held of the replies before it, as it should have been written, and what is still wrong.

    Args:
        engine: Whom to ask.
        role: For whom.
        compose: The first prompt within so many characters; see `pack`.
        take: Makes a result of a reply's text, or raises AgentError with what to tell the model; or
            a draft that keeps what applied of each reply.
        structured: What form the reply has to have, for engines that can hold a model to it.
        samples: Replies to draw for the first prompt; `take` gets them as one.
        again: What is asked for after a reply that cannot be used.

    Raises:
        PromptTooLong: What has to be in the prompt does not fit.
        MachineError: The engine cannot be asked.
    """
    usage, refused, limit = Usage(), "", PROMPT_CHARACTERS
    turns: list[Message] = []
    contexts: dict[str, ContextManifest] = {}
    vain = 0
    for turn in range(MAX_REPLIES):
        if vain == MAX_TURNS:
            break
        prompt, turns = await _packed(engine, compose, limit, turns)
        if prompt.message.content not in contexts:
            contexts[prompt.message.content] = await manifest_of(engine, prompt)
        sampling = replace(prompt.sampling, structured=structured) if structured else prompt.sampling
        drawn = replace(sampling, n=samples) if samples > 1 and not turn else sampling
        try:
            reply = await engine.complete(role, [prompt.message, *turns], drawn)
        except NoReply as error:
            refused = refused or error.message
            break
        except PromptTooLong as error:
            refused, limit, vain = error.message, limit // 2, vain + 1
            continue
        except AgentError as error:
            refused, usage, vain = error.message, usage + Usage(unusable=1), vain + 1
            continue
        joints = 0
        if isinstance(take, Draft):
            asked = Asked(engine=engine, role=role, messages=[prompt.message, *turns], sampling=sampling)
            whole = await gone_on(asked, reply, take.is_open)
            reply, joints = whole.reply, whole.joints
        usage = usage + reply.usage
        try:
            result = take.take(reply) if isinstance(take, Draft) else take(reply.text)
            return Conversed(result=result, usage=usage, contexts=tuple(contexts.values()))
        except AgentError as error:
            good = error.good if isinstance(error, Unfinished) else ""
            refused = error.message
            if not good:
                usage, vain = usage + Usage(unusable=1), vain + 1
            # Every reply leaves a turn, so that recordings can count them.
            parts = [
                Message(role="assistant", content=GONE_ON),
                Message(role="user", content="Go on."),
            ] * joints
            turns = [*_settled(turns), *parts, *_told(reply, error, good, again)]
        log.info("reply_refused", engine=engine.name, role=role, turn=turn, reason=refused, kept=bool(good))
    return Conversed(result=None, usage=usage, refused=refused, contexts=tuple(contexts.values()))


async def _packed(
    engine: Engine, compose: Compose, limit: int, turns: list[Message]
) -> tuple[Packed, list[Message]]:
    """The first prompt, and the turns after it, or none where both do not fit."""
    try:
        return await pack(engine, compose, limit, after=turns), turns
    except PromptTooLong:
        if not turns:
            raise
        return await pack(engine, compose, limit), []


def _settled(turns: list[Message]) -> list[Message]:
    """Earlier turns without what was wrong then: the last one says what still is."""
    return [
        message if message.role == "assistant" else Message(role="user", content="Go on.")
        for message in turns
    ]


def _told(reply: Reply, error: AgentError, good: str, again: str) -> list[Message]:
    cut = (
        " It was cut off at its longest: write less around what is asked for."
        if reply.finish_reason == "length"
        else ""
    )
    told = (
        error.told
        if isinstance(error, Unfinished)
        else f"That reply cannot be used: {error.message}.{cut} {again}"
    )
    return [Message(role="assistant", content=good or LEFT_OUT), Message(role="user", content=told)]


class Writer:
    """Asks an engine for files until the reply can be used."""

    def __init__(self, role: str, engines: Engines, replies: ReplySettings | None = None) -> None:
        self.role = role
        self._engines = engines
        self._formats = Formats(replies)

    async def write(self, request: WriteRequest) -> Written:
        """Files for the request's goal.

        Raises:
            AgentError: No reply in `MAX_TURNS` could be used, or the goal alone does not fit.
            MachineError: The request's model cannot be reached here.
        """
        if request.wanted and request.plan is not None:
            # It converses as we do.
            from actors.repository import write_planned

            engine = self._engines(request.model)
            return await write_planned(engine, self.role, request, partial(self._draft, engine.name))
        engine = self._engines(request.model)
        draft = self._draft(engine.name, request)
        files = texts(request.tree)

        def compose(limit: int) -> Composed:
            shown, left_out = chosen(files, limit)
            large = [path for path in draft.large if path in shown]
            text = render(self.role, goal=request.goal, files=shown, left_out=left_out, large=large)
            return Composed(text=text, template=self.role, **parts_of(request.goal, files, shown))

        conversed = await converse(engine, self.role, compose, draft)
        if conversed.result is None:
            raise AgentError(
                f"no usable reply of {engine.name} in {MAX_TURNS} turns: {conversed.refused}",
                "try another model",
            )
        return Written(
            files=conversed.result, usage=conversed.usage, engine=engine.kind, contexts=conversed.contexts
        )

    async def cancel_all(self) -> None:
        """Close the engines; the replica ends."""
        await self._engines.close()

    def check(self, request: WriteRequest, files: Changes) -> None:
        """Refuse files that this role may not write; by default none."""

    def may_change(self, _request: WriteRequest, _path: str) -> bool:
        """Whether a file that is there already may be changed."""
        return True

    def _draft(
        self, model: str, request: WriteRequest, tree: Tree | None = None
    ) -> CountedDraft[dict[str, File]]:
        """A draft over the request's tree, or over `tree` where more has been written since."""
        allowed = frozenset({CI_FILE} if request.plan is not None else ())

        def permit(path: str, file: File | None) -> None:
            if outside([path], request.allowed):
                raise AgentError(f"{path!r} is not yours to write", f"write {', '.join(request.allowed)}")
            self.check(request, check_changes(request.tree, {path: file}, allowed=allowed))

        def finish(changes: Changes) -> dict[str, File]:
            check_changes(request.tree, changes, allowed=allowed)
            return {path: file for path, file in changes.items() if file is not None}

        tree = tree or request.tree
        # Files of a plan are new, and those have one form only.
        known = texts(tree) if not request.wanted else {}
        return CountedDraft(
            tree,
            finish,
            permit,
            formats=self._formats,
            model=model,
            files={path: text for path, text in known.items() if self.may_change(request, path)},
        )
