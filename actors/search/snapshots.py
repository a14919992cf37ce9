"""What names held when tests came to a line, and what a proposed condition would have said there.

Values come as literals from the sandbox. Only expressions of a few harmless kinds are evaluated, on nothing
but these literals, so no code of the task runs here.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, SimpleNamespace
from typing import Any

#: One visit of a line: the text of each name's value; attributes of `self` are named `self.x`.
Visit = Mapping[str, str]
#: Per visit True, False, or None where the expression has no value; failing tests' visits, then the others'.
Truth = tuple[tuple[bool | None, ...], tuple[bool | None, ...]]

_FUNCTIONS = {
    "len": len, "abs": abs, "isinstance": isinstance, "int": int, "str": str, "float": float, "bool": bool,
    "min": min, "max": max, "sum": sum, "list": list, "dict": dict, "tuple": tuple, "set": set,
}  # fmt: skip
_GLOBALS = {"__builtins__": {}, **_FUNCTIONS}
_METHODS = frozenset(
    (
        "isdigit", "isalpha", "isalnum", "isupper", "islower", "isspace", "strip", "lower", "upper",
        "startswith", "endswith", "get", "count",
    )
)  # fmt: skip
_NODES = (
    ast.Expression, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Name, ast.Constant, ast.Subscript,
    ast.Call, ast.Attribute, ast.Tuple, ast.List, ast.Load, ast.cmpop, ast.boolop, ast.unaryop, ast.Slice,
    ast.Add, ast.Sub, ast.FloorDiv, ast.Div, ast.Mod,
)  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Snapshots:
    """Visits of one line by failing and by passing tests.

    Attributes:
        truncated: Whether a test came more often than was noted.
    """

    failing: Sequence[Visit] = ()
    passing: Sequence[Visit] = ()
    truncated: bool = False
    _known: dict[str, Truth | None] = field(default_factory=dict, repr=False)
    _scopes: tuple[list[dict[str, Any]], list[dict[str, Any]]] | None = field(default=None, repr=False)

    def truth(self, text: str) -> Truth | None:
        """What `text` says at every visit, None where that cannot be told."""
        if text not in self._known:
            self._known[text] = self._truth(text)
        return self._known[text]

    def _truth(self, text: str) -> Truth | None:
        code = _compiled(text)
        if code is None or not self.failing:
            return None
        if self._scopes is None:
            self._scopes = (_scopes(self.failing), _scopes(self.passing))
        one, other = (tuple(_value(code, scope) for scope in scopes) for scopes in self._scopes)
        return one, other


@lru_cache(maxsize=20_000)
def _compiled(text: str) -> CodeType | None:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError):
        return None
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, _NODES) or not _harmless(node, called):
            return None
    return compile(tree, "<condition>", "eval")


def _harmless(node: ast.AST, called: set[int]) -> bool:
    if isinstance(node, ast.Attribute):
        if id(node) in called:
            return node.attr in _METHODS
        return isinstance(node.value, ast.Name) and node.value.id == "self" and not node.attr.startswith("_")
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) or (
            isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        )
    return True


def _scopes(visits: Sequence[Visit]) -> list[dict[str, Any]]:
    scopes = []
    for visit in visits:
        scope: dict[str, Any] = {}
        attributes: dict[str, Any] = {}
        for name, text in visit.items():
            into = attributes if name.startswith("self.") else scope
            into[name.removeprefix("self.")] = ast.literal_eval(text)
        scopes.append({**scope, "self": SimpleNamespace(**attributes)})
    return scopes


def _value(code: CodeType, scope: dict[str, Any]) -> bool | None:
    try:
        # `_compiled` let nothing through that reaches beyond the literals: no attributes, no other calls.
        return bool(eval(code, _GLOBALS, scope))  # noqa: S307
    except Exception:
        return None
