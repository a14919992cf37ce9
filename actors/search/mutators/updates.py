"""Statements that were forgotten: updates, last groups, returns, else branches."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from actors.search.mutators import lines
from actors.search.mutators.analogies import analogous
from actors.search.mutators.conditions import fits, results
from actors.search.mutators.containers import upkeep
from actors.search.mutators.site import Change, Site


def updates(site: Site) -> Iterator[Change]:
    """A statement that was forgotten before or behind this one: an update, or a copy of one elsewhere."""
    node = site.node
    if not isinstance(node, ast.stmt) or not lines.may_precede(site, node):
        return
    for text, weight, kind in _weighed(site):
        if text.strip() == site.text(node).strip():
            continue
        yield Change(
            spans=(lines.before(site, node, text),),
            weight=0.9 * weight,
            kind=kind,
            why=f"`{text}` was missing",
        )
        if not isinstance(node, ast.Return | ast.Break | ast.Continue | ast.Raise):
            yield Change(
                spans=(lines.after(site, node, text),),
                weight=weight,
                kind=kind,
                why=f"`{text}` was missing",
            )


#: Starting anew what a loop gathers makes a test pass by throwing values away.
_RESET = 0.2
_ANALOGOUS = 0.5
_COPIED = 0.35


def _weighed(site: Site) -> Iterator[tuple[str, float, str]]:
    """Statements with their weight and kind: donors, what siblings do, plain updates and resets."""
    copied = dict.fromkeys(_donors(site), _COPIED) | dict.fromkeys(analogous(site), _ANALOGOUS)
    for text, weight in copied.items():
        kind = "insert" if text.startswith(("return", "break", "continue")) else "donor"
        yield text, *((weight * _RESET, "reset") if _throws_away(site, text) else (weight, kind))
    for text, weight in _forgotten(site):
        reset = _is_reset(site, text)
        yield text, weight * (_RESET if reset else 1.0), "reset" if reset else "insert"


def _throws_away(site: Site, text: str) -> bool:
    return _is_reset(site, text) or _DROPPING.search(text) is not None


#: A second time somewhere else, these lose what was gathered, whichever key or element is meant.
_DROPPING = re.compile(r"^[\w.]+\.(?:popitem\(.*\)|clear\(\))$")


def _is_reset(site: Site, text: str) -> bool:
    """Whether `text` empties, inside a loop, a name that is bound outside of it."""
    found = re.fullmatch(r"(\w+)(?: = (?:\[\]|\{\}|set\(\)|0|\"\"|''|None)|\.clear\(\))", text.strip())
    loop = site.outermost_loop()
    if found is None or loop is None:
        return False
    return site.facts.first.get(found.group(1), loop.lineno) < loop.lineno


def _forgotten(site: Site) -> Iterator[tuple[str, float]]:
    names = site.visible()
    for name in names:
        yield from _of_one(site, name)
        for other in names:
            if other != name:
                yield from _of_two(site, name, other)
    if "self" in _raw_parameters(site):
        for attribute in site.attributes()[:10]:
            yield from _of_attribute(site, attribute)


#: By type of the name `{0}`: statements that bring it up to date.
_UPDATES: dict[str, tuple[tuple[str, float], ...]] = {
    "int": (
        ("{0} += 1", 0.3),
        ("{0} -= 1", 0.2),
        ("{0} = 0", 0.12),
        ("{0} = abs({0})", 0.2),
        ("{0} = max({0}, 0)", 0.2),
    ),
    "float": (("{0} = round({0}, 2)", 0.2), ("{0} = abs({0})", 0.2), ("{0} = 0", 0.1)),
    "str": (
        ("{0} = {0}.lower()", 0.25),
        ("{0} = {0}.strip()", 0.25),
        ("{0} = {0}.upper()", 0.2),
        ('{0} = {0}.replace(" ", "")', 0.15),
        ('{0} = ""', 0.12),
        ("{0} = {0}[::-1]", 0.1),
    ),
    "list": (
        ("{0}.sort()", 0.2),
        ("{0}.reverse()", 0.2),
        ("{0}.pop()", 0.15),
        ("{0} = {0}[:]", 0.2),
        ("{0} = list({0})", 0.2),
        ("{0} = sorted({0})", 0.25),
        ("{0} = []", 0.15),
        ("{0}.clear()", 0.05),
    ),
    "dict": (("{0} = dict({0})", 0.25), ("{0} = {{}}", 0.1)),
    "set": (("{0} = set({0})", 0.2), ("{0} = set()", 0.12)),
    "bool": (("{0} = not {0}", 0.2), ("{0} = True", 0.2), ("{0} = False", 0.2)),
}


def _of_one(site: Site, name: str) -> Iterator[tuple[str, float]]:
    place = 1.0 if site.in_loop() else 0.6
    for kind in site.types(name) or ("int",):
        for pattern, weight in _UPDATES.get(kind, ()):
            yield pattern.format(name), weight * place


def _of_two(site: Site, name: str, other: str) -> Iterator[tuple[str, float]]:
    kinds, theirs = set(site.types(name)), set(site.types(other))
    if "list" in kinds:
        yield f"{name}.append({other})", 0.25
    if "set" in kinds:
        yield f"{name}.add({other})", 0.35
    if {"int", "float"} & kinds and {"int", "float"} & theirs:
        yield from ((f"{name} {symbol}= {other}", 0.15) for symbol in "+-")
        yield f"{name} = {other}", 0.12
    elif kinds & theirs:
        yield f"{name} = {other}", 0.12
    if "int" in kinds and theirs & {"list", "str", "tuple"}:
        yield f"{name} %= len({other})", 0.25
        yield f"{name} = min({name}, len({other}))", 0.2


def _of_attribute(site: Site, attribute: str) -> Iterator[tuple[str, float]]:
    kept = f"self.{attribute}"
    kinds = set(site.types(kept))
    countable = not kinds or kinds & _NUMBERS
    if countable:
        yield from ((f"{kept} {symbol}= 1", 0.15) for symbol in "+-")
    for name in site.parameters():
        yield f"{kept} = {name}", 0.3
        if not kinds:
            yield f"{kept}.append({name})", 0.2
        if countable:
            yield from ((f"{kept} {symbol}= {name}", 0.2) for symbol in "+-")
    yield from upkeep(site, kept)


_NUMBERS = frozenset(("int", "float", "Decimal", "Fraction"))


def _raw_parameters(site: Site) -> list[str]:
    return [argument.arg for argument in site.function.args.args] if site.function else []


def blocks(site: Site) -> Iterator[Change]:
    """A copy of a small conditional block of the function, as when a last group is forgotten."""
    node = site.node
    if not isinstance(node, ast.stmt) or not lines.may_precede(site, node):
        return
    for part in ast.walk(site.function) if site.function else ():
        if not isinstance(part, ast.If) or part is node or part.orelse or not lines.movable(site, part):
            continue
        if (part.end_lineno or 0) - part.lineno > 3 or lines.follows_else(site, part):
            continue
        if not site.in_loop() and any(isinstance(one, ast.Break | ast.Continue) for one in ast.walk(part)):
            continue
        old, new = site.source.indent(part.lineno), site.source.indent(node.lineno)
        text = lines.reindented(lines.text_of(site, part), old, new)
        start, end, _ = lines.lines_of(site, node)
        ended = site.source.text[:end].endswith(("\n", "\r"))
        for place in (start, end) if ended and not isinstance(node, ast.Return) else (start,):
            yield Change(
                spans=((place, place, text),),
                weight=0.3 if site.source.parent(node) is not part else 0.1,
                kind="insert block",
                why=f"the block of line {part.lineno} was missing",
            )


def returned(site: Site) -> Iterator[Change]:
    """A `return` forgotten at the end of the function or of a branch."""
    node = site.node
    if not isinstance(node, ast.stmt) or site.function is None or node is site.function:
        return
    body = site.source.body_of(node)
    if node is not body[-1] or isinstance(node, ast.Return | ast.Raise | ast.Break | ast.Continue):
        return
    if not site.source.alone_on_lines(node):
        return
    last = node is site.function.body[-1]
    options = dict.fromkeys(site.locals(), 0.5 if last else 0.2)
    options.update(dict.fromkeys(("True", "False", "None", "0", '""', "[]", "-1"), 0.3 if last else 0.12))
    for rank, text in enumerate(site.evidence.constants[:8]):
        options.setdefault(text, 0.25 / (1 + 0.3 * rank) if last else 0.1)
    for text, weight in options.items():
        yield Change(
            spans=(lines.after(site, node, f"return {text}"),),
            weight=weight,
            kind="fitted" if fits(site, text) else "missing return",
            why=f"`return {text}` was missing",
        )


def else_branches(site: Site) -> Iterator[Change]:
    """An `else` forgotten behind an `if`, from what the function does elsewhere."""
    node = site.node
    if not isinstance(node, ast.If) or node.orelse or not lines.movable(site, node) or site.function is None:
        return
    step = lines.unit(site)
    options = {text: 0.3 for text in _donors(site) if not _throws_away(site, text)}
    for part in node.body:
        if isinstance(part, ast.AugAssign) and isinstance(part.op, ast.Add | ast.Sub):
            sign = "-=" if isinstance(part.op, ast.Add) else "+="
            options[f"{site.text(part.target)} {sign} {site.text(part.value)}"] = 0.35
            options[f"{site.text(part.target)} = 0"] = 0.45
    for outcome, factor in results(site):
        options.setdefault(outcome, 0.35 * factor)
    for text, weight in options.items():
        yield Change(
            spans=(lines.after(site, node, "else:", f"{step}{text}"),),
            weight=weight,
            kind="else",
            why=f"`else: {text}` was missing",
        )


def last_groups(site: Site) -> Iterator[Change]:
    """What a loop gathers, handed over once more behind it, where anything is left."""
    node = site.node
    if not isinstance(node, ast.Return) or not lines.may_precede(site, node):
        return
    step = lines.unit(site)
    for part in ast.walk(site.function) if site.function else ():
        if (
            not isinstance(part, ast.Expr)
            or not isinstance(part.value, ast.Call)
            or part.lineno >= node.lineno
        ):
            continue
        given = [one for argument in part.value.args for one in ast.walk(argument)]
        for name in dict.fromkeys(one.id for one in given if isinstance(one, ast.Name)):
            if name in site.visible() and "\n" not in site.text(part):
                guarded = (f"if {name}:", f"{step}{site.text(part)}")
                yield Change(
                    spans=(lines.before(site, node, *guarded),),
                    weight=0.55,
                    kind="insert block",
                    why=f"`{site.text(part)}` was missing for what is left",
                )


def _donors(site: Site) -> list[str]:
    """Simple statements of the function, then of the other methods of its class."""
    holder = site.source.class_of(site.function) if site.function else None
    found: dict[str, None] = {}
    for scope in (site.function, holder):
        for part in ast.walk(scope) if scope else ():
            if not isinstance(part, _SIMPLE) or isinstance(getattr(part, "value", None), ast.Constant):
                continue
            if isinstance(part, ast.Break | ast.Continue) and not site.in_loop():
                continue
            if scope is holder and not _is_closed(site, part):
                continue
            if "\n" not in site.text(part):
                found.setdefault(site.text(part))
    return list(found)[:30]


_SIMPLE = (ast.Assign, ast.AugAssign, ast.Expr, ast.Break, ast.Continue, ast.Return)


def _is_closed(site: Site, part: ast.AST) -> bool:
    names = {one.id for one in ast.walk(part) if isinstance(one, ast.Name)}
    return names <= {"self", *site.visible()}


ALL = (
    updates,
    blocks,
    last_groups,
    returned,
    else_branches,
)
