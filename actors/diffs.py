"""Reads the diffs that models write as edits: the lines count, not their numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from actors.blocks import Block, Broken, Edit, Removal, WholeFile
from actors.paths import LINE, tidy

_HUNK = re.compile(r"^@@(?: -(?P<line>\d+)(?:,(?P<old>\d+))? \+\d+(?:,(?P<new>\d+))? @@.*|.*)$")
_GIT = re.compile(r"^diff --git \"?a/(?P<old>.+?)\"? \"?b/(?P<new>.+?)\"?$")
_SIDE = re.compile(r"^(?:---|\+\+\+) \"?(?P<path>[^\t\"]+?)\"?(?:\t.*)?\s*$")
_PATCH = re.compile(r"^\*\*\* (?P<what>Update|Add|Delete) File: (?P<path>.+?)\s*$")
_MOVED = re.compile(r"^(?:rename|copy) (?:from|to) |^\*\*\* Move to: ")
_NOTES = re.compile(
    r"^(?:index [0-9a-f.]+|new file mode|deleted file mode|old mode|new mode|similarity index|"
    r"\*\*\* (?:Begin|End) (?:Patch|of File)|\\ No newline)",
    re.IGNORECASE,
)


def starts_diff(lines: Sequence[str], at: int) -> bool:
    """Whether a diff with the name of its file begins in line `at`."""
    line = lines[at]
    if len(line) > LINE:
        return False
    if _GIT.match(line) or _PATCH.match(line) or line.startswith("*** Begin Patch"):
        return True
    after = lines[at + 1] if at + 1 < len(lines) else ""
    return line.startswith("--- ") and after.startswith("+++ ")


@dataclass
class _Reading:
    """What has been read of one file's diff."""

    path: str | None
    kind: str = "Update"
    header: re.Match[str] | None = None
    body: list[str] = field(default_factory=list)
    is_moved: bool = False


def read_diff(
    lines: Sequence[str], at: int, path: str | None, ends: Callable[[str], bool], fenced: bool
) -> tuple[list[Block], int]:
    """The blocks of the diff that begins in line `at`, and the line behind it.

    Args:
        lines: Of the reply.
        at: Where to begin.
        path: Whose diff it is where it does not say.
        ends: Whether a line closes the fence around it.
        fenced: There is such a fence; without one the diff ends at the first line that is none of it.
    """
    blocks: list[Block] = []
    now = _Reading(path=path)
    while at < len(lines) and not (fenced and ends(lines[at])):
        line = lines[at]
        following = lines[at + 1] if at + 1 < len(lines) else ""
        if len(line) <= LINE and (found := _GIT.match(line)):
            blocks += _closed(now)
            now = _Reading(path=tidy(found["new"]))
        elif len(line) <= LINE and (found := _PATCH.match(line)):
            blocks += _closed(now)
            now = _Reading(path=tidy(found["path"]), kind=found["what"])
        elif line.startswith("--- ") and following.startswith("+++ ") and len(line) <= LINE:
            if now.body:
                blocks += _closed(now)
                now = _Reading(path=path)
            now = _sides(now, line, following)
            at += 1
        elif line.startswith("@@") and len(line) <= LINE:
            blocks += _hunk(now)
            now.header, now.body = _HUNK.match(line), []
        elif _MOVED.match(line):
            now.is_moved = True
        elif line.startswith("*** End Patch"):
            at += 1
            break
        elif not _NOTES.match(line):
            if not fenced and line and line[0] not in " +-":
                break
            now.body.append(line)
        at += 1
    return [*blocks, *_closed(now)], at


def _sides(now: _Reading, old: str, new: str) -> _Reading:
    before, after = _SIDE.match(old), _SIDE.match(new)
    old_path, new_path = (found["path"].strip() if found else "" for found in (before, after))
    if old_path == "/dev/null":
        return _Reading(path=_stripped(new_path, "b/"), kind="Add")
    if new_path == "/dev/null":
        return _Reading(path=_stripped(old_path, "a/"), kind="Delete")
    path = now.path if now.path and new_path.endswith(now.path) else _stripped(new_path, "b/")
    return _Reading(path=path, is_moved=now.is_moved)


def _stripped(path: str, prefix: str) -> str:
    return tidy(path.removeprefix(prefix)) if not path.startswith("/") else path


def _closed(now: _Reading) -> Iterator[Block]:
    if now.is_moved:
        yield Broken(path=now.path, reason="it moves a file")
    elif now.kind == "Delete" and now.path:
        yield Removal(path=now.path, text=tuple(line[1:] for line in now.body if line.startswith("-")))
    else:
        yield from _hunk(now)


def _hunk(now: _Reading) -> Iterator[Block]:
    body = now.body
    while body and not body[-1].strip():
        body = body[:-1]
    while body and not body[0].strip():
        body = body[1:]
    if not body or now.is_moved or now.kind == "Delete":
        return
    changed = any(line[:1] in "+-" for line in body if line)
    if now.path is None:
        yield Broken(path=None, reason="a diff does not say which file it is for")
    elif now.kind == "Add":
        yield from _added(now.path, body)
    elif not changed:
        yield Broken(path=now.path, reason="a hunk of its diff has no line that begins with + or -")
    elif not any(line and line[0] != "+" and line.strip() for line in body):
        yield Broken(path=now.path, reason="a hunk of its diff has no line that stands in the file already")
    else:
        yield _edit(now, body)


def _added(path: str, body: Sequence[str]) -> Iterator[Block]:
    if all(line.startswith("+") or not line for line in body):
        yield WholeFile(path=path, text="\n".join(line[1:] for line in body) + "\n")
    else:
        yield Broken(path=path, reason="the diff of a new file has lines that do not begin with +")


def _edit(now: _Reading, body: Sequence[str]) -> Edit:
    kept = [line for line in body if line[:1] not in ("+", "-")]
    old = tuple(line[1:] for line in body if line[:1] != "+")
    new = tuple(line[1:] for line in body if line[:1] != "-")
    raw = None
    if any(line.strip() for line in kept):
        raw = (
            tuple(line[1:] if line[:1] == "-" else line for line in body if line[:1] != "+"),
            tuple(line[1:] if line[:1] == "+" else line for line in body if line[:1] != "-"),
        )
    well_formed = all(line[:1] == " " or not line for line in kept)
    edit = Edit(
        path=now.path, search=old, replace=new, raw=raw, line=_counted(now.header, len(old), len(new))
    )
    if well_formed or raw is None:
        return edit
    # A context line that begins with no blank cannot be one: the first column is missing.
    return Edit(path=now.path, search=raw[0], replace=raw[1])


def _counted(header: re.Match[str] | None, old: int, new: int) -> int | None:
    """The line a hunk begins in, where its counts show that they were made with care."""
    if header is None or header["line"] is None:
        return None
    told = (int(header["old"] or 1), int(header["new"] or 1))
    return int(header["line"]) if told == (old, new) else None
