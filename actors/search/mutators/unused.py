"""Parameters: unused ones put to use, mutable defaults made fresh."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from actors.search import precedence
from actors.search.mutators import lines
from actors.search.mutators.site import Change, Site
from actors.search.source import Function


def unused_parameters(site: Site) -> Iterator[Change]:
    """A parameter that nothing reads, put to use at an expression."""
    node = site.node
    if not isinstance(node, ast.expr) or isinstance(node, ast.Constant | ast.Slice | ast.Starred):
        return
    if not isinstance(getattr(node, "ctx", ast.Load()), ast.Load) or not _takes_value(site):
        return
    for name in site.parameters():
        if site.used(name):
            continue
        for text, weight in _uses(site, node, name).items():
            yield Change(
                spans=(site.put(node, text),),
                weight=weight,
                kind="unused parameter",
                why=f"`{name}` was not used",
            )


def _uses(site: Site, node: ast.expr, name: str) -> dict[str, float]:
    own = site.text(node)
    choice = site.wrapped(node, precedence.OR)
    options: dict[str, float] = {}
    kinds = site.types(name) or (_annotated(site, name),)
    if "bool" in kinds or kinds == ("",):
        words = [word for word in name.lower().split("_") if len(word) > 2]
        near = [
            f
            for f in _functions_in_reach(site)
            if f in words or any(f.startswith(w) or w.startswith(f) for w in words)
        ]
        for function in near:
            options[f"{function}({own}) if {name} else {choice}"] = 1.0
        for method in ("lower", "upper", "strip", "title", "capitalize"):
            if any(
                word in (method, method + "case", "ignore", "case", "insensitive", "trim", "stripped")
                for word in words
            ):
                options[f"{site.wrapped(node, precedence.ATOM)}.{method}() if {name} else {choice}"] = 0.7
        if {"reverse", "reversed", "descending", "desc"} & set(words):
            options[f"{site.wrapped(node, precedence.ATOM)}[::-1] if {name} else {choice}"] = 0.8
        for function in ("round", "abs", "sorted", "int", "str", "len", "set", "list"):
            options.setdefault(f"{function}({own}) if {name} else {choice}", 0.35)
        options[f"-{site.wrapped(node, precedence.FACTOR)} if {name} else {choice}"] = 0.3
        options[f"None if {name} else {choice}"] = 0.15
    if {"int", "float", ""} & set(kinds):
        options[f"round({own}, {name})"] = (
            0.9 if any(part in name for part in ("digit", "decimal", "places", "precision")) else 0.3
        )
        for symbol in ("*", "+", "-", "/", "//", "%", "**"):
            level = precedence.TERM if symbol not in "+-" else precedence.ARITHMETIC
            if symbol == "**":
                level = precedence.AWAIT
            options[f"{site.wrapped(node, level)} {symbol} {name}"] = 0.5
        options[f"{site.wrapped(node, precedence.TERM)} * (1 - {name})"] = 0.3
        options[f"{site.wrapped(node, precedence.TERM)} * (1 + {name})"] = 0.3
        options[f"{site.wrapped(node, precedence.TERM)} * (1 - {name} / 100)"] = 0.25
        options[f"{site.wrapped(node, precedence.TERM)} * (1 + {name} / 100)"] = 0.2
        options.update({f"min({own}, {name})": 0.45, f"max({own}, {name})": 0.45})
        options.update(
            {
                f"{site.wrapped(node, precedence.ATOM)}[:{name}]": 0.5,
                f"{site.wrapped(node, precedence.ATOM)}[{name}:]": 0.35,
            }
        )
    if {"str", ""} & set(kinds):
        options.update(
            {
                f"{name}.join({own})": 0.5,
                f"{name} + {site.wrapped(node, precedence.ARITHMETIC)}": 0.5,
                f"{site.wrapped(node, precedence.ARITHMETIC)} + {name}": 0.5,
            }
        )
        options[f"{site.wrapped(node, precedence.ATOM)}.split({name})"] = 0.3
    options.update({f"{name} or {choice}": 0.2, f"{choice} or {name}": 0.3, name: 0.3})
    if "NoneType" in kinds or len(kinds) > 1:
        options[f"{name} if {name} is not None else {choice}"] = 0.5
    return options


def _annotated(site: Site, name: str) -> str:
    arguments = site.function.args if site.function else None
    for argument in [*arguments.args, *arguments.kwonlyargs] if arguments else ():
        if argument.arg == name and isinstance(argument.annotation, ast.Name):
            return argument.annotation.id
    return ""


def _functions_in_reach(site: Site) -> list[str]:
    own = [
        one.name for one in (site.source.tree.body if site.source.tree else ()) if isinstance(one, Function)
    ]
    return [
        *own,
        "round",
        "abs",
        "sorted",
        "reversed",
        "set",
        "list",
        "str",
        "int",
        "float",
        "len",
        "sum",
        "tuple",
    ]


def _takes_value(site: Site) -> bool:
    parent, _ = site.source.parents[site.node]
    return isinstance(
        parent,
        ast.Return
        | ast.Assign
        | ast.Dict
        | ast.keyword
        | ast.Call
        | ast.Yield
        | ast.List
        | ast.Tuple
        | ast.AnnAssign
        | ast.ListComp
        | ast.For,
    )


def defaults(site: Site) -> Iterator[Change]:
    """A mutable default argument made fresh per call; other default values."""
    node = site.node
    if not isinstance(node, Function):
        return
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args]
    pairs = list(zip(named[len(named) - len(arguments.defaults) :], arguments.defaults, strict=True))
    pairs += [
        (name, value)
        for name, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if value is not None
    ]
    first = lines.first_statement(node)
    for name, default in pairs:
        mutable = isinstance(default, ast.List | ast.Dict | ast.Set) or (
            isinstance(default, ast.Call) and not isinstance(default.func, ast.Attribute)
        )
        if mutable and site.source.alone_on_lines(first):
            guard = (f"if {name.arg} is None:", f"{lines.unit(site)}{name.arg} = {site.text(default)}")
            yield Change(
                spans=(site.put(default, "None"), lines.before(site, first, *guard)),
                weight=0.9,
                kind="mutable default",
                why=f"the default of `{name.arg}` was shared between calls",
            )


ALL = (
    unused_parameters,
    defaults,
)
