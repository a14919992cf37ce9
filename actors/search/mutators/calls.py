"""Calls: the neighbouring function or method; arguments swapped, dropped or added."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from actors.search.mutators.site import BUILTINS, Change, Site
from actors.search.mutators.tables import ARGUMENTS, FUNCTIONS, METHODS
from actors.search.mutators.values import called_name, is_value


def functions(site: Site) -> Iterator[Change]:
    """The neighbouring function or method: min for max, append for extend, floor for ceil, …"""
    node = site.node
    if not isinstance(node, ast.Call):
        return
    start, end = site.source.span(node.func)
    if isinstance(node.func, ast.Attribute):
        name, table = node.func.attr, METHODS
        start = end - len(name)
    elif isinstance(node.func, ast.Name):
        name, table = node.func.id, FUNCTIONS
    else:
        return
    for other, weight in {**METHODS.get(name, {}), **table.get(name, {})}.items():
        if (
            isinstance(node.func, ast.Name)
            and other not in BUILTINS
            and f"{other.split('.')[0]}" not in site.source.text
        ):
            continue
        yield Change(
            spans=((start, end, other),), weight=weight, kind="function", why=f"`{other}` instead of `{name}`"
        )


def arguments(site: Site) -> Iterator[Change]:
    """Arguments swapped, dropped, or one added that the function commonly takes."""
    node = site.node
    if not isinstance(node, ast.Call):
        return
    name = called_name(node)
    spans = [site.source.span(argument) for argument in node.args]
    texts = [site.text(argument) for argument in node.args]
    if name not in ("max", "min", "print", "set", "zip"):
        for first in range(len(spans)):
            for second in range(first + 1, min(len(spans), first + 3)):
                yield Change(
                    spans=((*spans[first], texts[second]), (*spans[second], texts[first])),
                    weight=0.5 if second == first + 1 else 0.3,
                    kind="argument order",
                    why=f"swap arguments {first + 1} and {second + 1} of `{name}`",
                )
    every: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
    if len(every) > 1:
        for number, argument in enumerate(every):
            yield Change(
                spans=(_without(site, every, number),),
                weight=0.35,
                kind="drop argument",
                why=f"leave out argument `{_argument_text(site, argument)[:40]}`",
            )
    added = {text: weight for text, weight in ARGUMENTS.get(name, {}).items() if _may_add(node, name, text)}
    known = {keyword.arg for keyword in node.keywords}
    if name in ("max", "min", "sorted") and len(node.args) == 1 and "key" not in known:
        (argument,) = node.args
        if isinstance(argument, ast.Name | ast.Attribute) and site.may_be(
            argument, "dict", "Counter", "defaultdict"
        ):
            added[f"key={site.text(argument)}.get"] = 0.6 if site.guess(argument) else 0.25
    for parameter in site.parameters():
        if not site.used(parameter):
            added.setdefault(parameter, 0.6)
            if parameter not in known:
                added.setdefault(f"{parameter}={parameter}", 0.4)
    for text, weight in added.items():
        yield Change(
            spans=(_appended(site, node, text),),
            weight=weight,
            kind="add argument",
            why=f"`{text}` was missing",
        )


def _argument_text(site: Site, argument: ast.expr | ast.keyword) -> str:
    return site.text(argument)


def _without(site: Site, every: list[ast.expr | ast.keyword], number: int) -> tuple[int, int, str]:
    start, end = site.outer_span(every[number])
    if number:
        return site.outer_span(every[number - 1])[1], end, ""
    return start, site.outer_span(every[1])[0], ""


def _appended(site: Site, node: ast.Call, text: str) -> tuple[int, int, str]:
    every = sorted([*node.args, *node.keywords], key=site.source.span)
    if not every:
        end = site.source.span(node)[1] - 1
        return end, end, text
    head, _, _ = text.partition("(")
    positional = "=" not in head or text.startswith(("'", '"'))
    last = node.args[-1] if positional and node.args else every[-1]
    if positional and not node.args:
        start = site.outer_span(every[0])[0]
        return start, start, f"{text}, "
    if isinstance(last, ast.GeneratorExp) and site.shares_parentheses(last):
        start, end = site.source.span(last)
        return start, end, f"({site.text(last)}, {text})"
    end = site.outer_span(last)[1]
    return end, end, f", {text}"


def _may_add(node: ast.Call, name: str, text: str) -> bool:
    keyword = text.split("=", maxsplit=1)[0] if "=" in text and not text.startswith(("'", '"')) else None
    if keyword is not None and "lambda" not in keyword:
        return keyword not in {one.arg for one in node.keywords}
    limits = {
        "round": 1,
        "enumerate": 1,
        "get": 1,
        "pop": 1,
        "split": 0,
        "int": 1,
        "sum": 1,
        "next": 1,
        "strip": 0,
        "replace": 2,
        "getattr": 2,
    }
    return len(node.args) <= limits.get(name, 9)


def starred(site: Site) -> Iterator[Change]:
    """A list given where its elements were meant: a missing `*`, or one too many."""
    node = site.node
    if not isinstance(node, ast.Call):
        return
    for argument in node.args:
        start = site.source.span(argument)[0]
        if isinstance(argument, ast.Starred):
            spans, why = ((start, start + 1, ""),), "without `*`"
        elif isinstance(argument, ast.Constant | ast.GeneratorExp) or not site.may_be(
            argument, "list", "tuple", "set", "generator"
        ):
            continue
        else:
            spans, why = ((start, start, "*"),), f"`*{site.text(argument)}`: its elements were meant"[:80]
        gathers = called_name(node) in _GATHERING
        yield Change(spans=spans, weight=0.6 if gathers else 0.2, kind="starred", why=why)


#: Functions of any number of arguments, which people hand a list.
_GATHERING = frozenset(("gather", "zip", "chain", "print", "union", "product", "intersection", "max", "min"))


def own_functions(site: Site) -> Iterator[Change]:
    """A value handed through another function of the file, or each of its elements; unused ones first."""
    node = site.node
    if not is_value(site) or isinstance(node, _NOT_HANDED):
        return
    parent, field = site.source.parents[node]
    if field == "func" or not isinstance(parent, _TAKERS) or site.source.tree is None:
        return
    own = site.function.name if site.function else ""
    for function in site.source.tree.body:
        if not isinstance(function, ast.FunctionDef) or function.name == own or not _takes_one(function):
            continue
        if isinstance(parent, ast.Call) and called_name(parent) == function.name:
            continue
        weight = 0.3 if _is_called(site, function.name) else 0.5
        text = site.text(node)
        for form, factor in ((f"{function.name}({text})", 1.0), (f"map({function.name}, {text})", 0.7)):
            if form.startswith("map") and not (
                isinstance(parent, ast.Call | ast.comprehension | ast.For)
                and site.may_be(node, "list", "tuple", "generator")
            ):
                continue
            yield Change(
                spans=(site.put(node, form),),
                weight=weight * factor,
                kind="own function",
                why=f"`{function.name}` was not called",
            )


_NOT_HANDED = (ast.Constant, ast.Starred, ast.Slice, ast.JoinedStr, ast.Yield, ast.YieldFrom, ast.Lambda)
_TAKERS = (
    ast.Return, ast.Assign, ast.Call, ast.keyword, ast.Dict, ast.List, ast.Tuple, ast.ListComp,
    ast.GeneratorExp, ast.SetComp, ast.DictComp, ast.comprehension, ast.For, ast.Compare, ast.BinOp, ast.Expr,
)  # fmt: skip


def _takes_one(function: ast.FunctionDef) -> bool:
    arguments = function.args
    named = len(arguments.posonlyargs) + len(arguments.args)
    return named >= 1 and named - len(arguments.defaults) <= 1 and not arguments.kwonlyargs


def _is_called(site: Site, name: str) -> bool:
    return any(
        isinstance(part, ast.Name) and part.id == name and isinstance(part.ctx, ast.Load)
        for part in (ast.walk(site.source.tree) if site.source.tree else ())
    )


ALL = (
    functions,
    arguments,
    starred,
    own_functions,
)
