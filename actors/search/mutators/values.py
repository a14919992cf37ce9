"""What may stand in the place of a value: constants seen, names in reach; small questions about a place."""

from __future__ import annotations

import ast

from actors.search.mutators.site import Site

_MAX_SEEN = 24


def seen(site: Site, kinds: tuple[type, ...]) -> list[str]:
    """Literals of these types from the tests, then from the file."""
    found: dict[str, None] = {}
    for text in [*site.evidence.constants, *file_constants(site)]:
        value = ast.literal_eval(text)
        if type(value) in kinds:
            found.setdefault(text)
    return list(found)[:_MAX_SEEN]


def file_constants(site: Site) -> list[str]:
    """Literals of the file, as Python text."""
    cached: list[str] | None = getattr(site.source, "_constants", None)
    if cached is None:
        found: dict[str, None] = {}
        for node in ast.walk(site.source.tree) if site.source.tree else ():
            if not isinstance(node, ast.Constant) or type(node.value) not in (int, float, str):
                continue
            if not isinstance(site.source.parent(node), ast.Expr) and len(repr(node.value)) < 60:
                found.setdefault(repr(node.value))
        cached = list(found)
        site.source._constants = cached  # type: ignore[attr-defined]
    return cached


def instead(site: Site) -> dict[str, float]:
    """Names that may have been meant where a constant stands."""
    options = {}
    for name in site.visible()[:12]:
        kinds = set(site.types(name))
        if site.guess(site.node) in kinds or not kinds:
            unused = name in site.parameters() and not site.used(name)
            options[name] = 0.8 if unused else 0.2
        elif kinds & {"list", "tuple"} and site.guess(site.node) in ("int", "float"):
            options[f"{name}[0]"] = 0.3
            options[f"len({name})"] = 0.15
        elif "str" in kinds and site.guess(site.node) == "int":
            options[f"len({name})"] = 0.12
    return options


def in_f_string(site: Site) -> bool:
    current = site.source.parent(site.node)
    while isinstance(current, ast.expr | ast.keyword | ast.comprehension):
        if isinstance(current, ast.JoinedStr):
            return True
        current = site.source.parent(current)
    return False


def is_value(site: Site) -> bool:
    node = site.node
    return isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load)


def called_name(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def is_module(site: Site, node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and f"import {node.id}" in site.source.text
