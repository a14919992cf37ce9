"""A source file as text and back, byte for byte, and spans replaced in it. It never parses."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable

Span = tuple[int, int, str]
_NEWLINE = re.compile("\r\n|\r|\n")


def decode(content: bytes) -> tuple[str, str]:
    """The text of a Python source file and its encoding; newlines and a byte order mark stay in the text.

    Raises:
        ValueError: Not decodable by its cookie, or not encodable to the same bytes again.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        encoding = "utf-8" if encoding == "utf-8-sig" else encoding
        text = content.decode(encoding)
        same = text.encode(encoding) == content
    except (SyntaxError, LookupError) as error:
        raise ValueError(str(error)) from error
    if not same:
        raise ValueError(f"{encoding} does not give the same bytes back")
    return text, encoding


def line_starts(text: str) -> list[int]:
    """Offset of each line's first character, as Python's tokenizer counts lines."""
    return [0, *(match.end() for match in _NEWLINE.finditer(text))]


class Places:
    """Offsets of lines and columns as `ast` gives them: from 1, and in bytes of UTF-8 from 0."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [*line_starts(text), len(text)]

    def offset(self, line: int, column: int) -> int:
        """Of the character there."""
        start = self._starts[line - 1]
        if line == 1 and self._text.startswith("\ufeff"):
            start += 1
        row = self._text[start : self._starts[line]]
        return start + (column if row.isascii() else len(row.encode()[:column].decode(errors="ignore")))


def replaced(text: str, spans: Iterable[Span]) -> str:
    """`text` with each (start, end, replacement) put in; the spans are offsets into `text` and apart."""
    parts: list[str] = []
    position = 0
    for start, end, replacement in sorted(spans, key=lambda span: span[:2]):
        if not position <= start <= end <= len(text):
            raise ValueError(f"span {start}..{end} overlaps another or leaves the text")
        parts += [text[position:start], replacement]
        position = end
    return "".join([*parts, text[position:]])
