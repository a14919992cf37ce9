"""Small changes to JavaScript, made on its tokens: what people get wrong in a place, and what they meant."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<comment>//[^\n]*|/\*.*?\*/)
  | (?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)
  | (?P<number>\b\d+(?:\.\d+)?\b)
  | (?P<name>[A-Za-z_$][\w$]*)
  | (?P<operator>===|!==|\*\*|=>|<=|>=|&&|\|\||\?\?|\+\+|--|\+=|-=|\*=|/=|==|!=|[-+*/%<>!=?:.,;(){}\[\]])
    """,
    re.VERBOSE | re.DOTALL,
)
_OPERATORS: Mapping[str, Sequence[str]] = {
    "<": ("<=", ">"), "<=": ("<", ">="), ">": (">=", "<"), ">=": (">", "<="),
    "===": ("!==",), "!==": ("===",), "==": ("!=",), "!=": ("==",),
    "+": ("-", "*"), "-": ("+",), "*": ("/", "+"), "/": ("*",), "%": ("/",),
    "&&": ("||",), "||": ("&&", "??"), "??": ("||",),
    "++": ("--",), "--": ("++",), "+=": ("-=", "="), "-=": ("+=",), "*=": ("+=",),
}  # fmt: skip
_NAMES: Mapping[str, Sequence[str]] = {
    "true": ("false",), "false": ("true",), "floor": ("ceil", "round"), "ceil": ("floor", "round"),
    "round": ("floor", "ceil"), "min": ("max",), "max": ("min",), "some": ("every",), "every": ("some",),
    "push": ("unshift",), "unshift": ("push",), "pop": ("shift",), "shift": ("pop",),
    "toUpperCase": ("toLowerCase",), "toLowerCase": ("toUpperCase",), "map": ("flatMap",),
    "startsWith": ("endsWith",), "endsWith": ("startsWith",), "indexOf": ("lastIndexOf",),
    "trimStart": ("trim",), "trimEnd": ("trim",), "replace": ("replaceAll",), "let": (), "const": (),
}  # fmt: skip
_WORDS = frozenset(
    re.findall(
        r"\w+",
        """await async break case catch class const continue default delete do else export extends finally
        for from function if import in instanceof let new of return static super switch this throw try
        typeof var void while with yield null undefined true false""",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A changed text and what was changed where."""

    text: str
    line: int
    said: str


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def edits(source: str) -> Iterator[Edit]:
    """Every small change of `source`, those that repair most often first, none twice."""
    tokens = [
        _Token(match.lastgroup or "", match[0], match.start())
        for match in _TOKEN.finditer(source)
        if match.lastgroup != "comment"
    ]
    seen = {source}
    for make in (_operators, _numbers, _names, _factors, _swapped_names):
        for start, end, new in make(tokens):
            text = source[:start] + new + source[end:]
            if text not in seen:
                seen.add(text)
                old = source[start:end]
                said = f"`{new}` instead of `{old}`" if old else f"`{new.strip()}` was missing"
                yield Edit(text=text, line=source.count("\n", 0, start) + 1, said=said)


_Change = tuple[int, int, str]


def _operators(tokens: Sequence[_Token]) -> Iterator[_Change]:
    for token in tokens:
        if token.kind == "operator":
            yield from ((token.start, token.end, new) for new in _OPERATORS.get(token.text, ()))
            if token.text == "!":
                yield token.start, token.end, ""


def _numbers(tokens: Sequence[_Token]) -> Iterator[_Change]:
    for token in tokens:
        if token.kind != "number":
            continue
        near = ["1", "0"] if "." in token.text else [str(int(token.text) + 1), str(int(token.text) - 1)]
        yield from ((token.start, token.end, new) for new in near if not new.startswith("-"))
        # Percents, and rates of a thousand.
        whole = float(token.text)
        yield from ((token.start, token.end, f"{whole * by:g}") for by in (10, 0.1, 100, 0.01))


def _names(tokens: Sequence[_Token]) -> Iterator[_Change]:
    for token in tokens:
        if token.kind == "name":
            yield from ((token.start, token.end, new) for new in _NAMES.get(token.text, ()))


def _factors(tokens: Sequence[_Token]) -> Iterator[_Change]:
    """`a.price` where `a.price * a.quantity` was meant, and the like, with the fields that the file knows."""
    fields = _fields(tokens)
    for holder, dot, field, after in zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False):
        if (holder.kind, dot.text, field.kind) != ("name", ".", "name") or after.text in ("(", "."):
            continue
        for operator in ("*", "+", "-"):
            for other in fields:
                if other != field.text:
                    yield field.end, field.end, f" {operator} {holder.text}.{other}"


def _swapped_names(tokens: Sequence[_Token]) -> Iterator[_Change]:
    """Another field or variable of the file in a name's place."""
    fields = _fields(tokens)
    variables = list(dict.fromkeys(_plain(tokens)))
    for before, token in zip([_Token("", "", 0), *tokens], tokens, strict=False):
        if token.kind != "name" or token.text in _WORDS:
            continue
        others = fields if before.text == "." else variables
        yield from ((token.start, token.end, other) for other in others if other != token.text)


def _fields(tokens: Sequence[_Token]) -> list[str]:
    named = (
        token.text
        for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False)
        if token.kind == "name"
        and after.text != "("
        and (before.text == "." or (before.text in ("{", ",") and after.text in (",", "}", ":")))
    )
    return list(dict.fromkeys(named))


def _plain(tokens: Sequence[_Token]) -> Iterator[str]:
    for before, token in itertools.pairwise(tokens):
        if token.kind == "name" and token.text not in _WORDS and before.text != ".":
            yield token.text
