"""Reads a reply: whole files, SEARCH/REPLACE blocks and diffs, with their paths.

What is prose is left out; what was meant as a block and is not clear comes back as `Broken`, never guessed.
"""

from __future__ import annotations

import ast
import json
import re
from bisect import bisect_left
from collections.abc import Container, Sequence

from actors.blocks import Block, Broken, Edit, WholeFile
from actors.diffs import read_diff, starts_diff
from actors.edit_blocks import begins, read_edit
from actors.matching import straight
from actors.paths import LINE, path_in_comment, path_in_info, path_in_sentence, path_on
from actors.python_text import LONGEST, is_more_than_words, module_of
from orchestrator.errors import AgentError
from orchestrator.tree import File

_FENCE = re.compile(r"^[ \t]{0,12}(`{3,}|~{3,})[ \t]*([^`]*?)[ \t]*$")
_TAGS = "think|thinking|thought|thoughts|reasoning|reflection"
_THOUGHT = re.compile(rf"\s*(?:<({_TAGS})>|(\[THINK\]))", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(rf"^[ \t]*(?:</(?:{_TAGS})>|\[/THINK\])", re.IGNORECASE | re.MULTILINE)
_TOKENS = re.compile(r"(?:<\|[\w/-]{1,30}\|>|</s>|<｜[^｜>]{1,40}｜>)\s*$")
_ELEMENT = re.compile(
    r"^\s*<(?P<tag>file|document|source|code_file)\s[^>]*?\b(?:path|name|filename)\s*=\s*[\"'](?P<path>[^\"']+)[\"'][^>]*>\s*$",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"^[\s#*>`-]*(?P<what>search|find|replace|replace with|replacement)"
    r"(?: (?:block|text|this))?[`*\s]*:?[`*\s]*$",
    re.IGNORECASE,
)
_MARKDOWN = (".md", ".markdown", ".mdx")
_DIFF = ("diff", "patch", "udiff", "unified-diff")
_SHELL = ("sh", "bash", "shell", "console", "zsh", "text", "txt", "plaintext", "output", "powershell", "cmd")
_SHELL_FILES = (".sh", ".bash", ".txt", ".zsh", ".ps1")
# So many closing fences are tried for a block that does not parse when it ends at the first.
_CLOSINGS = 8
# And so many in one reply.
_ALL_CLOSINGS = 400
_UNCLOSED = "the reply ends inside a fenced block"


def parse(reply: str, *, known: Container[str] = (), cut: bool = False) -> list[Block]:
    """The blocks of `reply` in its order.

    A block without a path is prose and left out, as is what a model thinks before it answers. Text
    inside a block is kept to the letter, with `\\n` line ends. Time is linear in the reply's length.

    Args:
        reply: As the engine gave it.
        known: Paths that exist.
        cut: It ended at its longest, so that nothing unfinished counts as finished.
    """
    text = _answer(reply.removeprefix("\ufeff").replace("\r\n", "\n"))
    return _Reader(_TOKENS.sub("", text).split("\n"), known, cut).read()


def parse_files(reply: str) -> dict[str, File]:
    """The whole files in `reply` by path; a path that comes twice holds the last block.

    Raises:
        AgentError: There is no file in the reply, or something in it cannot be read.
    """
    files: dict[str, File] = {}
    for block in parse(reply):
        if isinstance(block, Broken) or (isinstance(block, WholeFile) and block.unclosed):
            reason = block.reason if isinstance(block, Broken) else _UNCLOSED
            raise AgentError(reason, "ask for the files again, fewer at a time")
        if isinstance(block, WholeFile) and not (block.weak and block.path in files):
            files[block.path] = File(content=block.text.encode("utf-8", "replace"))
    if not files:
        raise AgentError("the reply holds no file", "ask for a path and a fenced block for each file")
    return files


def _answer(reply: str) -> str:
    """The reply without what was thought before it; nothing when the thought does not end."""
    if begun := _THOUGHT.match(reply):
        end = f"</{begun.group(1)}>" if begun.group(1) else "[/THINK]"
        return reply.partition(end)[2]
    # Some templates open the thought in the prompt, so that the reply only ends it.
    ended = _THOUGHT_ENDS.search(reply)
    return reply[ended.end() :] if ended else reply


class _Reader:
    """Goes through the lines once. `fences` are open around blocks with marks of their own."""

    def __init__(self, lines: list[str], known: Container[str], cut: bool) -> None:
        self.lines = lines
        self.known = known
        self.cut = cut
        self.at = 0
        self.blocks: list[Block] = []
        self.path: str | None = None
        self.is_weak = False
        self.is_list = False
        # Path of the edit before, and whether only blank lines and fences stand between.
        self.edited: str | None = None
        self.label = ""
        self.searched: tuple[str, ...] | None = None
        self.fences: list[str] = []
        self.tried = 0
        self.marks = [number for number, line in enumerate(lines) if begins(line)]

    def read(self) -> list[Block]:
        has_fence = any(_fence_in(line) for line in self.lines)
        if not has_fence and not self.marks:
            self._unfenced()
            if self.blocks:
                return self.blocks
        while self.at < len(self.lines):
            self._step()
        return self.blocks

    def _step(self) -> None:
        line = self.lines[self.at]
        if not line:
            self.at += 1
        elif begins(line):
            self._edit()
        elif starts_diff(self.lines, self.at):
            self._diff(fenced=bool(self.fences))
        elif fence := _fence_in(line):
            self._fence(fence.group(1), fence.group(2))
        elif len(line) <= LINE and (element := _ELEMENT.match(line)):
            self._element(element["tag"], element["path"])
        elif not line.strip():
            self.at += 1
        else:
            self._prose(line)

    def _prose(self, line: str) -> None:
        self.at += 1
        self.label = ""
        if len(line) <= LINE and (found := _THOUGHT.match(line)):
            self._skip_thought(found)
        elif len(line) <= LINE and (found := _LABEL.match(line)):
            self.label = "search" if found["what"].lower() in ("search", "find") else "replace"
        elif path := path_on(line, self.known):
            # Two paths before one block are a list of files: nobody can say whose the block is.
            follows = self.at > 1 and bool(self.lines[self.at - 2].strip())
            self.is_list = follows and (self.is_list or self.path not in (None, path))
            self.path = None if self.is_list else path
            self.is_weak, self.searched = False, None
        elif path := path_in_sentence(line):
            self.path, self.is_weak, self.is_list = path, True, False
        else:
            self.path, self.is_list = None, False

    def _skip_thought(self, found: re.Match[str]) -> None:
        end = f"</{found.group(1)}>".lower() if found.group(1) else "[/think]"
        for number in range(self.at - 1, len(self.lines)):
            if end in self.lines[number].lower():
                self.at = number + 1
                return
        self.at = len(self.lines)

    def _edit(self) -> None:
        halves = read_edit(self.lines, self.at)
        self.at = halves.after
        named = path_on(halves.named, self.known) if halves.named else None
        path = named or self.path
        inherited = path is None
        path = path or self.edited
        self.path, self.edited = None, path
        if halves.broken:
            is_cut = self.cut and halves.after >= len(self.lines)
            why = "the reply ends inside it" if is_cut else halves.broken
            reason = f"a SEARCH/REPLACE block cannot be read: {why}"
            self.blocks.append(Broken(path=path, reason=reason, is_cut=is_cut))
        else:
            self.blocks.append(
                Edit(path=path, search=halves.search, replace=halves.replace, inherited=inherited)
            )

    def _diff(self, *, fenced: bool) -> None:
        begun = self.at
        found, self.at = read_diff(self.lines, self.at, self.path, self._closes, fenced)
        self.at = max(self.at, begun + 1)
        if self.cut and self.at >= len(self.lines) and found:
            found[-1] = Broken(path=found[-1].path, reason="the reply ends inside a diff", is_cut=True)
        self.blocks += found
        self.path = None

    def _closes(self, line: str) -> bool:
        """Whether `line` closes the innermost fence."""
        found = _fence_in(line)
        return bool(found and self.fences and _is_closing(found, self.fences[-1]))

    def _fence(self, fence: str, info: str) -> None:
        if self._closes(self.lines[self.at]):
            self.fences.pop()
            self.at += 1
            return
        named = path_in_info(info)
        if named:
            self.path, self.is_weak = named, False
        if self._holds_marks(fence, info):
            self.fences.append(fence)
            self.at += 1
            self._diff_without_header(info)
            return
        self._block(fence, info)

    def _holds_marks(self, fence: str, info: str) -> bool:
        """Whether what the fence encloses is read as prose is: edits, diffs, or a reply within the reply."""
        first = [n for n in range(self.at + 1, min(self.at + 12, len(self.lines))) if self.lines[n].strip()][
            :4
        ]
        if info.lower().split(" ")[0] in _DIFF:
            return True
        for number in first:
            line = self.lines[number]
            if begins(line) or starts_diff(self.lines, number):
                return True
            if found := _fence_in(line):
                if _is_closing(found, fence) or number == first[0] or self.path:
                    break
                return True
            if not (path_on(line, self.known) or path_in_comment(line)):
                break
        return (not self.path and info.lower() in ("markdown", "md")) or self._mark_within()

    def _mark_within(self) -> bool:
        """Whether a SEARCH marker comes before the next line that could close a fence."""
        after = bisect_left(self.marks, self.at + 1)
        if after == len(self.marks) or self.marks[after] - self.at > 40:
            return False
        return not any(_fence_in(line) for line in self.lines[self.at + 1 : self.marks[after]])

    def _diff_without_header(self, info: str) -> None:
        first = next((n for n in range(self.at, len(self.lines)) if self.lines[n].strip()), None)
        if info.lower().split(" ")[0] in _DIFF and first is not None:
            if starts_diff(self.lines, first):
                return
            if self.path is None and (path := path_on(self.lines[first], self.known)):
                self.path, first = path, first + 1
            if not begins(self.lines[min(first, len(self.lines) - 1)]):
                self.at = first
                self._diff(fenced=True)

    def _element(self, tag: str, path: str) -> None:
        end = f"</{tag}>"
        for number in range(self.at + 1, len(self.lines)):
            if self.lines[number].strip().lower() == end.lower():
                body = self.lines[self.at + 1 : number]
                self.at = number + 1
                if any(begins(line) for line in body):
                    self.blocks.append(Broken(path=path, reason="its edits stand in an XML element"))
                    return
                filled = [line for line in body if line.strip()]
                if len(filled) > 1 and _fence_in(filled[0]) and _fence_in(filled[-1]):
                    body = body[body.index(filled[0]) + 1 : len(body) - body[::-1].index(filled[-1]) - 1]
                self.blocks.append(WholeFile(path=path, text=_text(body)))
                return
        self.blocks.append(Broken(path=path, reason="the reply ends inside an XML element", is_cut=self.cut))
        self.at = len(self.lines)

    def _block(self, fence: str, info: str) -> None:
        begun, path, is_weak, label = self.at + 1, self.path, self.is_weak, self.label
        is_list = self.is_list
        self.path, self.label, self.is_weak, self.is_list = None, "", False, False
        heading = None
        if begun < len(self.lines):
            heading = path_in_comment(self.lines[begun])
        if path is None and heading is not None and not label:
            path, begun = heading, begun + 1
        end = self._end_of(begun, fence, path)
        if end is None:
            self._unclosed(begun, path)
            return
        self.at = end + 1
        body = self.lines[begun:end]
        if is_list and path is None:
            self.blocks.append(Broken(path=None, reason="a block stands behind a list of several paths"))
        elif label and not (path and label == "search" and self.searched):
            self._labelled(label, body, path)
        elif path and isinstance(reason := self._unclear(end, path), str):
            self.blocks.append(Broken(path=path, reason=reason))
        elif path and not (is_weak and (_is_other_language(info, path) or _is_shell(info, path))):
            self.blocks.append(WholeFile(path=path, text=_text(body), weak=is_weak))

    def _labelled(self, label: str, body: list[str], path: str | None) -> None:
        if label == "search":
            self.searched, self.path, self.edited = tuple(body), path, path or self.edited
        elif self.searched is not None:
            target = path or self.edited
            self.blocks.append(
                Edit(path=target, search=self.searched, replace=tuple(body), inherited=path is None)
            )
            self.searched = None

    def _end_of(self, begun: int, fence: str, path: str | None) -> int | None:
        """The line that closes a block; Markdown may hold blocks of its own, Python has to parse."""
        nests = bool(path) and str(path).lower().endswith(_MARKDOWN)
        inner: str | None = None
        first: int | None = None
        tried = size = 0
        for number in range(begun, len(self.lines)):
            line = self.lines[number]
            size += len(line) + 1
            found = _fence_in(line)
            if not found:
                continue
            if inner is not None:
                inner = None if not found.group(2) and found.group(1).startswith(inner) else inner
            elif _is_closing(found, fence):
                first = number if first is None else first
                if nests or not str(path).endswith(".py") or self._is_python(begun, number):
                    return number
                tried += 1
                self.tried += 1
                if tried >= _CLOSINGS or size > LONGEST or self.tried >= _ALL_CLOSINGS:
                    return first
            elif nests and found.group(2):
                inner = found.group(1)
        return first

    def _is_python(self, begun: int, end: int) -> bool:
        return self.tried < _ALL_CLOSINGS and _module(self.lines[begun:end]) is not None

    def _unclear(self, end: int, path: str) -> str | None:
        """Why nobody can say where the block ends, if so."""
        if self.known and (other := self._other_file(end, path)):
            return f"the block for {path} also holds {other}: write one block for each file"
        if path.lower().endswith(_MARKDOWN):
            after = next((n for n in range(end + 1, len(self.lines)) if _fence_in(self.lines[n])), None)
            found = _fence_in(self.lines[after]) if after is not None else None
            if after is not None and found and not found.group(2) and self._is_anonymous(after):
                return f"where {path} ends is not clear: put it between fences of four backticks"
        return None

    def _other_file(self, end: int, path: str) -> str | None:
        """A file that exists and whose path stands as a comment inside the block that ends there."""
        for number in range(end - 1, -1, -1):
            line = self.lines[number]
            if line.startswith(("#", "//")):
                found = path_in_comment(line)
                if found and found != path and found in self.known:
                    return found
            elif _fence_in(line):
                break
        return None

    def _is_anonymous(self, number: int) -> bool:
        """Whether nothing before or in the block that begins there says what it is."""
        before = next(
            (line for line in reversed(self.lines[max(0, number - 4) : number]) if line.strip()), ""
        )
        inside = next((line for line in self.lines[number + 1 : number + 4] if line.strip()), "")
        return not (
            path_on(before, self.known)
            or path_in_sentence(before)
            or path_in_comment(inside)
            or begins(inside)
        )

    def _unclosed(self, begun: int, path: str | None) -> None:
        """A block that does not end: a file only where a model forgot the fence behind whole Python."""
        body = self.lines[begun:]
        self.at = len(self.lines)
        if path and not self.cut and path.endswith(".py") and _is_whole(path, body):
            self.blocks.append(WholeFile(path=path, text=_text(body), unclosed=True))
        elif path or any(line.strip() for line in body):
            self.blocks.append(Broken(path=path, reason=_UNCLOSED, is_cut=self.cut))

    def _unfenced(self) -> None:
        """A reply without any fence: paths on lines of their own, each with its file behind it."""
        heads = [n for n, line in enumerate(self.lines) if line.strip() and path_on(line, self.known)]
        if self.cut or not heads or len(heads) > 200:
            return
        for begun, end in zip(heads, [*heads[1:], len(self.lines)], strict=True):
            path = path_on(self.lines[begun], self.known)
            body = self.lines[begun + 1 : end]
            while body and not body[0].strip():
                body = body[1:]
            if path and any(line.strip() for line in body) and _is_whole(path, body):
                self.blocks.append(WholeFile(path=path, text=_text(body)))


def _fence_in(line: str) -> re.Match[str] | None:
    return _FENCE.match(line) if len(line) <= LINE and ("```" in line or "~~~" in line) else None


def _is_closing(found: re.Match[str], fence: str) -> bool:
    return not found.group(2) and found.group(1)[0] == fence[0] and len(found.group(1)) >= len(fence)


def _text(lines: Sequence[str]) -> str:
    text = "\n".join(lines).rstrip("\n") + "\n"
    # A lone surrogate has no bytes; it came out of a broken reply.
    return text.encode("utf-8", "replace").decode()


def _module(lines: Sequence[str]) -> ast.Module | None:
    """The Python that `lines` are, as they are or with plain quotes."""
    text = "\n".join(lines)
    return module_of(text) or (module_of(straight(text)) if not text.isascii() else None)


def _is_whole(path: str, lines: Sequence[str]) -> bool:
    """Whether lines that nothing encloses are a file beyond doubt."""
    if path.endswith(".py"):
        module = _module(lines)
        return module is not None and is_more_than_words(module)
    if path.endswith(".json"):
        try:
            json.loads("\n".join(lines))
        except (ValueError, RecursionError):
            return False
        return True
    return False


def _is_shell(info: str, path: str) -> bool:
    return info.lower().split(" ")[0] in _SHELL and not path.endswith(_SHELL_FILES)


def _is_other_language(info: str, path: str) -> bool:
    return path.endswith(".py") and bool(info) and not info.lower().startswith(("py", "{"))
