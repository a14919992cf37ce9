"""Lays a reply's blocks over the files they are for: what applies is kept, the rest is told why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from actors.blocks import Block, Broken, Edit, Removal, WholeFile
from actors.edited_text import BOM, EditedText, find, made_before, parts
from actors.elision import elided
from actors.matching import NoMatch, Place, nearest, straight
from actors.python_text import syntax_fault
from actors.wholeness import filled, lost
from orchestrator.errors import AgentError
from orchestrator.patch import MAX_FILE_BYTES, Changes, check_path
from orchestrator.tree import File, FileMode, Tree

# Blocks of one reply that are tried, and that may fail before the rest is left untried.
MAX_BLOCKS = 400
MAX_PROBLEMS = 20
# Bytes of the tree that are looked through for edits that name no file, over a whole reply.
MAX_LOOKED_THROUGH = 1 << 30
_WORK = "/work/"


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


class _Work:
    """The files while blocks are laid over them."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.texts: dict[str, EditedText] = {}
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

    def _text(self, path: str) -> EditedText | None:
        """The file as it stands now; None where there is none, or none of text."""
        if path not in self.texts:
            file = self.changes[path] if path in self.changes else self.tree.files.get(path)
            if file is None or file.mode is FileMode.LINK:
                return None
            try:
                self.texts[path] = EditedText.of(file.content.decode("utf-8"))
            except UnicodeDecodeError:
                return None
        return self.texts[path]

    def _whole(self, path: str, text: str, *, unclosed: bool = False) -> None:
        old = self.tree.files.get(path)
        before = self._original(path)
        if len(text) > MAX_FILE_BYTES:
            raise AgentError(f"{path} has {len(text)} bytes", f"write at most {MAX_FILE_BYTES} a file")
        lines = text.removeprefix(BOM).split("\n")[:-1]
        real = {line.strip() for line in before.lines} if before else set[str]()
        if found := elided(path, lines, real):
            raise AgentError(
                f"{path} leaves code out where it says {found[:80]!r}",
                "write every line of it, or change it with SEARCH/REPLACE blocks",
            )
        lines = _mended(path, lines)
        if unclosed and not (before and filled(before.lines)[-1:] == filled(lines)[-1:]):
            raise AgentError("the reply ends inside a fenced block", "write the file again, whole")
        self._check_is_whole(path, lines)
        new = EditedText.of("")
        new.lines, new.ends = lines, True
        if before:
            new.newline, new.bom, new.before = before.newline, before.bom, before.before
        new.origin = [None] * len(lines)
        new.edits = 1
        self.texts[path] = new
        self.changes[path] = _file(new.text(), old)

    def _original(self, path: str) -> EditedText | None:
        file = self.tree.files.get(path)
        if file is None or file.mode is FileMode.LINK:
            return None
        try:
            return EditedText.of(file.content.decode("utf-8"))
        except UnicodeDecodeError:
            return None

    def _check_is_whole(self, path: str, lines: Sequence[str]) -> None:
        """Refuse a part of a file that stands under its path: it would take the rest away."""
        old = self._text(path) or self._original(path)
        gone = lost(path, old.lines, lines) if old is not None else []
        if gone:
            raise AgentError(
                f"{path} would lose {', '.join(gone[:6])}: that is a part of the file",
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

    def _put(self, path: str, text: EditedText, edit: Edit) -> None:
        saved = (list(text.lines), list(text.origin), text.edits)
        try:
            for part in parts(path, text, edit):
                text.put(self._placed(text, part))
        except AgentError:
            text.lines, text.origin, text.edits = saved
            raise
        self.changes[path] = _file(text.text(), self.tree.files.get(path))

    def _placed(self, text: EditedText, edit: Edit) -> Place:
        made = made_before(text, edit)
        if made and find(edit.replace, edit.search):
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
        text = file.content.decode("utf-8").removeprefix(BOM)
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
                file, content=file.content[: 3 * text.startswith(BOM)] + plain.encode()
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
