"""Output of programs made fit for a prompt: cleaned, and cut at its head and tail. It stays data."""

from __future__ import annotations

import re
from itertools import groupby

# Escape sequences that colour, move or name things in a terminal.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]")
_LINE = 500
_REPEATS = 3


def cleaned(text: str) -> str:
    """`text` without escape sequences and control characters, long lines cut, repeated lines counted."""
    plain = _CONTROL.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    lines: list[str] = []
    for line, same in groupby(_cut_line(line) for line in plain.split("\n")):
        repeated = sum(1 for _ in same)
        lines.extend([line] * min(repeated, _REPEATS))
        if repeated > _REPEATS:
            lines.append(f"[… {repeated - _REPEATS} more lines like this]")
    return "\n".join(lines)


def _cut_line(line: str) -> str:
    return line if len(line) <= _LINE else f"{line[: _LINE // 2]} […] {line[-_LINE // 2 :]}"


def head_and_tail(text: str, limit: int) -> str:
    """`text` within `limit` characters: its beginning and, as long again, its end, at whole lines."""
    if len(text) <= limit:
        return text
    half = max(0, (limit - 10) // 2)
    head, tail = text[:half], text[len(text) - half :] if half else ""
    head = head.rpartition("\n")[0] or head
    tail = tail.partition("\n")[2] or tail
    return f"{head}\n[…]\n{tail}"
