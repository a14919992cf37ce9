"""Lays a reply's blocks over the files they are for: what applies is kept, the rest is told why."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from actors.blocks import Block, Broken, Edit, Removal, WholeFile
from actors.elision import elided
from actors.matching import NoMatch, Place, locate, nearest, straight
from actors.python_text import hollowed, imports_of, module_of, names_of, syntax_fault, unbound_in
from orchestrator.errors import AgentError
from orchestrator.patch import MAX_FILE_BYTES, Changes, check_path
from orchestrator.tree import File, FileMode, Tree

# A file with fewer filled lines may be written anew by anything.
_SMALL = 4
# Blocks of one reply that are tried, and that may fail before the rest is left untried.
MAX_BLOCKS = 400
MAX_PROBLEMS = 20
# Bytes of the tree that are looked through for edits that name no file, over a whole reply.
MAX_LOOKED_THROUGH = 1 << 30
_PROSE = (".md", ".markdown", ".mdx", ".rst", ".txt")
_KEYED = (".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".env", ".properties")
_KEY = re.compile(r"[\w.\"'-]+(?=\s*[:=])|\[[^\]]+\]")
_WORK = "/work/"
_BOM = "\ufeff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One block that was not applied.

    Attributes:
        path: Of the file it is for, None where nobody knows.
        reason: What is wrong and what to do, in words for the model.
        shown_from: Line number of the first line in `shown`, from 1.
        shown: The part of the file, as it is now, that the block is most like.
        is_forbidden: The agent may not write this file at all; asking again would not help.
    """

    path: str | None
    reason: str
    shown_from: int = 0
    shown: tuple[str, ...] = ()
    is_forbidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of a reply.

    Attributes:
        changes: Files as the reply wants them, None for one that goes.
        problems: What was not applied.
        blocks: Those that were applied and still hold.
    """

    changes: Changes = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    blocks: tuple[Block, ...] = ()


Permit = Callable[[str, File | None], None]


def apply_blocks(tree: Tree, blocks: Iterable[Block], permit: Permit | None = None) -> Applied:
    """`blocks` laid over `tree`, each whole or not at all.

    A file whose Python was sound and would not be afterwards keeps none of its edits.

    Args:
        tree: What the edits are made to.
        blocks: As `parse` read them.
        permit: Raises AgentError for a file that the agent may not write.
    """
    work = _Work(tree)
    every = _once(list(blocks))
    for number, block in enumerate(every):
        if number == MAX_BLOCKS or len(work.problems) == MAX_PROBLEMS:
            left = f"{len(every) - number} more blocks of the reply were not tried"
            work.problems.append(Problem(path=None, reason=f"{left}; write fewer at a time"))
            break
        work.add(block)
    return work.done(permit)


def _once(blocks: list[Block]) -> list[Block]:
    """Without repetitions, and without mentioned files that are given properly too."""
    given = {block.path for block in blocks if isinstance(block, WholeFile) and not block.weak}
    kept: dict[Block, None] = {}
    for block in blocks:
        if isinstance(block, WholeFile) and block.weak and block.path in given:
            continue
        if isinstance(block, WholeFile):
            # Said again, it counts where it is said last.
            kept.pop(block, None)
        kept.setdefault(replace(block, inherited=False) if isinstance(block, Edit) and block.path else block)
    inherited = {
        (block.path, block.search, block.replace)
        for block in blocks
        if isinstance(block, Edit) and block.inherited
    }
    return [
        replace(block, inherited=True)
        if isinstance(block, Edit) and block.path and (block.path, block.search, block.replace) in inherited
        else block
        for block in kept
    ]


@dataclass
class _Text:
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
    def of(cls, text: str) -> _Text:
        bom = _BOM if text.startswith(_BOM) else ""
        body = text.removeprefix(_BOM)
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


class _Work:
    """The files while blocks are laid over them."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.texts: dict[str, _Text] = {}
        self.changes: dict[str, File | None] = {}
        self.problems: list[Problem] = []
        self.applied: list[tuple[str, Block]] = []
        self.looked_through = 0
        self.names: dict[str, list[str]] | None = None

    def add(self, block: Block) -> None:
        """Apply one block, or note why not."""
        path = self._resolved(block)
        try:
            if path is not None:
                check_path(path)
            if isinstance(block, Broken):
                raise AgentError(block.reason)
            if path is None:
                raise AgentError(
                    "a SEARCH/REPLACE block does not say which file it is for",
                    "write the path on the line before it",
                )
            if isinstance(block, WholeFile):
                self._whole(path, block.text, unclosed=block.unclosed)
            elif isinstance(block, Removal):
                self._remove(path, block.text)
            else:
                self._edit(path, block)
        except AgentError as error:
            self._note(path, error, block)
        else:
            self.applied.append((str(path), block))

    def _note(self, path: str | None, error: AgentError, block: Block) -> None:
        first, shown = 0, list[str]()
        if isinstance(block, Edit) and isinstance(error, NoMatch) and path and (text := self._text(path)):
            if error.lines:
                first = max(1, error.lines[0] - 3)
                shown = text.lines[first - 1 : error.lines[0] + len(block.search) + 3][:60]
            else:
                first, shown = nearest(text.lines, block.search)
        reason = f"in the block for {path}, {error}" if isinstance(error, NoMatch) else str(error)
        self.problems.append(Problem(path=path, reason=reason, shown_from=first, shown=tuple(shown)))

    def _resolved(self, block: Block) -> str | None:
        """The path of a block as the tree knows it, where that is beyond doubt."""
        path = block.path
        if isinstance(block, Edit) and (
            path is None or (block.inherited and not self._stands_in(path, block))
        ):
            return self._only_home(block) or path
        if path is None or path in self.tree.files or path in self.changes:
            return path
        for other in (path.removeprefix(_WORK), path.replace("\\", "/")):
            if other in self.tree.files:
                return other
        if isinstance(block, Edit) and block.search and not path.startswith(("/", "~", ".")):
            named = self._by_name().get(PurePosixPath(path).name, ())
            ending = [each for each in named if each.endswith(f"/{path}")]
            if len(ending) == 1 and self._stands_in(ending[0], block):
                return ending[0]
        return path

    def _by_name(self) -> Mapping[str, Sequence[str]]:
        """The tree's paths by their last part."""
        if self.names is None:
            self.names = defaultdict(list)
            for path in self.tree.files:
                self.names[path.rpartition("/")[2]].append(path)
        return self.names

    def _stands_in(self, path: str, edit: Edit) -> bool:
        """Whether the lines that `edit` searches for stand in the file to the letter."""
        text = self._text(path)
        wanted = "\n".join(edit.search)
        return (
            bool(wanted.strip())
            and text is not None
            and f"\n{wanted}\n" in "\n" + "\n".join(text.lines) + "\n"
        )

    def _only_home(self, edit: Edit) -> str | None:
        """The one file that holds what is searched for, to the letter; None where that is too little."""
        if len("".join(edit.search).strip()) < 12:
            return None
        homes = [path for path in self._holders(edit) if self._stands_in(path, edit)]
        return homes[0] if len(homes) == 1 else None

    def _holders(self, edit: Edit) -> list[str]:
        """Files whose bytes hold what is searched for; none once too many bytes were looked through."""
        wanted = [end.join(edit.search).encode("utf-8", "replace") for end in ("\n", "\r\n")]
        found = []
        for path, file in self.tree.files.items():
            # One that was changed may hold it by now.
            now = self.changes.get(path, file)
            self.looked_through += len(now.content) if now else 0
            if self.looked_through > MAX_LOOKED_THROUGH:
                return []
            if now is not None and any(each in now.content for each in wanted):
                found.append(path)
        return found

    def _text(self, path: str) -> _Text | None:
        """The file as it stands now; None where there is none, or none of text."""
        if path not in self.texts:
            file = self.changes[path] if path in self.changes else self.tree.files.get(path)
            if file is None or file.mode is FileMode.LINK:
                return None
            try:
                self.texts[path] = _Text.of(file.content.decode("utf-8"))
            except UnicodeDecodeError:
                return None
        return self.texts[path]

    def _whole(self, path: str, text: str, *, unclosed: bool = False) -> None:
        old = self.tree.files.get(path)
        before = self._original(path)
        if len(text) > MAX_FILE_BYTES:
            raise AgentError(f"{path} has {len(text)} bytes", f"write at most {MAX_FILE_BYTES} a file")
        lines = text.removeprefix(_BOM).split("\n")[:-1]
        real = {line.strip() for line in before.lines} if before else set[str]()
        if found := elided(path, lines, real):
            raise AgentError(
                f"{path} leaves code out where it says {found[:80]!r}",
                "write every line of it, or change it with SEARCH/REPLACE blocks",
            )
        lines = _mended(path, lines)
        if unclosed and not (before and _filled(before.lines)[-1:] == _filled(lines)[-1:]):
            raise AgentError("the reply ends inside a fenced block", "write the file again, whole")
        self._check_is_whole(path, lines)
        new = _Text.of("")
        new.lines, new.ends = lines, True
        if before:
            new.newline, new.bom, new.before = before.newline, before.bom, before.before
        new.origin = [None] * len(lines)
        new.edits = 1
        self.texts[path] = new
        self.changes[path] = _file(new.text(), old)

    def _original(self, path: str) -> _Text | None:
        file = self.tree.files.get(path)
        if file is None or file.mode is FileMode.LINK:
            return None
        try:
            return _Text.of(file.content.decode("utf-8"))
        except UnicodeDecodeError:
            return None

    def _check_is_whole(self, path: str, lines: Sequence[str]) -> None:
        """Refuse a part of a file that stands under its path: it would take the rest away."""
        old = self._text(path) or self._original(path)
        lost = _lost(path, old.lines, lines) if old is not None else []
        if lost:
            raise AgentError(
                f"{path} would lose {', '.join(lost[:6])}: that is a part of the file",
                "write all of it, or change it with SEARCH/REPLACE blocks",
            )

    def _remove(self, path: str, text: Sequence[str]) -> None:
        now = self._text(path)
        if now is None or [line.rstrip() for line in now.lines] != [line.rstrip() for line in text]:
            raise AgentError(
                f"{path} is not what the diff removes", "show all of its lines with - before them"
            )
        self.changes[path] = None
        del self.texts[path]

    def _edit(self, path: str, edit: Edit) -> None:
        text = self._text(path)
        if not any(line.strip() for line in edit.search):
            if text is not None and any(line.strip() for line in text.lines):
                raise AgentError(
                    f"a SEARCH/REPLACE block for {path} searches for nothing",
                    "search for the lines that are to be replaced or to stay beside the new ones",
                )
            if path in self.tree.files and text is None:
                raise AgentError(f"{path} is no text", "leave it as it is")
            return self._whole(path, "\n".join(edit.replace).rstrip("\n") + "\n")
        if text is None:
            raise AgentError(f"there is no file {path} with text in it", "name a file that is there")
        self._put(path, text, edit)
        return None

    def _put(self, path: str, text: _Text, edit: Edit) -> None:
        saved = (list(text.lines), list(text.origin), text.edits)
        try:
            for part in _parts(path, text, edit):
                text.put(self._placed(text, part))
        except AgentError:
            text.lines, text.origin, text.edits = saved
            raise
        self.changes[path] = _file(text.text(), self.tree.files.get(path))

    def _placed(self, text: _Text, edit: Edit) -> Place:
        made = _made_before(text, edit)
        if made and _find(edit.replace, edit.search):
            return made
        try:
            return text.place(edit)
        except NoMatch as error:
            if made:
                return made
            if edit.raw and not error.lines:
                try:
                    return text.place(replace(edit, search=edit.raw[0], replace=edit.raw[1], raw=None))
                except NoMatch:
                    pass
            raise

    def done(self, permit: Permit | None) -> Applied:
        """What came of it, after the checks that need all blocks."""
        for path in list(self.changes):
            self._check(path, permit)
        blocks = tuple(block for path, block in self.applied if path in self.changes)
        return Applied(changes=dict(self.changes), problems=tuple(self.problems), blocks=blocks)

    def _check(self, path: str, permit: Permit | None) -> None:
        file = self.changes[path]
        if file is not None and path.endswith(".py") and (fault := self._broken(path, file)):
            del self.changes[path]
            self.problems.append(
                Problem(
                    path=path,
                    reason=f"{path} is no Python after that ({fault}); write it with care for indentation",
                )
            )
            return
        try:
            if permit is not None:
                permit(path, file)
        except AgentError as error:
            del self.changes[path]
            self.problems.append(Problem(path=path, reason=str(error), is_forbidden=True))

    def _broken(self, path: str, file: File) -> str | None:
        """Why a file is no Python any more; None where it is, or was none before."""
        old = self._original(path)
        if old is not None and syntax_fault("\n".join(old.lines)) is not None:
            return None
        text = file.content.decode("utf-8").removeprefix(_BOM)
        fault = syntax_fault(text)
        if fault is None:
            return None
        plain = straight(text)
        if (
            plain != text
            and syntax_fault(plain) is None
            and straight("\n".join(old.lines if old else ())) == ("\n".join(old.lines if old else ()))
        ):
            self.changes[path] = replace(
                file, content=file.content[: 3 * text.startswith(_BOM)] + plain.encode()
            )
            return None
        return fault


