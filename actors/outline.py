"""What a module offers without how: its classes, functions and their first sentences, read by `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterator

# Longer than this, an outline saves nothing.
_LONGEST = 6000
_DOC = 120


def outline(source: str) -> str:
    """The signatures in `source` as Python with empty bodies; empty where it is none or has none."""
    try:
        lines = "\n".join(_lines(ast.parse(source).body, ""))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return lines if len(lines) <= _LONGEST else f"{lines[:_LONGEST].rpartition(chr(10))[0]}\n# …"


def _lines(body: list[ast.stmt], indent: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            yield f"{indent}class {node.name}{f'({bases})' if bases else ''}:{_doc(node)}"
            yield from _lines(node.body, f"{indent}    ")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            yield f"{indent}{kind} {node.name}({ast.unparse(node.args)}){returns}: ...{_doc(node)}"
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield f"{indent}{node.target.id}: {ast.unparse(node.annotation)}"
        elif isinstance(node, ast.Assign) and not indent and isinstance(node.targets[0], ast.Name):
            yield f"{node.targets[0].id} = {_short(ast.unparse(node.value))}"


def _doc(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    doc = (ast.get_docstring(node) or "").partition("\n")[0]
    return f"  # {doc[:_DOC]}" if doc else ""


def _short(text: str) -> str:
    first = text.partition("\n")[0]
    return first if len(first) <= 60 and first == text else "..."
