"""What a model was shown and what not: the manifest of one prompt, kept with its step's result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A part of a prompt.

    Attributes:
        kind: goal, failing, output, refused, file, signatures, memory, diff or frame (all the rest).
        name: A path, a test, or the kind again.
        why: In words, why it went in.
        tokens: By the engine's tokenizer where it has one, else the engine's estimate.
    """

    kind: str
    name: str
    why: str
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What was not shown, and why not."""

    kind: str
    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextManifest:
    """One prompt as it was sent.

    Attributes:
        template: Its template's name; `version` changes with the template's text.
        prompt: Tokens of the whole prompt, turns after it included.
        room: Tokens that prompt and reply may have together, None where nobody knows.
    """

    template: str
    version: str
    prompt: int
    room: int | None
    shown: tuple[Shown, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
