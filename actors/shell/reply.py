"""Reads the one command out of a reply; where there is none, an error says what to write."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from dataclasses import dataclass

from orchestrator.errors import AgentError

DONE = "RAYSMITH_DONE"
SCHEMA = {
    "type": "object",
    "properties": {"thought": {"type": "string"}, "command": {"type": "string"}},
    "required": ["thought", "command"],
    "additionalProperties": False,
}

# Longer replies are no single command and its reason; what comes after this is not read.
MOST_CHARACTERS = 200_000
_SHELLS = frozenset({"bash", "sh", "shell", "zsh", "console", "shell-session", "shellscript"})
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([\w.+-]*)[ \t]*$")
_HEREDOC = re.compile(r"(?<!<)<<(-?)[ \t]*(?:'([^'\n]+)'|\"([^\"\n]+)\"|\\?([A-Za-z_][\w.-]*))")
_THOUGHT = re.compile(r"\s*<(think|thinking|reasoning)>", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_TOOL_CALL = ("<tool_call>", "</tool_call>")
_SUBMITS = re.compile(rf"(?:^|\n|&&|;)[ \t]*(?:echo[ \t]+[\"']?{DONE}[\"']?|submit)[ \t;]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What is to be executed.

    Attributes:
        text: The command without its submission; empty for a bare one.
        submits: The agent says that it is done, once the command has succeeded.
        said: The reply up to the command's end, which is what stays in the history.
    """

    text: str
    submits: bool
    said: str


def read_command(reply: str) -> Command:
    """The first command in `reply`: a fenced shell block, or a JSON object with `command`.

    What a reply holds after its first command was written before that command's output was seen. It is
    neither run nor kept.

    Raises:
        AgentError: There is none, it is empty, or it does not end.
    """
    text = _answer(reply[:MOST_CHARACTERS].replace("\r\n", "\n"))
    structured = _structured(text)
    if structured is not None:
        command, said = structured, text.strip()
    else:
        command, said = _fenced(text)
    # A lone surrogate has no bytes; it came out of a broken reply.
    command = command.replace("\r\n", "\n").encode("utf-8", "replace").decode().strip("\n")
    if not command.strip():
        raise AgentError("the command in it is empty", "write one command in a ```bash block")
    if "\0" in command:
        raise AgentError("the command holds a NUL character", "write plain text")
    found = _SUBMITS.search(command)
    return Command(
        text=command[: found.start()].rstrip() if found else command,
        submits=found is not None,
        said=said,
    )


def _answer(reply: str) -> str:
    """The reply without what was thought before it; nothing when the thought does not end."""
    if _THOUGHT.match(reply) and not _THOUGHT_ENDS.search(reply):
        return ""
    # Some templates open the thought in the prompt, so that the reply only ends it.
    *_, last = [0, *(found.end() for found in _THOUGHT_ENDS.finditer(reply))]
    return reply[last:]


def _structured(text: str) -> str | None:
    """The command of a JSON action, as guided decoding and models' tool calls give it."""
    begins, ends = _TOOL_CALL
    # By `find`: a pattern would look for the end again from every beginning.
    begun = text.find(begins)
    end = text.find(ends, begun) if begun >= 0 else -1
    body = (text[begun + len(begins) : end] if end >= 0 else text).strip()
    if not body.startswith("{"):
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and isinstance(value.get("arguments"), dict):
        value = value["arguments"]
    command = value.get("command") if isinstance(value, dict) else None
    return command if isinstance(command, str) else None


def _fenced(text: str) -> tuple[str, str]:
    """The first shell block, else the only block that names no language; and the text up to its end."""
    blocks = _blocks(text.split("\n"))
    shells = [block for block in blocks if block.language in _SHELLS]
    plain = [block for block in blocks if not block.language]
    chosen = shells[0] if shells else plain[0] if len(blocks) == len(plain) == 1 else None
    if chosen is None:
        raise AgentError(_why_none(blocks), "write one command in a block that begins with ```bash")
    if not chosen.ends:
        raise AgentError("its command block does not end", "write a shorter command, and end its block")
    return chosen.body, "\n".join(text.split("\n")[: chosen.until])


def _why_none(blocks: list[_Block]) -> str:
    languages = sorted({block.language for block in blocks if block.language})
    if languages:
        return f"it holds {', '.join(languages)[:80]} and no command block"
    return "it holds several blocks and none says bash" if blocks else "it holds no command block"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    language: str
    body: str
    until: int
    ends: bool


def _blocks(lines: list[str]) -> list[_Block]:
    found, at = [], 0
    ends = _Ends(lines)
    while at < len(lines):
        opened = _FENCE.match(lines[at]) if len(lines[at]) < 200 else None
        if opened is None:
            at += 1
            continue
        end = _end(lines, at + 1, opened.group(1), ends)
        body = "\n".join(lines[at + 1 : end])
        language = opened.group(2).casefold()
        until = min(end + 1, len(lines))
        found.append(_Block(language=language, body=body, until=until, ends=end < len(lines)))
        at = until
    return found


def _end(lines: list[str], start: int, fence: str, ends: _Ends) -> int:
    """The line of the closing fence; a fence inside a here-document is text of a file."""
    at = start
    while at < len(lines):
        closed = _FENCE.match(lines[at]) if len(lines[at]) < 200 else None
        if closed and not closed.group(2) and closed.group(1).startswith(fence):
            return at
        at = ends.after_heredocs(at)
    return len(lines)


class _Ends:
    """Where each here-document of some lines would end; every line is looked at once."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._at: dict[tuple[bool, str], list[int]] | None = None

    def after_heredocs(self, at: int) -> int:
        """The line after `at`, or after the here-documents that it opens, as far as they end."""
        next_line = at + 1
        for found in _HEREDOC.finditer(self._lines[at]):
            word = found.group(2) or found.group(3) or found.group(4)
            places = self._places().get((bool(found.group(1)), word), [])
            place = bisect_left(places, next_line)
            if place < len(places):
                next_line = places[place] + 1
        return next_line

    def _places(self) -> dict[tuple[bool, str], list[int]]:
        """The lines that are some word alone, by whether tabs before it are left out."""
        if self._at is None:
            self._at = {}
            for number, line in enumerate(self._lines):
                self._at.setdefault((False, line), []).append(number)
                self._at.setdefault((True, line.lstrip("\t")), []).append(number)
        return self._at