def _mended(path: str, lines: list[str]) -> list[str]:
    """Python that a model wrote with typographic quotes, with plain ones; anything else as it is."""
    text = "\n".join(lines)
    plain = straight(text)
    if path.endswith(".py") and plain != text and syntax_fault(text) and not syntax_fault(plain):
        return plain.split("\n")
    return lines


def _file(text: str, old: File | None) -> File:
    mode = old.mode if old and old.mode is FileMode.EXECUTABLE else FileMode.FILE
    # A lone surrogate has no bytes; it came out of a broken reply.
    return File(content=text.encode("utf-8", "replace"), mode=mode)


def _parts(path: str, text: _Text, edit: Edit) -> list[Edit]:
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


def _find(lines: Sequence[str], wanted: Sequence[str]) -> list[int]:
    try:
        place = locate(lines, wanted, wanted)
    except NoMatch:
        return []
    return [place.start] if place.exact else []


def _made_before(text: _Text, edit: Edit) -> Place | None:
    """Where a block before this one made the edit: the file was given whole, or it was said twice."""
    if text.edits and _is_there(text.lines, edit.replace) and not _find(text.before, edit.replace):
        where = _find(text.lines, edit.replace)[0]
        return Place(start=where, end=where + len(edit.replace), replace=edit.replace)
    return None


