"""Values brought into the range or form needed: clamped, converted part by part, recursed into."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from actors.search import precedence
from actors.search.mutators.site import Change, Site
from actors.search.mutators.values import called_name, is_value

_CONVERSIONS = {
    "join": ("str",),
    "sum": ("int", "float", "abs", "len"),
    "max": ("int", "abs", "len"),
    "min": ("int", "abs", "len"),
    "sorted": ("int", "str", "abs"),
    "list": ("int", "str", "float"),
    "any": ("bool",),
    "set": ("str", "tuple"),
    "tuple": ("int",),
}
_SEQUENCES = frozenset(("list", "str", "tuple", "deque", "range"))


def clamps(site: Site) -> Iterator[Change]:
    """A number kept within bounds: zero, a length, another number; or wrapped around."""
    node = site.node
    if not isinstance(node, ast.Name | ast.BinOp | ast.Call | ast.Subscript | ast.Attribute | ast.UnaryOp):
        return
    if not is_value(site) or not site.may_be(node, "int", "float") or _is_operand(site):
        return
    known = 1.0 if site.guess(node) else 0.5
    own, term = site.text(node), site.wrapped(node, precedence.TERM)
    options = {f"max({own}, 0)": 0.35, f"max({own}, 1)": 0.15}
    for name in site.visible()[:10]:
        kinds = set(site.types(name))
        if name == own:
            continue
        if kinds & {"int", "float"}:
            options.update({f"min({own}, {name})": 0.25, f"max({own}, {name})": 0.25})
        if kinds & _SEQUENCES:
            options.update({f"{term} % len({name})": 0.25, f"min({own}, len({name}))": 0.2})
    for other in donors(site)[:8]:
        if other != own:
            options.update({f"min({own}, {other})": 0.2, f"max({own}, {other})": 0.2})
    for text, weight in options.items():
        yield Change(
            spans=(site.put(node, text),),
            weight=weight * known,
            kind="clamp",
            why=f"keep within bounds: `{text}`"[:80],
        )


def _is_operand(site: Site) -> bool:
    parent, field = site.source.parents[site.node]
    if isinstance(parent, ast.Call):
        return field == "func" or called_name(parent) in ("len", "max", "min", "abs", "print", "append")
    return isinstance(parent, ast.Attribute | ast.Expr | ast.FormattedValue)


def donors(site: Site) -> list[str]:
    """Lookups and attributes that the function reads elsewhere and whose names are bound here."""
    bound = {*site.visible(), "self"}
    found: dict[str, None] = {}
    for part in ast.walk(site.function) if site.function else ():
        if not isinstance(part, ast.Subscript | ast.Attribute) or not isinstance(part.ctx, ast.Load):
            continue
        if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Slice):
            continue
        parent, field = site.source.parents[part]
        names = {one.id for one in ast.walk(part) if isinstance(one, ast.Name)}
        if names <= bound and not (isinstance(parent, ast.Call) and field == "func"):
            found.setdefault(site.text(part))
    return [text for text in found if len(text) <= 30]


def transplants(site: Site) -> Iterator[Change]:
    """A lookup or an attribute from elsewhere in the function in the place of a value."""
    node = site.node
    if not isinstance(node, ast.Name | ast.Subscript | ast.Attribute | ast.Constant) or not is_value(site):
        return
    parent, field = site.source.parents[node]
    if field == "func" or isinstance(parent, ast.Attribute | ast.Expr | ast.JoinedStr | ast.FormattedValue):
        return
    own = site.text(node)
    for other in donors(site)[:10]:
        if other != own:
            yield Change(
                spans=(site.put(node, other),),
                weight=0.2,
                kind="transplant",
                why=f"`{other}` instead of `{own}`"[:80],
            )


def elements(site: Site) -> Iterator[Change]:
    """Every element converted before it is used together: `map(str, …)` in a join and the like."""
    node = site.node
    if not isinstance(node, ast.Name | ast.Call | ast.Attribute | ast.Subscript) or not is_value(site):
        return
    parent = site.source.parent(node)
    if not isinstance(parent, ast.Call) or node not in parent.args:
        return
    own, function = site.text(node), called_name(parent)
    for conversion in _CONVERSIONS.get(function, ()):
        yield Change(
            spans=(site.put(node, f"map({conversion}, {own})"),),
            weight=0.5 if function == "join" else 0.15,
            kind="elements",
            why=f"every element through `{conversion}`",
        )


def recursion(site: Site) -> Iterator[Change]:
    """The function itself called on a part, as when only the first level was handled."""
    node, function = site.node, site.function
    if (
        function is None
        or not isinstance(node, ast.Name | ast.Subscript | ast.Attribute)
        or not is_value(site)
    ):
        return
    parameters = site.parameters()
    if not parameters or site.text(node) in parameters:
        return
    parent, field = site.source.parents[node]
    if (
        not isinstance(parent, ast.Call | ast.Return | ast.BinOp | ast.List | ast.ListComp | ast.Assign)
        or field == "func"
    ):
        return
    method = site.source.class_of(function) is not None
    name = f"self.{function.name}" if method else function.name
    rest = "".join(f", {parameter}" for parameter in parameters[1:])
    yield Change(
        spans=(site.put(node, f"{name}({site.text(node)}{rest})"),),
        weight=0.25,
        kind="recursion",
        why=f"`{function.name}` called for the part",
    )


def unpacking(site: Site) -> Iterator[Change]:
    """Two names unpacked from a split that may give more or fewer parts."""
    node = site.node
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call) or len(node.targets) != 1:
        return
    target, call = node.targets[0], node.value
    if (
        not isinstance(target, ast.Tuple)
        or len(target.elts) != 2
        or called_name(call) not in ("split", "rsplit")
    ):
        return
    if not isinstance(call.func, ast.Attribute) or len(call.args) != 1 or call.keywords:
        return
    first, second = map(site.text, target.elts)
    function, separator = site.source.span(call.func), site.source.span(call.args[0])[1]
    start, end = site.source.span(target)
    for part in ("partition", "rpartition"):
        spans = (
            (start, end, f"{first}, _, {second}"),
            (function[1] - len(call.func.attr), function[1], part),
        )
        yield Change(spans=spans, weight=0.5, kind="unpacking", why=f"`{part}` always gives three parts")
    yield Change(spans=((separator, separator, ", 1"),), weight=0.5, kind="unpacking", why="split once only")


ALL = (clamps, transplants, elements, recursion, unpacking)
