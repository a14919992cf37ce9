"""Recognises code that a model left out: "# ... rest of the code unchanged" is never code."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

_LINE = 300
_DOTS = r"(?:\.{2,}|…)"
_CODE = (
    r"(?:code|file|class|function|functions|methods?|modules?|script|implementations?|program|tests?|contents?|"
    r"imports?|logic|body|routes?|endpoints?|fields?|attributes?|definitions?|helpers?|lines|page|config(?:uration)?)"
)
_SAME = (
    r"(?:here|unchanged|untouched|(?:the )?same|as (?:before|above|is|it was|they were)|omitted|not shown|"
    r"elided|intact|continues?|goes here|remains?|stays?|unmodified)"
)
_WORDS = re.compile(
    rf"(?:{_DOTS}.*"
    rf"|(?:the )?(?:rest|remainder) of (?:the |your |this |our )?(?:\w+ ){{0,2}}{_CODE}\W*$"
    r"|(?:the )?(?:rest|remainder|remaining|existing|other|previous|original|same|all other|your)\b"
    rf".{{0,80}}\b{_SAME}\b.*"
    rf"|(?:the )?(?:rest|remainder)\W*$"
    rf"|(?:existing|remaining|previous|original|unchanged) (?:\w+ ){{0,2}}{_CODE}\W*$"
    rf"|{_CODE} (?:omitted|unchanged|elided|not shown)\b.*"
    r"|(?:unchanged|omitted|truncated|snip(?:ped)?|no changes?(?: (?:here|needed|below|above))?"
    r"|same as (?:before|above|original)|as before)\b\W*(?:for brevity)?\W*$"
    r"|(?:keep|leave)\b.{0,60}\b(?:as is|as they are|as it is|unchanged|the same|intact)\b.*)",
    re.IGNORECASE,
)
_COMMENT = re.compile(
    r"^(?:#+|//+|--|;+|%+|/\*+|<!--|\{/\*|\"\"\"|''')\s*(?P<said>.*?)\s*(?:\*/\}?|-->|\"\"\"|''')?$"
)
_BRACKETS = re.compile(r"^[\[(<{](?P<said>[^\[\](){}<>]*)[\])>}]$")
_INLINE = re.compile(
    rf"\S.*\s(?:#|//)\s*(?:{_DOTS}|(?:rest|remainder) of|existing (?:code|implementation|logic))"
)
# Most lines of code hold none of these.
_MAYBE = re.compile(r"\.\.|…|^[-#/;%<{\[(\"']|#|//")
_PROSE = (".md", ".markdown", ".mdx", ".rst", ".txt")


def elided(path: str, lines: Sequence[str], real: Collection[str] = ()) -> str | None:
    """The first line of `lines` that stands for code left out; None when there is none.

    Args:
        path: Whose lines they are; a Markdown heading is no comment, `...` may be a Python body.
        lines: Of a file or of a part of one.
        real: Lines that are known to be the file's own, stripped.
    """
    is_prose = path.lower().endswith(_PROSE)
    is_python = PurePosixPath(path).suffix in (".py", ".pyi")
    for number, line in enumerate(lines):
        text = line.strip()
        if not text or len(text) > _LINE or not _MAYBE.search(text) or text in real:
            continue
        if _stands_for_code(text, is_prose) or (
            re.fullmatch(_DOTS, text)
            and not is_prose
            and not (is_python and text == "..." and _is_body(lines, number))
        ):
            return text
    return None


def _stands_for_code(text: str, is_prose: bool) -> bool:
    comment = _COMMENT.match(text)
    if comment and not (is_prose and text.startswith("#")) and _WORDS.match(comment["said"]):
        return True
    bracketed = _BRACKETS.match(text)
    if bracketed and _WORDS.match(bracketed["said"].strip()) and text not in ("(...)", "[...]", "{...}"):
        return True
    if text in ("[...]", "{...}", "(…)", "[…]"):
        return True
    return not is_prose and _INLINE.match(text) is not None


def _is_body(lines: Sequence[str], number: int) -> bool:
    """Whether the `...` in that line is all that a Python block does, its docstring aside."""
    line = lines[number]
    depth = len(line) - len(line.lstrip())
    after = next((each for each in lines[number + 1 : number + 50] if each.strip()), "")
    before = next((each for each in reversed(lines[max(0, number - 50) : number]) if each.strip()), "")
    ends = len(after) - len(after.lstrip()) < depth or not after.strip()
    opens = before.rstrip().endswith((":", '"""', "'''")) or re.search(r":\s*#.*$", before) is not None
    return depth > 0 and ends and opens
