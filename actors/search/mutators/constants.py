"""Constants: numbers off by one, other values seen in tests and file, strings, empty containers."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from actors.search import precedence
from actors.search.mutators.site import Change, Site
from actors.search.mutators.values import in_f_string, instead, is_value, seen

_MAX_SEEN = 12
#: Counts start from zero: another first value mostly fits a test that counts wrongly elsewhere.
_COUNTER = 0.4


def numbers(site: Site) -> Iterator[Change]:
    """Numbers off by one, the usual small ones, and those that the tests name."""
    node = site.node
    if not isinstance(node, ast.Constant) or type(node.value) not in (int, float) or in_f_string(site):
        return
    value = node.value
    assert isinstance(value, int | float)
    options: dict[str, float] = {}
    start, end = site.source.span(node)
    if isinstance(value, int):
        options.update({str(value + 1): 0.7, str(value - 1): 0.7})
        for usual, weight in ((0, 0.5), (1, 0.5), (-1, 0.4), (2, 0.2), (10, 0.1), (-value, 0.25)):
            options.setdefault(str(usual), weight)
        if value in (0, 1):
            far = 3.0 if _starts_search(site) else 1.0
            options.update({"True": 0.08, "False": 0.08, "None": 0.08})
            options.update({'float("inf")': 0.15 * far, 'float("-inf")': 0.12 * far})
        if value > 2:
            options.update({str(value * 10): 0.1, str(value // 2): 0.1, str(value * 2): 0.1})
            if value % 10 == 0:
                options.setdefault(str(value // 10), 0.15)
    else:
        shifted = (value * 10, value / 10, value * 100, value / 100, 1 - value, 1 + value, -value)
        options.update({repr(round(number, 12)): 0.25 for number in shifted})
        options.update(
            {"0.0": 0.2, "1.0": 0.2, "0.5": 0.2, str(int(value)) if value.is_integer() else "1": 0.15}
        )
    for rank, text in enumerate(seen(site, (int, float))):
        options.setdefault(text, 0.35 / (1 + 0.15 * rank))
    for text in _near(value):
        options.setdefault(text, 0.12)
    for name, weight in instead(site).items():
        options.setdefault(name, weight)
    options.pop(repr(value), None)
    counter = value == 0 and _is_counter(site)
    for text, weight in sorted(options.items(), key=lambda item: -item[1]):
        yield Change(
            spans=(site.put(node, text),),
            weight=weight * (_COUNTER if counter else 1.0),
            kind="first count" if counter else "number",
            why=f"{text} instead of {site.source.text[start:end]}",
        )


def _starts_search(site: Site) -> bool:
    """Whether the constant is compared, or is what a name holds first that is compared: a best so far."""
    current = site.source.parent(site.node)
    while isinstance(current, ast.expr):
        if isinstance(current, ast.Compare):
            return current.left is not site.node and site.node not in current.comparators
        current = site.source.parent(current)
    if not isinstance(current, ast.Assign):
        return False
    names = {target.id for target in current.targets if isinstance(target, ast.Name)}
    return any(
        isinstance(part, ast.Compare)
        and isinstance(part.ops[0], ast.Lt | ast.Gt | ast.LtE | ast.GtE)
        and any(isinstance(one, ast.Name) and one.id in names for one in ast.walk(part))
        for part in (ast.walk(site.function) if site.function else ())
    )


def _is_counter(site: Site) -> bool:
    """Whether the constant is the first value of a name or an attribute that is counted up elsewhere."""
    parent = site.source.parent(site.node)
    if not isinstance(parent, ast.Assign) or len(parent.targets) != 1:
        return False
    scope = site.source.class_of(site.node) or site.function
    name = ast.unparse(parent.targets[0])
    return any(
        isinstance(part, ast.AugAssign) and isinstance(part.op, ast.Add) and ast.unparse(part.target) == name
        for part in (ast.walk(scope) if scope else ())
    )


def _near(value: float) -> Iterator[str]:
    """Values a few steps away in the last digit, and numbers that people write often."""
    if isinstance(value, int):
        yield from (str(value + step) for step in (2, -2, 3, -3, 5, -5))
        yield from ("4", "7", "8", "12", "16", "24", "26", "30", "60", "100", "256", "365", "1000", "3600")
    else:
        digits = len(repr(value).partition(".")[2])
        yield from (repr(round(value + step * 10**-digits, digits)) for step in (1, -1, 2, -2, 5, -5))
        yield from (repr(round(value + step, digits + 1)) for step in (0.05, -0.05, 0.1, -0.1, 0.01, -0.01))
        yield from ("0.05", "0.1", "0.25", "0.75", "2.0", "1e-9")


def off_by_one(site: Site) -> Iterator[Change]:
    """`+ 1` or `- 1` put to an expression that may be an integer."""
    node = site.node
    if isinstance(node, ast.Constant | ast.Slice | ast.Starred | ast.GeneratorExp) or not is_value(site):
        return
    if not site.may_be(node, "int"):
        return
    if isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant):
        return
    weight = _place_weight(site)
    if weight <= 0:
        return
    text = site.wrapped(node, precedence.ARITHMETIC)
    for sign in ("- 1", "+ 1"):
        yield Change(
            spans=(site.put(node, f"{text} {sign}"),),
            weight=weight * (1.0 if site.guess(node) == "int" else 0.6),
            kind="off by one",
            why=f"`{sign}` was missing",
        )


def _place_weight(site: Site) -> float:
    parent, name = site.source.parents[site.node]
    match parent:
        case ast.Call(func=ast.Name(id="range")):
            return 0.8
        case ast.Subscript() | ast.Slice() if name != "value":
            return 0.6
        case ast.Compare():
            return 0.4
        case ast.Return() | ast.Call() | ast.BinOp() | ast.Assign() | ast.AugAssign() | ast.keyword():
            return 0.35
        case ast.Tuple() | ast.List() | ast.IfExp() | ast.ListComp() | ast.GeneratorExp() | ast.Dict():
            return 0.2
    return 0.0


def singletons(site: Site) -> Iterator[Change]:
    """True for False, None for an empty value, and the other way round."""
    node = site.node
    if not isinstance(node, ast.Constant) or not (node.value is None or isinstance(node.value, bool)):
        return
    if node.value is None:
        options = {
            "0": 0.3,
            '""': 0.25,
            "[]": 0.3,
            "{}": 0.15,
            "False": 0.3,
            "True": 0.15,
            "-1": 0.2,
            "1": 0.1,
        }
        options.update(dict.fromkeys(site.visible()[:8], 0.25))
        for rank, text in enumerate(seen(site, (int, float, str))):
            options.setdefault(text, 0.2 / (1 + 0.2 * rank))
    else:
        options = {str(not node.value): 0.8, "None": 0.15}
    for text, weight in sorted(options.items(), key=lambda item: -item[1]):
        yield Change(
            spans=(site.put(node, text),),
            weight=weight,
            kind="singleton",
            why=f"{text} instead of {node.value}",
        )


ALL = (
    numbers,
    off_by_one,
    singletons,
)
