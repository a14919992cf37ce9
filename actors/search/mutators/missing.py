"""Conditions that were forgotten: parts of a test, filters, guards, statements that need an `if`."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from actors.search import precedence
from actors.search.mutators import lines
from actors.search.mutators.conditions import conditions, fits, results
from actors.search.mutators.sifting import sifted
from actors.search.mutators.site import Change, Site

_UNRAISED = 1.8


def more_conditions(site: Site) -> Iterator[Change]:
    """A condition that lacks a part: `and …`, `or …`; a comprehension that lacks its `if`."""
    node = site.node
    if isinstance(node, ast.comprehension):
        end = site.source.span(node.ifs[-1] if node.ifs else node.iter)[1]
        word = " and" if node.ifs else " if"
        if _closes(site, end):
            return
        inner = site.at(node.ifs[0] if node.ifs else _element_of(site, node))
        for text, weight in conditions(inner):
            safe = text if precedence.level_of_text(text) >= precedence.NOT or not node.ifs else f"({text})"
            yield Change(
                spans=((end, end, f"{word} {safe}"),),
                weight=0.45 * weight,
                kind="filter",
                why=f"only if `{text}`",
            )
        return
    if not isinstance(node, ast.expr) or not _is_test(site, node):
        return
    own = site.text(node)
    for word, factor in (("and", 0.45), ("or", 0.4)):
        for text, weight in sifted(site, conditions(site), own, f"({own}) {word} ({{}})"):
            level = precedence.NOT if word == "and" else precedence.AND
            part = text if precedence.level_of_text(text) >= level else f"({text})"
            joined = f"{site.wrapped(node, level)} {word} {part}"
            if text not in site.text(node):
                yield Change(
                    spans=(site.put(node, joined),),
                    weight=factor * weight,
                    kind="more conditions",
                    why=f"`{word} {text}` was missing",
                )
    if isinstance(site.source.parent(node), ast.If | ast.While | ast.IfExp):
        for text, weight in sifted(site, conditions(site), own):
            if text != own:
                yield Change(
                    spans=(site.put(node, text),),
                    weight=0.22 * weight,
                    kind="other condition",
                    why=f"the condition is `{text}`",
                )


def _element_of(site: Site, node: ast.comprehension) -> ast.AST:
    holder = site.source.parents[node][0]
    return getattr(holder, "elt", None) or getattr(holder, "value", None) or node.iter


def _closes(site: Site, end: int) -> bool:
    return site.source.text[end:].lstrip().startswith((")",)) and site.source.text[end:].lstrip()[
        1:
    ].lstrip().startswith("if ")


def _is_test(site: Site, node: ast.expr) -> bool:
    parent, name = site.source.parents[node]
    if isinstance(parent, ast.If | ast.While | ast.IfExp) and name == "test":
        return True
    return isinstance(parent, ast.Return) and (
        isinstance(node, ast.Compare | ast.BoolOp) or site.guess(node) == "bool"
    )


def prefixes(site: Site) -> Iterator[Change]:
    """A condition that has to be asked before this one, as this one fails without it."""
    node = site.node
    if not isinstance(node, ast.expr) or isinstance(node, ast.BoolOp | ast.Constant):
        return
    parent, name = site.source.parents[node]
    if not (_is_test(site, node) or name == "ifs" or isinstance(parent, ast.BoolOp)):
        return
    read = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    fails = any(kind in _FAILURES for kind, _ in site.evidence.errors)
    options: list[tuple[str, str, float]] = []
    for one in sorted(read & {*site.visible(), *_bound_here(site)}):
        options += [("and", one, 0.5), ("and", f"{one} is not None", 0.4), ("or", f"not {one}", 0.45)]
        options += [("or", f"{one} is None", 0.6 if _starts_none(site, one) else 0.1)]
        options += [("and", f"isinstance({one}, {kind})", 0.25) for kind in ("dict", "str", "list", "int")]
        options += [("and", f"{one} > 0", 0.15), ("and", f"{one} != 0", 0.2)]
    for part in ast.walk(node):
        if isinstance(part, ast.Subscript) and not isinstance(part.slice, ast.Slice):
            owner, key = site.text(part.value), site.text(part.slice)
            options += [("and", f"{key} in {owner}", 0.4), ("and", f"{key} < len({owner})", 0.3)]
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "self":
            options += [("and", site.text(part), 0.4), ("or", f"not {site.text(part)}", 0.4)]
    for word, text, weight in dict.fromkeys(options):
        own = site.wrapped(node, precedence.NOT if word == "and" else precedence.AND)
        yield Change(
            spans=(site.put(node, f"{text} {word} {own}"),),
            weight=weight if fails else 0.4 * weight,
            kind="prefix",
            why=f"`{text} {word}` was missing",
        )


def _starts_none(site: Site, name: str) -> bool:
    """Whether the function binds `name` to None, as for the best of a loop before its first turn."""
    return any(
        isinstance(part, ast.Assign)
        and isinstance(part.value, ast.Constant)
        and part.value.value is None
        and any(isinstance(target, ast.Name) and target.id == name for target in part.targets)
        for part in (ast.walk(site.function) if site.function else ())
    )


_FAILURES = frozenset(("TypeError", "AttributeError", "IndexError", "KeyError", "ZeroDivisionError"))


def _bound_here(site: Site) -> set[str]:
    parent = site.source.parent(site.node)
    if not isinstance(parent, ast.comprehension):
        return set()
    return {part.id for part in ast.walk(parent.target) if isinstance(part, ast.Name)}


def guards(site: Site) -> Iterator[Change]:
    """An early exit before the statement: return, raise, continue or break under a condition."""
    node = site.node
    if not isinstance(node, ast.stmt) or not lines.may_precede(site, node):
        return
    first = site.function is not None and node is lines.first_statement(site.function)
    place = 1.0 if first else 0.55 if isinstance(node, ast.For | ast.While | ast.Return) else 0.4
    step = lines.unit(site)
    outcomes = list(results(site))
    for text, weight in sifted(site, conditions(site), "False"):
        for outcome, factor in outcomes:
            yield Change(
                spans=(lines.before(site, node, f"if {text}:", f"{step}{outcome}"),),
                weight=0.5 * place * weight * factor * _wanted(site, outcome),
                kind="fitted" if fits(site, outcome) else "guard",
                why=f"`if {text}: {outcome}` was missing"[:90],
            )
        for jump in ("continue", "break") if site.in_loop() else ():
            yield Change(
                spans=(lines.before(site, node, f"if {text}:", f"{step}{jump}"),),
                weight=0.3 * weight,
                kind="guard",
                why=f"`if {text}: {jump}` was missing",
            )


def _wanted(site: Site, outcome: str) -> float:
    """More than one for an exception that a failing test waited for in vain."""
    return _UNRAISED if any(f"raise {kind}(" in outcome for kind in site.evidence.unraised) else 1.0


def conditional(site: Site) -> Iterator[Change]:
    """The statement done only under a condition."""
    node = site.node
    if not isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.Return) or not lines.may_precede(
        site, node
    ):
        return
    if not lines.movable(site, node) or node.lineno == getattr(site.source.parent(node), "lineno", 0):
        return
    start, end, _ = lines.lines_of(site, node)
    indent, step = site.source.indent(node.lineno), lines.unit(site)
    body = lines.reindented(site.source.text[start:end], indent, indent + step)
    for text, weight in sifted(site, conditions(site), "True"):
        yield Change(
            spans=((start, end, f"{indent}if {text}:{site.source.newline}{body}"),),
            weight=0.3 * weight,
            kind="conditional",
            why=f"only if `{text}`",
        )


ALL = (
    more_conditions,
    prefixes,
    guards,
    conditional,
)
