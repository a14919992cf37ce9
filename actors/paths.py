"""Finds the path that a reply gives for a block: on a line of its own, in the fence, in a comment."""

from __future__ import annotations

import re
from collections.abc import Container

# Longer lines are content: no path is that long, and the patterns would take their time over one.
LINE = 400
_PLAIN = (
    r"(?:[A-Za-z]:\\|~/)?[\w.@/\\+\[\]-]*\.\w+|(?:[\w.-]+/)*(?:Dockerfile|Makefile|LICENSE|Procfile|Gemfile|Justfile)"
    r"|\.?[\w-]*ignore"
)
_QUOTED = r"(?<=[`*\"'])(?P<quoted>[\w.@/\\][\w.@/\\ +-]*)[`*\"']"
_LEAD = (
    r"(?:\d{1,3}[.)]\s+)?[`*\"' ]{0,6}(?:(?:new|updated?|modif(?:y|ied)|changed?|complete|full|fixed|"
    r"corrected|final|create|edit|replace|in|add|the)\s+)*(?:file ?(?:name|path)?|path|code)?"
    r"(?:\s+(?:for|of|in|\d{1,3}))?\s*:?"
)
_TAIL = r"[`*\"':]{0,6}(?:\s*\([\w ,-]+\))?[`*\"':]{0,6}\s*(?:-->|\*/)?$"
# Every repetition of ornaments is bounded: a line of nothing else must not take its time.
_PATH = re.compile(
    rf"(?://+\s*|/\*+\s*|<!--\s*|;+\s*)?{_LEAD}[`*\"' ]{{0,6}}(?:{_QUOTED}|(?P<plain>{_PLAIN})){_TAIL}",
    re.IGNORECASE,
)
_COMMENT = re.compile(
    rf"^\s*(?:#+|//+|/\*+|<!--|--|;+|%+)\s*(?:file ?(?:name|path)?|path)?\s*:?\s*[`\"']?(?P<plain>{_PLAIN})"
    r"[`\"']?\s*(?:\((?:[\w ,-]+)\))?\s*(?:-->|\*/)?\s*$",
    re.IGNORECASE,
)
# In a block's first line: ```python app.py, ```python:app.py, ```app.py, ```python title="app.py"
_INFO = re.compile(
    rf"^(?:[\w+-]+[ \t:]+)?\{{?(?:(?:title|file|filename|path)=)?[\"']?"
    rf"(?P<plain>(?=[^ ]*[./])(?:{_PLAIN}))[\"']?\}}?$",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"\b(?:updated?|new|fixed|corrected|complete|full|modified|revised|final|create|contents?|rewritten|version)\b",
    re.IGNORECASE,
)
_IN_SENTENCE = re.compile(rf"[`*]+(?P<plain>{_PLAIN})[`*]+")


def path_on(line: str, known: Container[str] = ()) -> str | None:
    """The path that `line` consists of, with the ornaments that models put around one."""
    if len(line) > LINE:
        return None
    if line.strip() in known:
        return line.strip()
    found = _PATH.match(line.strip().lstrip("#>- \t"))
    if not found:
        return None
    path = tidy(found["quoted"] or found["plain"])
    # Quoted words are a path when they look like one or are known as one.
    if found["quoted"] and not (path in known or re.fullmatch(_PLAIN, path) or re.search(r"\.\w+$", path)):
        return None
    return path


def path_in_comment(line: str) -> str | None:
    """The path that a comment in a block's first line consists of."""
    found = _COMMENT.match(line) if len(line) <= LINE else None
    return tidy(found["plain"]) if found else None


def path_in_info(info: str) -> str | None:
    """The path behind a block's opening fence."""
    found = _INFO.match(info) if info and len(info) <= LINE else None
    return tidy(found["plain"]) if found else None


def path_in_sentence(line: str) -> str | None:
    """The one path that a sentence announces, as in "Here is the updated `app.py`:"."""
    if len(line) > LINE or not line.rstrip(" *_").endswith(":") or not _SENTENCE.search(line):
        return None
    found = {tidy(each["plain"]) for each in _IN_SENTENCE.finditer(line)}
    return found.pop() if len(found) == 1 else None


def tidy(path: str) -> str:
    """`path` without `./` before it."""
    return path.strip().removeprefix("./")
