"""A text file while edits are made in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from actors.blocks import Edit
from actors.elision import elided
from actors.matching import NoMatch, Place, locate
from orchestrator.errors import AgentError

BOM = "\ufeff"


@dataclass
class EditedText:
    """A text file while it is edited; `origin` holds each line's number before, None for new ones."""

    lines: list[str]
    origin: list[int | None]
    before: list[str]
    newline: str = "\n"
    bom: str = ""
    ends: bool = True
    ragged: bool = False
    edits: int = 0

    @classmethod
    def of(cls, text: str) -> EditedText:
        """The text before any edit."""
        bom = BOM if text.startswith(BOM) else ""
        body = text.removeprefix(BOM)
        crlf = body.count("\r\n")
        is_crlf = crlf > 0 and crlf == body.count("\n")
        lines = (body.replace("\r\n", "\n") if is_crlf else body).split("\n")
        ends = lines[-1] == ""
        lines = lines[:-1] if ends else lines
        return cls(
            lines=lines,
            origin=list(range(len(lines))),
            before=list(lines),
            newline="\r\n" if is_crlf else "\n",
            bom=bom,
            ends=ends or not body,
            ragged=crlf > 0 and not is_crlf,
        )

    def place(self, edit: Edit) -> Place:
        """Where `edit` goes now: by the file as the model saw it, else as the edits before left it."""
        try:
            found = locate(self.before, edit.search, edit.replace, edit.line)
        except NoMatch as error:
            if error.lines or not self.edits:
                raise
            return locate(self.lines, edit.search, edit.replace)
        start = next((n for n, origin in enumerate(self.origin) if origin == found.start), None)
        size = found.end - found.start
        if start is None or self.origin[start : start + size] != list(range(found.start, found.end)):
            return locate(self.lines, edit.search, edit.replace)
        return replace(found, start=start, end=start + size)

    def put(self, place: Place) -> None:
        """Make the edit there."""
        new = list(place.replace)
        if self.ragged:
            old = self.lines[place.start : place.end]
            if any(line.endswith("\r") for line in old):
                new = [line.removesuffix("\r") + "\r" for line in new]
        self.lines[place.start : place.end] = new
        # A line that stays keeps its number, so that a later edit may search for it.
        self.origin[place.start : place.end] = _kept_origin(
            self.before, self.origin[place.start : place.end], new
        )
        self.edits += 1

    def text(self) -> str:
        """As it is now, with the line ends and the mark at its head that it had."""
        body = self.newline.join(self.lines)
        return self.bom + body + (self.newline if self.ends and self.lines else "")


def _kept_origin(before: list[str], old: Sequence[int | None], new: Sequence[str]) -> list[int | None]:
    head = 0
    while head < min(len(old), len(new)) and _is_line(before, old[head], new[head]):
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and _is_line(before, old[-1 - tail], new[-1 - tail]):
        tail += 1
    return [*old[:head], *[None] * (len(new) - head - tail), *old[len(old) - tail :]]


def _is_line(before: list[str], number: int | None, line: str) -> bool:
    return number is not None and before[number] == line


def parts(path: str, text: EditedText, edit: Edit) -> list[Edit]:
    """The edit in pieces where both of its texts leave out the same lines; itself where neither does."""
    real = {line.strip() for line in text.lines} | {line.strip() for line in text.before}
    left_out = elided(path, edit.replace, real)
    gaps = elided(path, edit.search, real)
    if not left_out and not gaps:
        return [edit]
    olds, news = _pieces(path, edit.search, real), _pieces(path, edit.replace, real)
    if gaps and len(olds) == len(news):
        pairs = [(old, new) for old, new in zip(olds, news, strict=True) if old or new]
        if pairs and all(any(line.strip() for line in old) for old, _ in pairs):
            return [replace(edit, search=old, replace=new, raw=None) for old, new in pairs]
    raise AgentError(
        f"a SEARCH/REPLACE block for {path} leaves code out where it says {(left_out or gaps or '')[:80]!r}",
        "write every line of the part that changes, and search for no more than that",
    )


def _pieces(path: str, lines: Sequence[str], real: set[str]) -> list[tuple[str, ...]]:
    found: list[list[str]] = [[]]
    for line in lines:
        if elided(path, [line], real):
            found.append([])
        else:
            found[-1].append(line)
    return [tuple(each) if any(line.strip() for line in each) else () for each in found]


def find(lines: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where the lines stand exactly; empty where they do not, or in several places."""
    try:
        place = locate(lines, wanted, wanted)
    except NoMatch:
        return []
    return [place.start] if place.exact else []


def made_before(text: EditedText, edit: Edit) -> Place | None:
    """Where a block before this one made the edit: the file was given whole, or it was said twice."""
    if text.edits and _is_there(text.lines, edit.replace) and not find(text.before, edit.replace):
        where = find(text.lines, edit.replace)[0]
        return Place(start=where, end=where + len(edit.replace), replace=edit.replace)
    return None


def _is_there(lines: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether an edit has been made already by a block before it: enough of it stands there once."""
    return len("".join(wanted).strip()) >= 12 and bool(find(lines, wanted))