def _is_there(lines: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether an edit has been made already by a block before it: enough of it stands there once."""
    return len("".join(wanted).strip()) >= 12 and bool(_find(lines, wanted))


def _lost(path: str, old: Sequence[str], new: Sequence[str]) -> list[str]:
    """What a file that is given whole would lose, where that shows it is not whole."""
    before, after = (module_of("\n".join(each)) if path.endswith(".py") else None for each in (old, new))
    fewer = len(_filled(new)) < len(_filled(old))
    if before is not None and after is not None:
        had, has = names_of(before), names_of(after)
        lost = [name for name in had if name not in has]
        missed = [name for name in (*had, *imports_of(before)) if name in unbound_in(after)]
        gone = missed or hollowed(before, after)
        if gone or (lost and len(lost) == len(had) and _is_defining(before)):
            return gone or lost
        if len(_filled(old)) < _SMALL:
            return []
        return lost if had and 2 * len(lost) >= len(had) and fewer else []
    keys = _keys(path, old)
    missing = [key for key in keys if key not in _keys(path, new)]
    if missing and fewer and 2 * len(missing) >= len(keys):
        return missing
    stays = sum((Counter(_filled(old)) & Counter(_filled(new))).values())
    shorter = len(_filled(old)) >= _SMALL and len(_filled(new)) < len(_filled(old)) * 0.6
    if shorter and (not path.lower().endswith(_PROSE) or stays >= len(_filled(new)) * 0.3):
        return [f"{len(_filled(old)) - stays} of its {len(_filled(old))} lines"]
    return []


def _is_defining(module: ast.Module) -> bool:
    return any(
        isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for each in module.body
    )


def _keys(path: str, lines: Sequence[str]) -> dict[str, None]:
    """The keys at the top of a configuration file."""
    if not path.lower().endswith(_KEYED):
        return {}
    return {found[0].strip(): None for line in lines if (found := _KEY.match(line[:200]))}


def _filled(lines: Sequence[str]) -> list[str]:
    return [line.strip() for line in lines if line.strip()]
