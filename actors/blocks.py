"""What a reply can hold: whole files, edits, removals, and what was meant as one of them and is not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeFile:
    """A file from its first to its last line.

    Attributes:
        text: With `\\n` line ends, the last line ended too.
        weak: The path was only mentioned in the sentence before the block.
        unclosed: No fence closes it, so that it may not be all of the file.
    """

    path: str
    text: str
    weak: bool = False
    unclosed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Lines of a file and what is to stand in their place.

    Attributes:
        path: None where the reply does not say.
        inherited: The path is the one of the edit before it.
        search: Lines that stand in the file; none for a file that does not exist yet.
        replace: Lines to stand there instead; none to remove them.
        raw: Another reading of the same lines, for a diff whose context has lost its first column.
        line: Where the lines begin, by a diff's own careful count, from 1.
    """

    path: str | None
    search: tuple[str, ...]
    replace: tuple[str, ...]
    inherited: bool = False
    raw: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A file that goes; `text` is what the reply believes is in it."""

    path: str
    text: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A block that cannot be read: why, in words for the model.

    Attributes:
        is_cut: The reply, which was cut off, ends inside it.
    """

    path: str | None
    reason: str
    is_cut: bool = False


Block = WholeFile | Edit | Removal | Broken
