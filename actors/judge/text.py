"""Text that came out of a sandbox, made safe to show: data, never an instruction to a terminal."""

from __future__ import annotations

import re
import unicodedata

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_KEPT = "\n\t"


def clean(text: str, limit: int = 4000) -> str:
    """`text` without terminal escapes, control, bidi and zero-width characters; head and tail of it."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return cut(text, limit)
    text = _ESCAPES.sub("", text.replace("\r\n", "\n"))
    kept = "".join(char for char in text if char in _KEPT or not _hidden(char))
    return cut(kept, limit)


def cut(text: str, limit: int) -> str:
    """At most about `limit` characters: the head, a note, the tail."""
    if len(text) <= limit:
        return text
    head, tail = limit // 3, limit - limit // 3
    return f"{text[:head]}\n[... {len(text) - head - tail} characters left out ...]\n{text[-tail:]}"


def _hidden(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def words(text: str) -> frozenset[str]:
    """The words of a long constant, which is easier to read as text than as a list of strings."""
    return frozenset(text.split())
