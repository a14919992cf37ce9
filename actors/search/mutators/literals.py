"""Strings and containers: what tests and file name, what an expected text shows, other first values."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator

from actors.search.inside.text import Span
from actors.search.mutators.site import Change, Site
from actors.search.mutators.values import in_f_string, instead, is_value, seen


def strings(site: Site) -> Iterator[Change]:
    """Strings that the tests or the file name, similar ones first; case, blanks and emptiness changed."""
    node = site.node
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or in_f_string(site):
        return
    parent = site.source.parent(node)
    if isinstance(parent, ast.Expr):
        return
    value = node.value
    quote = '"' if site.text(node).endswith('"') else "'"
    options: dict[str, float] = {}
    for text in seen(site, (str,)):
        other = ast.literal_eval(text)
        ratio = difflib.SequenceMatcher(None, value, other).ratio() if len(value) + len(other) < 200 else 0.0
        options[other] = 0.15 + 0.5 * ratio
    for other, weight in _variants(value):
        options.setdefault(other, weight)
    for name, weight in instead(site).items():
        if name.isidentifier():
            yield Change(
                spans=(site.put(node, name),),
                weight=weight,
                kind="string",
                why=f"`{name}` instead of a constant",
            )
    for other in _aligned(site, value):
        options[other] = 0.7
    options.pop(value, None)
    for other, weight in sorted(options.items(), key=lambda item: -item[1])[:40]:
        yield Change(
            spans=(site.put(node, _quoted(other, quote)),),
            weight=min(weight, 0.7),
            kind="string",
            why=f"{_quoted(other, quote)} instead of {_quoted(value, quote)}"[:120],
        )


def _aligned(site: Site, value: str) -> Iterator[str]:
    """What would stand in the expected text where `value` stands in the actual one."""
    for actual, expected in site.evidence.differences:
        start = actual.find(value) if value else -1
        if start < 0:
            continue
        before, after = actual[:start], actual[start + len(value) :]
        matcher = difflib.SequenceMatcher(None, actual, expected, autojunk=False)
        low, high = 0, len(expected)
        for a, b, size in matcher.get_matching_blocks():
            if size and a + size <= start + len(value) and a < start:
                low = max(low, b + min(size, start - a))
            if size and a + size > start + len(value):
                high = min(high, b + max(start + len(value) - a, 0))
                break
        if before == expected[: len(before)]:
            low = len(before)
        if after and expected.endswith(after):
            high = len(expected) - len(after)
        if low <= high and expected[low:high] != value:
            yield expected[low:high]


def _variants(value: str) -> Iterator[tuple[str, float]]:
    yield from ((value.lower(), 0.3), (value.upper(), 0.3), (value.capitalize(), 0.2), (value.strip(), 0.35))
    yield from ((value + " ", 0.2), (" " + value, 0.15), (value + "s", 0.05), (value.replace(" ", ""), 0.2))
    yield from (
        (" " if not value else "", 0.3),
        ("\n", 0.1),
        (",", 0.08),
        (", ", 0.1),
        ("-", 0.05),
        ("_", 0.05),
    )
    yield from (
        (("aeiou", 0.15), ("aeiouAEIOU", 0.15))
        if set(value.lower()) & set("aeiou") and len(value) > 2
        else ()
    )
    for pattern in (r"\d+", r"\w", r"\w+"):
        if value != pattern and "\\" in value:
            yield pattern, 0.1
    if re.search(r"[.:]\d+f?", value):
        for digits in range(4):
            yield re.sub(r"\.\d+", f".{digits}", value), 0.3
    if re.search(r"%[a-zA-Z]", value):
        for letter in "YymdHMSIjBb":
            yield re.sub(r"%[a-zA-Z]", f"%{letter}", value, count=1), 0.1


def containers(site: Site) -> Iterator[Change]:
    """Other initial containers; an element left out or doubled in a literal."""
    node = site.node
    if isinstance(node, ast.List | ast.Dict | ast.Set | ast.Tuple):
        elements = list(node.values if isinstance(node, ast.Dict) else node.elts)
        if not elements and isinstance(site.source.parent(node), ast.Assign | ast.Return | ast.AnnAssign):
            pool = {
                "[]": 0.3,
                "{}": 0.2,
                "set()": 0.25,
                '""': 0.15,
                "[0]": 0.2,
                "[1]": 0.15,
                "None": 0.15,
                "[[]]": 0.15,
                "()": 0.05,
            }
            pool.update({f"[{name}]": 0.2 for name in site.visible()[:6]})
            for text, weight in pool.items():
                if text != site.text(node):
                    yield Change(
                        spans=(site.put(node, text),),
                        weight=weight,
                        kind="initial value",
                        why=f"start from {text}",
                    )
        elif 1 < len(elements) <= 12 and not isinstance(node, ast.Dict) and is_value(site):
            texts = [site.text(element) for element in elements]
            opening, closing = site.text(node)[0], site.text(node)[-1]
            if not isinstance(node, ast.Tuple):
                for number in range(len(texts)):
                    kept = ", ".join(texts[:number] + texts[number + 1 :])
                    yield Change(
                        spans=(site.put(node, f"{opening}{kept}{closing}"),),
                        weight=0.2,
                        kind="drop element",
                        why=f"leave out {texts[number][:40]}",
                    )
            if len(texts) == 2:
                (a, b), (c, d) = map(site.source.span, elements)
                yield Change(
                    spans=((a, b, texts[1]), (c, d, texts[0])),
                    weight=0.4,
                    kind="element order",
                    why="swap the two elements",
                )


def choices(site: Site) -> Iterator[Change]:
    """A value that lacks among those that something is looked for in: `in (4, 6, 9)`, `in "+-"`."""
    node = site.node
    parent = site.source.parent(node)
    if not isinstance(parent, ast.Compare) or not isinstance(parent.ops[0], ast.In | ast.NotIn):
        return
    if node not in parent.comparators:
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        quote = site.text(node)[-1]
        for text in seen(site, (str,)):
            one = ast.literal_eval(text)
            if len(one) == 1 and one not in node.value and not one.isalnum() and not one.isspace():
                yield _chosen(site.put(node, _quoted(node.value + one, quote)), text)
    elif isinstance(node, ast.Tuple | ast.List | ast.Set) and node.elts:
        known = {ast.dump(element) for element in node.elts}
        kinds = {type(element.value) for element in node.elts if isinstance(element, ast.Constant)}
        for text in seen(site, tuple(kinds)):
            if ast.dump(ast.parse(text, mode="eval").body) not in known:
                end = site.source.span(node.elts[-1])[1]
                yield _chosen((end, end, f", {text}"), text)


def _chosen(span: Span, added: str) -> Change:
    return Change(spans=(span,), weight=0.4, kind="choice", why=f"{added} was missing"[:80])


def _quoted(value: str, quote: str) -> str:
    text = repr(value)
    if text[0] != quote and quote not in value and "\\" not in text:
        text = f"{quote}{value}{quote}"
    return text


ALL = (
    strings,
    containers,
    choices,
)
