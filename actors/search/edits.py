"""An edit is exact spans of characters replaced; all other bytes of a file stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from actors.search.inside.text import decode, replaced
from orchestrator.tree import File, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Characters `start` to `end` of the decoded file at `path` become `replacement`."""

    path: str
    start: int
    end: int
    replacement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A possible repair: edits that are applied together.

    Attributes:
        kind: The mutation operator, for statistics and ranking.
        weight: How plausible it is before any test ran, in (0, 1].
        explanation: What it does, in a few words for people.
        line: Where, 1-based, in the first edit's file.
        failing: Failing tests that execute the place, most telling first; empty for unknown.
    """

    edits: tuple[Edit, ...]
    kind: str
    weight: float
    explanation: str
    line: int
    failing: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Characters taken away or put in."""
        return sum(edit.end - edit.start + len(edit.replacement) for edit in self.edits)


def wire_form(edits: Iterable[Edit]) -> dict[str, list[list[Any]]]:
    """`edits` as the worker takes them: spans per path."""
    spans: dict[str, list[list[Any]]] = {}
    for edit in edits:
        spans.setdefault(edit.path, []).append([edit.start, edit.end, edit.replacement])
    return spans


def apply(content: bytes, edits: Iterable[Edit]) -> bytes:
    """`content` with `edits`, all of one file, in its own encoding.

    Raises:
        ValueError: Spans overlap or leave the file, or the file cannot be decoded.
    """
    text, encoding = decode(content)
    return replaced(text, [(edit.start, edit.end, edit.replacement) for edit in edits]).encode(encoding)


def applied(tree: Tree, edits: Iterable[Edit]) -> Tree:
    """`tree` with `edits`."""
    per_path: dict[str, list[Edit]] = {}
    for edit in edits:
        per_path.setdefault(edit.path, []).append(edit)
    changed: Mapping[str, File | None] = {
        path: File(content=apply(tree.files[path].content, some), mode=tree.files[path].mode)
        for path, some in per_path.items()
    }
    return tree.with_files(changed)


def inverse(content: bytes, edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """What turns `apply(content, edits)` into `content` again."""
    text, _ = decode(content)
    shift = 0
    back: list[Edit] = []
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        start = edit.start + shift
        old = text[edit.start : edit.end]
        back.append(Edit(path=edit.path, start=start, end=start + len(edit.replacement), replacement=old))
        shift += len(edit.replacement) - len(old)
    return tuple(back)
