"""A release of a certified patch: the next version, and what the changelog says of it. Texts only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import TaskError
from orchestrator.patch import Changes
from orchestrator.tree import File, Tree

CHANGELOG = "CHANGELOG.md"
_IN_PYPROJECT = re.compile(r'^(version\s*=\s*")(\d+)\.(\d+)\.(\d+)(")', re.MULTILINE)
_IN_PACKAGE = re.compile(r'("version"\s*:\s*")(\d+)\.(\d+)\.(\d+)(")')
_VERSIONED = (("pyproject.toml", _IN_PYPROJECT), ("package.json", _IN_PACKAGE))
UNRELEASED = "Unreleased"
_SECTION = re.compile(r"^## ", re.MULTILINE)
PARTS = ("major", "minor", "patch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The next version, empty where no file tells one, and the changes to a tree that make it."""

    version: str
    changes: Changes


def release(tree: Tree, part: str, notes: Sequence[str]) -> Release:
    """The release of `tree` with `part` of its version raised and `notes` in its changelog.

    Raises:
        TaskError: There is no such part.
    """
    if part not in PARTS:
        raise TaskError(f"a version has no part {part!r:.50}", f"name one of {', '.join(PARTS)}")
    texts = {path: _text(tree, path) for path, _ in _VERSIONED if path in tree.files}
    found = [(path, pattern) for path, pattern in _VERSIONED if pattern.search(texts.get(path, ""))]
    if not found:
        # The patch is as good without a number; whoever releases it gives one.
        text = _with_section(_text(tree, CHANGELOG), UNRELEASED, notes)
        return Release(version="", changes={CHANGELOG: _file(tree, CHANGELOG, text)})
    path, pattern = found[0]
    match = pattern.search(texts[path])
    assert match is not None
    version = _raised([int(match[number]) for number in (2, 3, 4)], part)
    changes: dict[str, File | None] = {}
    for path, pattern in found:
        text = pattern.sub(lambda each: f"{each[1]}{version}{each[5]}", texts[path], count=1)
        changes[path] = _file(tree, path, text)
    changes[CHANGELOG] = _file(tree, CHANGELOG, _with_section(_text(tree, CHANGELOG), version, notes))
    return Release(version=version, changes=changes)


def _raised(numbers: list[int], part: str) -> str:
    at = PARTS.index(part)
    return ".".join(str(n + 1 if place == at else n if place < at else 0) for place, n in enumerate(numbers))


def _with_section(text: str, version: str, notes: Sequence[str]) -> str:
    """The changelog with a section before its newest one."""
    lines = "".join(f"- {' '.join(note.split())[:500]}\n" for note in notes)
    if open_ := re.search(rf"(?im)^## \[?{version}\]?.*\n\n?", text):
        return f"{text[: open_.end()]}{lines}{text[open_.end() :]}"
    section = f"## {version}\n\n{lines}\n"
    if not text.strip():
        return f"# Changelog\n\n{section}".rstrip() + "\n"
    newest = _SECTION.search(text)
    if newest is None:
        return f"{text.rstrip()}\n\n{section}".rstrip() + "\n"
    return f"{text[: newest.start()]}{section}{text[newest.start() :]}"


def _text(tree: Tree, path: str) -> str:
    return tree.files[path].content.decode("utf-8", "surrogateescape") if path in tree.files else ""


def _file(tree: Tree, path: str, text: str) -> File:
    content = text.encode("utf-8", "surrogateescape")
    return File(content=content, mode=tree.files[path].mode) if path in tree.files else File(content=content)
