"""Operands and cases that were forgotten in an expression."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache

from actors.search import precedence
from actors.search.mutators.conditions import conditions, fits, results
from actors.search.mutators.sifting import sifted
from actors.search.mutators.site import Change, Site


def terms(site: Site) -> Iterator[Change]:
    """An operand forgotten in arithmetic or a concatenation; a case forgotten in a value."""
    node = site.node
    if not isinstance(node, ast.expr) or isinstance(
        node, ast.Constant | ast.Slice | ast.Starred | ast.JoinedStr
    ):
        return
    parent, _ = site.source.parents[node]
    if not isinstance(
        parent,
        ast.Return
        | ast.Assign
        | ast.AugAssign
        | ast.Call
        | ast.ListComp
        | ast.Compare
        | ast.Dict
        | ast.IfExp
        | ast.GeneratorExp
        | ast.Tuple
        | ast.List
        | ast.keyword,
    ):
        return
    if not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        return
    place = 1.0 if isinstance(parent, ast.Return | ast.Assign | ast.AugAssign) else 0.6
    if site.may_be(node, "int", "float"):
        yield from _number_terms(site, node, place)
    kind = site.guess(node)
    if kind in ("str", "list", "tuple"):
        for name in site.visible():
            if kind in site.types(name):
                own = site.wrapped(node, precedence.ARITHMETIC)
                yield _term(site, node, f"{own} + {name}", 0.3 * place)
                yield _term(site, node, f"{name} + {own}", 0.3 * place)
            elif kind == "list" and not {"int", "str", "float"}.isdisjoint(site.types(name)):
                own = site.wrapped(node, precedence.ARITHMETIC)
                yield _term(site, node, f"{own} + [{name}]", 0.2 * place)
                yield _term(site, node, f"[{name}] + {own}", 0.2 * place)
    if isinstance(parent, ast.Return | ast.Assign):
        outcomes = [
            (text.removeprefix("return "), factor)
            for text, factor in results(site)
            if text.startswith("return ")
        ]
        own = site.wrapped(node, precedence.OR)
        for text, weight in sifted(site, conditions(site), "False"):
            for value, factor in outcomes[:12]:
                if value != site.text(node):
                    yield Change(
                        spans=(site.put(node, f"{own} if {_negated(text)} else {value}"),),
                        weight=0.25 * weight * factor,
                        kind="fitted" if fits(site, value) else "case",
                        why=f"{value} where `{text}`",
                    )


@lru_cache(maxsize=5_000)
def _negated(text: str) -> str:
    tree = ast.parse(text, mode="eval").body
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not):
        return ast.unparse(tree.operand)
    if isinstance(tree, ast.Compare) and len(tree.ops) == 1:
        opposite = {
            ast.Lt: ast.GtE,
            ast.LtE: ast.Gt,
            ast.Gt: ast.LtE,
            ast.GtE: ast.Lt,
            ast.Eq: ast.NotEq,
            ast.NotEq: ast.Eq,
            ast.Is: ast.IsNot,
            ast.IsNot: ast.Is,
            ast.In: ast.NotIn,
            ast.NotIn: ast.In,
        }
        tree.ops = [opposite[type(tree.ops[0])]()]
        return ast.unparse(tree)
    return f"not {text}" if precedence.level(tree) >= precedence.NOT else f"not ({text})"


def _number_terms(site: Site, node: ast.expr, place: float) -> Iterator[Change]:
    known = 1.0 if site.guess(node) else 0.5
    for name in site.visible():
        kinds = set(site.types(name))
        if kinds and not kinds & {"int", "float"}:
            continue
        unused = 2.5 if not site.used(name) else 1.0
        for symbol, weight in (("+", 0.3), ("-", 0.3), ("*", 0.25), ("/", 0.15), ("//", 0.12), ("%", 0.2)):
            level = precedence.ARITHMETIC if symbol in "+-" else precedence.TERM
            yield _term(
                site, node, f"{site.wrapped(node, level)} {symbol} {name}", weight * place * unused * known
            )
            if symbol in "-/%":
                yield _term(
                    site,
                    node,
                    f"{name} {symbol} {site.wrapped(node, level + 1)}",
                    0.12 * place * unused * known,
                )
    for tail, weight in (
        ("* 2", 0.2),
        ("/ 2", 0.3),
        ("// 2", 0.25),
        ("% 2", 0.15),
        ("% 10", 0.12),
        ("/ 100", 0.2),
        ("* 100", 0.2),
        ("** 2", 0.2),
        ("** 0.5", 0.12),
        ("+ 2", 0.05),
        ("* -1", 0.05),
        ("% 26", 0.05),
    ):
        level = precedence.AWAIT if tail.startswith("**") else precedence.TERM
        text = f"{site.wrapped(node, level)} {tail}"
        yield Change(
            spans=(site.put(node, text),), weight=weight * place * known, kind="tail", why=f"`{text}`"[:80]
        )


def _term(site: Site, node: ast.expr, text: str, weight: float) -> Change:
    return Change(spans=(site.put(node, text),), weight=weight, kind="term", why=f"`{text}`"[:80])


ALL = (terms,)
