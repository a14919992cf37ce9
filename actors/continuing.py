"""A reply that was cut off at its longest is gone on with, where it is sure how both parts join."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from actors.engines.port import Engine, Message, Reply, Sampling
from actors.prompts import render
from orchestrator.errors import AgentError

# A reply is gone on with so often; what is longer is asked for in smaller parts.
MAX_JOINTS = 3
# Tokens that have to be left in the context for going on to be worth its prompt.
_LEAST_ROOM = 256
# What is shorter is asked for anew at little cost.
_LEAST_LINES = 12
# Lines that the model says again: more where fewer could be anywhere in the reply.
_LINES = range(3, 25)
_LEAST_CHARACTERS = 24
# Where in the next part these lines are looked for: some models say more of the end again, or greet first.
_WITHIN = 60
# Lines of a greeting with the fence that it opens.
_GREETING = 3
# Of the last lines, so many different ones are a reply that gets somewhere.
_LAST, _DIFFERENT = 40, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a reply answered, and whom to ask for more of it."""

    engine: Engine
    role: str
    messages: Sequence[Message]
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A reply put together of parts; `joints` says how many were added to the first."""

    reply: Reply
    joints: int = 0


async def gone_on(asked: Asked, reply: Reply, is_open: Callable[[Reply], bool]) -> Whole:
    """`reply` with what its model says when it is asked to go on, as long as `is_open` says that it is cut.

    An engine that `continues` is given the reply's own words as the beginning of its turn. Any other is
    asked to say the last lines again, and is believed only where these stand in both parts just once.

    Raises:
        MachineError: The engine cannot be asked any more.
    """
    joints = 0
    while joints < MAX_JOINTS and is_open(reply):
        head = whole_lines(reply.text)
        anchor = anchor_of(head)
        if anchor is None or head.count("\n") < _LEAST_LINES or _turns_in_circles(head):
            break
        try:
            more = await _more(asked, head, anchor)
        except AgentError:
            break
        if more is None:
            break
        text, part = more
        # Paid for, whether it fits or not.
        reply = replace(reply, usage=reply.usage + part.usage)
        joints += 1
        if text is None:
            break
        reply = replace(reply, text=text, finish_reason=part.finish_reason)
    return Whole(reply=reply, joints=joints)


async def _more(asked: Asked, head: str, anchor: Sequence[str]) -> tuple[str | None, Reply] | None:
    """The longer text, None where it is not sure, and the part; None where there is no room to ask."""
    engine, sampling = asked.engine, replace(asked.sampling, n=1)
    said = Message(role="assistant", content=head.rstrip())
    continues = bool(getattr(engine, "continues", False))
    go_on = Message(role="user", content=render("go_on", lines="\n".join(anchor)))
    turn = [*asked.messages, said] if continues else [*asked.messages, said, go_on]
    measure = await engine.measure(turn)
    if measure.room is not None:
        left = measure.room - measure.prompt
        if left < _LEAST_ROOM:
            return None
        sampling = replace(sampling, max_tokens=min(left, sampling.max_tokens or left))
    part = await engine.complete(asked.role, turn, sampling)
    return (said.content + part.text if continues else joined(head, anchor, part.text)), part


def whole_lines(text: str) -> str:
    """`text` up to the end of its last whole line."""
    return text[: text.rfind("\n") + 1]


def anchor_of(head: str) -> list[str] | None:
    """The last lines of `head` that stand in it only once, as few as will do; None where none do."""
    lines = _lines(head)
    for count in _LINES:
        anchor = lines[-count:]
        said = "".join("".join(anchor).split())
        if len(anchor) == count and len(said) >= _LEAST_CHARACTERS and len(_places(lines, anchor)) == 1:
            return anchor
    return None


def joined(head: str, anchor: Sequence[str], more: str) -> str | None:
    """`head` and what stands behind `anchor` in `more`; None where that is not one sure place."""
    lines = more.replace("\r\n", "\n").split("\n")
    stripped = [line.rstrip() for line in lines]
    places = _places(stripped, anchor)
    if len(places) != 1 or places[0] > _WITHIN:
        return None
    if not _says_again(stripped[: places[0]], _lines(head)[: -len(anchor)]):
        return None
    return head.rstrip("\n") + "\n" + "\n".join(lines[places[0] + len(anchor) :])


def _says_again(before: Sequence[str], head: Sequence[str]) -> bool:
    """Whether `before` ends like `head`, behind a greeting at most: else it may be a new beginning."""
    same = 0
    while same < min(len(before), len(head)) and before[-1 - same] == head[-1 - same]:
        same += 1
    return sum(bool(line) for line in before[: len(before) - same]) <= _GREETING


def _places(lines: Sequence[str], anchor: Sequence[str]) -> list[int]:
    first = anchor[0]
    wanted = list(anchor)
    return [
        number
        for number, line in enumerate(lines)
        if line == first and list(lines[number : number + len(wanted)]) == wanted
    ]


def _lines(head: str) -> list[str]:
    return [line.rstrip() for line in head.replace("\r\n", "\n").rstrip().split("\n")]


def _turns_in_circles(head: str) -> bool:
    last = [line for line in _lines(head) if line][-_LAST:]
    return len(last) == _LAST and len(set(last)) <= _DIFFERENT
