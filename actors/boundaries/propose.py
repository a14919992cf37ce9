"""Which calls are worth a test: those that existing tests make, with one value moved to a boundary.

Syntax trees only; nothing is executed.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest

from actors.sandbox.layer import importable_names
from orchestrator.steps import ProposedCall
from orchestrator.tree import Tree

MOST_CALLS = 120
MOST_FILES = 400
_LONGEST_TEXT = 200
_LARGEST = 10**9
_Value = str | bool | int | float
_PLAIN = frozenset(
    {"abs", "bool", "bytes", "dict", "float", "frozenset", "int", "len", "list", "max", "min"}
    | {"range", "reversed", "round", "set", "sorted", "str", "sum", "tuple"}
)


def proposals(
    tree: Tree, tests: Iterable[str], *, first: Iterable[str] = (), most: int = MOST_CALLS
) -> tuple[ProposedCall, ...]:
    """At most `most` calls of the tree's own code that no test of `tests` makes.

    Those next to calls of the files `first` come first; of every file each call is moved in turn.
    """
    own = importable_names(tree)
    paths = list(dict.fromkeys([*first, *tests]))[:MOST_FILES]
    calls = {path: list(_calls(tree, path, own)) for path in paths}
    made = {ast.unparse(expression) for each in calls.values() for _, expression in each}
    found: dict[tuple[str, str], ProposedCall] = {}
    for group in (set(first), set(paths) - set(first)):
        moved = [
            [_proposed(path, imports, each) for each in _variants(expression)]
            for path in paths
            if path in group
            for imports, expression in calls[path]
        ]
        for each in (each for turn in zip_longest(*moved) for each in turn if each is not None):
            if each.expression not in made:
                found.setdefault((each.imports, each.expression), each)
    return tuple(found.values())[:most]


def _proposed(path: str, imports: Mapping[str, str], expression: ast.expr) -> ProposedCall:
    used = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
    needed = dict.fromkeys(text for name, text in imports.items() if name in used)
    return ProposedCall(
        path=path,
        imports="\n".join(sorted(needed)),
        name=_root(expression),
        expression=ast.unparse(expression),
    )


def _calls(tree: Tree, path: str, own: frozenset[str]) -> Iterator[tuple[Mapping[str, str], ast.expr]]:
    """Calls of imported own code in the test functions of one file, their names put in."""
    try:
        module = ast.parse(tree.files[path].content)
    except (KeyError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    imports = dict(_imports(module, own))
    for function in ast.walk(module):
        if not isinstance(function, ast.FunctionDef) or not function.name.startswith("test"):
            continue
        for values in _values(function):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and _root(node) in imports:
                    expression = _Put(values).visit(copy.deepcopy(node))
                    if _is_closed(expression, imports):
                        yield imports, expression


def _imports(module: ast.Module, own: frozenset[str]) -> Iterator[tuple[str, str]]:
    """By name, the statement that imports it from the tree's own code."""
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] in own):
            for alias in node.names:
                if alias.name != "*":
                    yield (
                        alias.asname or alias.name,
                        ast.unparse(ast.ImportFrom(module=node.module, names=[alias], level=node.level)),
                    )
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in own:
                    yield alias.asname or alias.name.split(".")[0], ast.unparse(ast.Import(names=[alias]))


def _values(function: ast.FunctionDef) -> Iterator[dict[str, ast.expr]]:
    """What names of a test function stand for: its plain assignments, with each of its first parameters."""
    names: dict[str, ast.expr] = {}
    assigned: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name not in assigned and _is_plain(node.value):
                names[name] = node.value
            else:
                names.pop(name, None)
            assigned.add(name)
    sets = [each for decorator in function.decorator_list for each in _parameters(decorator)]
    for each in sets[:3] or [{}]:
        yield {**names, **each}


def _parameters(decorator: ast.expr) -> Iterator[dict[str, ast.expr]]:
    """The sets of `@pytest.mark.parametrize(names, [plain values, ...])`."""
    if not (isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("mark.parametrize")):
        return
    if len(decorator.args) < 2 or not isinstance(decorator.args[1], ast.List | ast.Tuple):
        return
    try:
        told = ast.literal_eval(decorator.args[0])
    except ValueError:
        return
    names = [name.strip() for name in told.split(",")] if isinstance(told, str) else list(told)
    for each in decorator.args[1].elts:
        row = [each] if len(names) == 1 else list(getattr(each, "elts", ()))
        if len(row) == len(names) and all(map(_is_plain, row)):
            yield dict(zip(names, row, strict=True))


def _is_plain(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


class _Put(ast.NodeTransformer):
    """Puts values in the place of names."""

    def __init__(self, values: Mapping[str, ast.expr]) -> None:
        self._values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return copy.deepcopy(self._values.get(node.id, node))


def _root(node: ast.expr) -> str:
    """The name that a chain of calls and attributes begins with."""
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_closed(expression: ast.expr, imports: Mapping[str, str]) -> bool:
    """Whether it means the same anywhere: every name in it is imported, plain, or its own."""
    nodes = list(ast.walk(expression))
    if any(
        isinstance(node, ast.Await | ast.Yield | ast.YieldFrom | ast.NamedExpr | ast.Lambda) for node in nodes
    ):
        return False
    names = [node for node in nodes if isinstance(node, ast.Name)]
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return all(node.id in imports or node.id in _PLAIN or node.id in bound for node in names)


def _variants(expression: ast.expr) -> Iterator[ast.expr]:
    """`expression` with one of its values moved, value by value in turn."""
    places = [number for number, node in enumerate(ast.walk(expression)) if _moved(node)]
    moves = [list(range(len(_moved(list(ast.walk(expression))[place])))) for place in places]
    for turn in zip_longest(*moves):
        for place, move in zip(places, turn, strict=True):
            if move is None:
                continue
            changed = copy.deepcopy(expression)
            node = list(ast.walk(changed))[place]
            yield _Swap(node, _moved(node)[move]).visit(changed)


class _Swap(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.expr) -> None:
        self._old, self._new = old, new

    def generic_visit(self, node: ast.AST) -> ast.AST:
        return self._new if node is self._old else super().generic_visit(node)

    visit_Constant = visit_List = visit_Dict = generic_visit


def _moved(node: ast.AST) -> list[ast.expr]:
    """What may stand in the place of a value: its neighbours and the ends of its range."""
    if isinstance(node, ast.Constant):
        return [ast.Constant(each) for each in _neighbours(node.value)]
    if isinstance(node, ast.List) and isinstance(node.ctx, ast.Load) and node.elts:
        turned = [[], node.elts[:1], node.elts[::-1], node.elts + node.elts]
        kept = {ast.dump(ast.List(elts=each, ctx=ast.Load())): each for each in turned}
        return [ast.List(elts=each, ctx=ast.Load()) for each in kept.values() if each != node.elts]
    if isinstance(node, ast.Dict) and node.keys:
        return [ast.Dict(keys=[], values=[])]
    return []


def _neighbours(value: object) -> list[_Value]:
    near: list[_Value] = []
    if isinstance(value, bool):
        near = [not value]
    elif isinstance(value, int) and abs(value) < _LARGEST:
        near = [0, value + 1, value - 1, -value, 1]
    elif isinstance(value, float):
        near = [0.0, -value, value / 2]
    elif isinstance(value, str) and len(value) <= _LONGEST_TEXT:
        near = ["", f"{value} ", value.swapcase(), value[:1], f"{value} {value}"]
    return [each for number, each in enumerate(near) if each != value and each not in near[:number]]
