"""Repairs of a file that does not parse: one token put in, taken out or changed near the error."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from actors.search.edits import Candidate, Edit
from actors.search.source import Source

_OPENS = re.compile(
    r"\s*(?:async\s+)?(?:def|class|if|elif|else|for|while|try|except|finally|with|match|case)\b"
)
_NEAR = 3


def repairs(source: Source) -> list[Candidate]:
    """Candidates that make the file parse, the nearest to the error first; none for a file that does."""
    if source.error is None:
        return []
    found: list[Candidate] = []
    for weight, (start, end, replacement, why) in _spans(source, source.error.lineno or 1):
        text = source.text[:start] + replacement + source.text[end:]
        if _parses(text):
            line = source.text.count("\n", 0, start) + 1
            found.append(
                Candidate(
                    edits=(Edit(path=source.path, start=start, end=end, replacement=replacement),),
                    kind="syntax",
                    weight=weight,
                    explanation=f"{source.path}:{line}: {why}",
                    line=line,
                )
            )
    return found


def _parses(text: str) -> bool:
    try:
        ast.parse(text.removeprefix("\ufeff"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


Proposal = tuple[int, int, str, str]


def _spans(source: Source, line: int) -> Iterator[tuple[float, Proposal]]:
    last = len(source.starts)
    lines = sorted(
        range(max(1, line - _NEAR), min(last, line + 1) + 1), key=lambda one: (abs(one - line), one)
    )
    for number in lines:
        weight = 1.0 / (1 + 0.3 * abs(number - line))
        for proposal in _at_line(source, number):
            yield weight, proposal


def _at_line(source: Source, line: int) -> Iterator[Proposal]:
    start, end = source.line_span(line, line)
    text = source.text[start:end]
    bare = re.sub(r"\s*(#.*)?[\r\n]*$", "", text)
    stop = start + len(bare)
    if _OPENS.match(bare) and not bare.endswith(":"):
        yield stop, stop, ":", "the colon was missing"
    for token in (")", "]", "}", '"', "'", "):", "]:", "\\"):
        yield stop, stop, token, f"`{token}` was missing"
    if bare.endswith(":"):
        yield from ((stop - 1, stop - 1, token, f"`{token}` was missing") for token in (")", "]", "}"))
    for match in re.finditer(r"[()\[\]{}'\":,]", bare):
        where = start + match.start()
        yield where, where + 1, "", f"`{match.group()}` was too much"
    for match in re.finditer(r"(?<![=!<>+\-*/])=(?!=)", bare):
        yield start + match.start(), start + match.end(), "==", "`==` was meant"
    for match in re.finditer(r"(?<=[\w)\]'\"])\s+(?=[\w(\['\"])", bare):
        yield start + match.start(), start + match.start(), ",", "a comma was missing"
    yield from _indented(source, line, start, text)


def _indented(source: Source, line: int, start: int, text: str) -> Iterator[Proposal]:
    old = source.indent(line)
    if not text.strip():
        return
    neighbours = {
        source.indent(other) for other in range(max(1, line - 4), min(len(source.starts), line + 3))
    }
    step = "\t" if "\t" in old else "    "
    for new in sorted({*neighbours, old + step, old.removesuffix(step)} - {old}, key=len):
        yield start, start + len(old), new, "the indentation was wrong"
