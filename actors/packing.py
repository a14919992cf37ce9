"""Chooses what goes into a prompt, so that it fits into the engine's context, and says what and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from actors.engines.port import Engine, Measure, Message, Sampling
from actors.prompts import version
from orchestrator.context import ContextManifest, LeftOut, Shown
from orchestrator.errors import PromptTooLong
from orchestrator.tree import FileMode, Tree

# Without a word from the engine a prompt has at most so many characters of files and output.
PROMPT_CHARACTERS = 240_000
# Tokens that a reply has to have, or a quarter of a smaller context.
REPLY_TOKENS = 1024
# Names of files that are not shown, in a prompt and in a manifest.
LEFT_OUT = 100
_ROUNDS = 8
# A prompt this close to the longest that fits is good enough.
_CLOSE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a prompt's text, with where it comes from; see `Shown`."""

    kind: str
    name: str
    why: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A prompt's text and what it is made of. What no part accounts for is the template's own."""

    text: str
    template: str = ""
    parts: tuple[Part, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


Compose = Callable[[int], "Composed | str"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A prompt that fits.

    Attributes:
        sampling: Bounds the reply by what is left of the context.
        limit: Characters that it was composed within.
    """

    message: Message
    sampling: Sampling
    limit: int
    composed: Composed
    measure: Measure


async def pack(
    engine: Engine, compose: Compose, limit: int = PROMPT_CHARACTERS, after: Sequence[Message] = ()
) -> Packed:
    """The longest prompt that `compose` makes within `limit` characters and the engine's context.

    Args:
        engine: Measures it.
        compose: Makes the prompt with at most so many characters of what can be left out.
        limit: Where to begin.
        after: The turns that follow it.

    Raises:
        PromptTooLong: What cannot be left out does not fit.
        MachineError: The engine cannot be asked.
    """
    best: Packed | None = None
    too_long: int | None = None
    for _ in range(_ROUNDS):
        composed = _composed(compose(limit))
        message = Message(role="user", content=composed.text)
        measure = await engine.measure([message, *after])
        packed = _packed(message, measure, limit, composed)
        if packed is not None:
            best = packed
            if too_long is None or limit >= too_long * _CLOSE:
                break
            limit = (limit + too_long) // 2
            continue
        too_long = limit
        if limit == 0:
            break
        limit = _shorter(limit, message, measure) if best is None else (best.limit + too_long) // 2
    if best is None:
        raise PromptTooLong(
            f"the task alone takes {measure.prompt} of the {measure.room} tokens that {engine.name} has",
            "say less, or use a model with a longer context",
        )
    return best


def _composed(made: Composed | str) -> Composed:
    return Composed(text=made) if isinstance(made, str) else made


def _packed(message: Message, measure: Measure, limit: int, composed: Composed) -> Packed | None:
    """The prompt with the room for its reply; None where that is too little."""
    sampling = Sampling()
    if measure.room is not None:
        left = measure.room - measure.prompt
        if left < _reserve(measure.room):
            return None
        sampling = Sampling(max_tokens=left)
    return Packed(message=message, sampling=sampling, limit=limit, composed=composed, measure=measure)


def _reserve(room: int) -> int:
    return min(REPLY_TOKENS, room // 4)


def _shorter(limit: int, message: Message, measure: Measure) -> int:
    assert measure.room is not None
    wanted = measure.room - _reserve(measure.room)
    limit = min(limit, len(message.content)) * wanted * 9 // (10 * max(1, measure.prompt))
    return limit if limit > 200 else 0


async def manifest_of(engine: Engine, packed: Packed) -> ContextManifest:
    """What the prompt holds, each part counted by the engine's own tokenizer.

    Raises:
        MachineError: The engine cannot be asked.
    """
    composed = packed.composed
    frame = (await engine.measure([Message(role="user", content="")])).prompt
    shown = []
    for part in _countable(composed.parts):
        measured = await engine.measure([Message(role="user", content=part.text)])
        tokens = max(0, measured.prompt - frame)
        shown.append(Shown(kind=part.kind, name=part.name, why=part.why, tokens=tokens))
    rest = max(0, packed.measure.prompt - sum(each.tokens for each in shown))
    frame_part = Shown(kind="frame", name=composed.template or "prompt", why="the rest", tokens=rest)
    left_out = composed.left_out
    if len(left_out) > LEFT_OUT:
        more = LeftOut(kind="file", name=f"and {len(left_out) - LEFT_OUT} more", why="no room")
        left_out = (*left_out[:LEFT_OUT], more)
    return ContextManifest(
        template=composed.template,
        version=version(composed.template) if composed.template else "",
        prompt=packed.measure.prompt,
        room=packed.measure.room,
        shown=(*shown, frame_part),
        left_out=left_out,
    )


def _countable(parts: Sequence[Part]) -> Sequence[Part]:
    """`parts`, those beyond the first hundred as one."""
    if len(parts) <= LEFT_OUT:
        return parts
    rest = parts[LEFT_OUT:]
    lump = Part(
        kind=rest[0].kind,
        name=f"and {len(rest)} more",
        why="there was room",
        text="\n".join(part.text for part in rest),
    )
    return [*parts[:LEFT_OUT], lump]


def texts(tree: Tree) -> dict[str, str]:
    """The tree's files that are text."""
    found = {}
    for path, file in tree.files.items():
        if file.mode is not FileMode.LINK:
            try:
                found[path] = file.content.decode("utf-8")
            except UnicodeDecodeError:
                continue
    return found


def chosen(
    files: Mapping[str, str], limit: int, first: Iterable[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """The files that are shown within `limit` characters, in the order of `files`, and names of the others.

    Args:
        files: By path.
        limit: Characters of all files shown.
        first: Paths in order of their weight; the others come after them, short ones first.
    """
    weighty = [path for path in dict.fromkeys(first) if path in files]
    rest = sorted(files.keys() - set(weighty), key=lambda path: (len(files[path]), path))
    shown = set()
    for path in [*weighty, *rest]:
        size = size_of(path, files[path])
        if size <= limit:
            limit -= size
            shown.add(path)
    return {path: text for path, text in files.items() if path in shown}, few(
        path for path in files if path not in shown
    )


class Parts(TypedDict):
    """The fields of `Composed` that tell what it is made of."""

    parts: tuple[Part, ...]
    left_out: tuple[LeftOut, ...]


def parts_of(
    goal: str | None, files: Mapping[str, str], shown: Mapping[str, str], why: str = "there was room"
) -> Parts:
    """A goal and the `shown` ones of `files` as parts, the others as left out."""
    parts = [Part(kind="goal", name="goal", why="what is asked for", text=goal)] if goal else []
    parts += [Part(kind="file", name=path, why=why, text=text) for path, text in shown.items()]
    left_out = [
        LeftOut(kind="file", name=path, why=f"{len(text)} characters did not fit")
        for path, text in files.items()
        if path not in shown
    ]
    return Parts(parts=tuple(parts), left_out=tuple(left_out))


def size_of(path: str, text: str) -> int:
    """Characters that a file takes in a prompt."""
    return len(text) + len(path) + 10


def few(names: Iterable[str]) -> list[str]:
    """`names`, or the first hundred and how many more there are."""
    known = list(names)
    return [*known[:LEFT_OUT], f"and {len(known) - LEFT_OUT} more"] if len(known) > LEFT_OUT else known
