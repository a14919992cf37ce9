"""Calls put around an expression or taken off it; a forgotten `await` or pair of parentheses."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from actors.search import precedence
from actors.search.mutators.site import Change, Site
from actors.search.mutators.tables import METHODS, WRAPS
from actors.search.mutators.values import called_name, is_module

STRIPPABLE = frozenset(
    (
        "abs",
        "set",
        "sorted",
        "str",
        "int",
        "float",
        "list",
        "reversed",
        "round",
        "len",
        "tuple",
        "max",
        "min",
        "sum",
    )
)


def wraps(site: Site) -> Iterator[Change]:
    """A call put around an expression, or a method behind it."""
    node = site.node
    if not isinstance(node, ast.expr) or not _worth_wrapping(site, node):
        return
    kind = site.guess(node)
    place = _wrap_place(site)
    loose = site.text(node)
    for pattern, weight in WRAPS.get(kind, WRAPS[""]).items():
        if pattern.startswith("math.") and "import math" not in site.source.text:
            continue
        head = pattern.split("({}")[0]
        if isinstance(node, ast.Call) and called_name(node) == head:
            continue
        level = precedence.ATOM if not pattern.endswith(("% 10", "// 2")) else precedence.TERM
        inner = loose if "({}" in pattern else site.wrapped(node, level)
        if "({}" not in pattern and isinstance(node, ast.Constant) and not isinstance(node.value, str):
            continue
        if pattern.count("(") == 0 and loose.endswith(pattern[2:]):
            continue
        text = pattern.replace("{}", inner, 1)
        yield Change(
            spans=(site.put(node, text),),
            weight=weight * place,
            kind="tail" if "(" not in pattern and "[" not in pattern else "wrap",
            why=f"`{pattern.format('…')}` was missing",
        )


def _worth_wrapping(site: Site, node: ast.expr) -> bool:
    if isinstance(
        node,
        ast.Constant | ast.Starred | ast.Lambda | ast.Slice | ast.Yield | ast.FormattedValue | ast.JoinedStr,
    ):
        return False
    if not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        return False
    parent, name = site.source.parents[node]
    if isinstance(parent, ast.Call) and name == "func":
        return False
    if isinstance(parent, ast.Expr | ast.Attribute | ast.FormattedValue | ast.JoinedStr | ast.Delete):
        return (
            isinstance(parent, ast.Attribute)
            and isinstance(node, ast.Name | ast.Subscript)
            and site.guess(node) == "str"
        )
    return not isinstance(node, ast.Compare | ast.BoolOp) or isinstance(parent, ast.Return)


_PLACES: tuple[tuple[tuple[type[ast.AST], ...], float], ...] = (
    ((ast.Return,), 1.0),
    ((ast.Assign, ast.AugAssign, ast.For, ast.comprehension, ast.Dict), 0.9),
    ((ast.Compare, ast.Call, ast.keyword), 0.8),
    ((ast.IfExp, ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp), 0.8),
    ((ast.BinOp,), 0.6),
)


def _wrap_place(site: Site) -> float:
    parent = site.source.parent(site.node)
    return next((weight for kinds, weight in _PLACES if isinstance(parent, kinds)), 0.5)


def unwraps(site: Site) -> Iterator[Change]:
    """A call taken off its argument, a method off its object."""
    node = site.node
    if not isinstance(node, ast.Call) or isinstance(site.source.parent(node), ast.Expr):
        return
    name = called_name(node)
    if len(node.args) >= 1 and not isinstance(node.args[0], ast.Starred):
        yield Change(
            spans=(site.put(node, site.text(node.args[0])),),
            weight=0.45 if name in STRIPPABLE else 0.2,
            kind="drop call",
            why=f"without the call of `{name}`",
        )
    if isinstance(node.func, ast.Attribute) and not is_module(site, node.func.value):
        yield Change(
            spans=(site.put(node, site.text(node.func.value)),),
            weight=0.45 if not node.args else 0.2,
            kind="drop call",
            why=f"without `.{name}()`",
        )


def awaits(site: Site) -> Iterator[Change]:
    """A missing `await`."""
    node = site.node
    if not isinstance(node, ast.Call) or not isinstance(site.function, ast.AsyncFunctionDef):
        return
    if isinstance(site.source.parent(node), ast.Await):
        return
    yield Change(
        spans=(site.put(node, f"await {site.wrapped(node, precedence.ATOM)}"),),
        weight=0.6,
        kind="await",
        why="`await` was missing",
    )


def calls_of_values(site: Site) -> Iterator[Change]:
    """A missing pair of parentheses: the function itself was used for its result."""
    node = site.node
    if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load):
        return
    parent, name = site.source.parents[node]
    if (isinstance(parent, ast.Call) and name == "func") or isinstance(parent, ast.Attribute):
        return
    known = node.attr in METHODS or any(f"def {node.attr}(" in line for line in [site.source.text])
    if known:
        yield Change(
            spans=(site.put(node, f"{site.text(node)}()"),), weight=0.6, kind="missing call", why="call it"
        )


ALL = (
    wraps,
    unwraps,
    awaits,
    calls_of_values,
)
