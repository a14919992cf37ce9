"""Why honest code may pass beside its tests and not apart from them, as the tests' text shows it.

Apart, a test has copies of what the code gave it, its files are not the code's, and what it asks the
interpreter about a stand-in is not about the code.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from orchestrator.tree import Tree

# What asks for identity, for the inside of an object, or reaches the code by another way than a call.
_WORDS = """
id vars dir type open exec eval setattr delattr globals locals copy deepcopy pickle marshal weakref gc inspect
threading thread concurrent signal time perf_counter monotonic sleep write_text write_bytes mkdir touch unlink
environ chdir getcwd Path shelve sqlite3 socket traceback tracemalloc getrefcount getsizeof settrace
__dict__ __class__ __slots__ __mro__ __bases__ __annotations__ __wrapped__ __code__ __module__ __file__
"""
_ASKING = frozenset(_WORDS.split())


def doubts(tree: Tree, paths: Iterable[str]) -> str:
    """The first such thing in the Python files at `paths`; "" where there is none."""
    for path in sorted(paths):
        file = tree.files.get(path)
        if file is None or not path.endswith(".py"):
            continue
        try:
            module = ast.parse(file.content)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return f"{path} cannot be read"
        for node in ast.walk(module):
            if said := _doubt(node):
                return f"{path}:{getattr(node, 'lineno', 0)} {said}"
    return ""


def _doubt(node: ast.AST) -> str:
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        asks = any(isinstance(each, ast.Is | ast.IsNot) for each in node.ops)
        if asks and not any(isinstance(side, ast.Constant) for side in sides):
            return "asks whether two values are one"
    if isinstance(node, ast.Delete) and any(isinstance(each, ast.Attribute) for each in node.targets):
        return "deletes an attribute"
    if isinstance(node, ast.Name) and node.id in _ASKING:
        return f"uses {node.id}"
    if isinstance(node, ast.Attribute) and node.attr in _ASKING:
        return f"uses {node.attr}"
    if isinstance(node, ast.Import | ast.ImportFrom):
        named = [alias.name.partition(".")[0] for alias in node.names]
        from_ = (node.module or "").partition(".")[0] if isinstance(node, ast.ImportFrom) else ""
        if found := next((name for name in (from_, *named) if name in _ASKING), None):
            return f"uses {found}"
    return ""
