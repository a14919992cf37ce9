"""Which imports of Python code break the order of its layers. Text only; nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from orchestrator.building import Layered, LayersRequest
from orchestrator.plan import is_test_path
from orchestrator.steps import Finding, Severity


def layered(request: LayersRequest) -> Layered:
    """The imports of every Python file that is no test; what cannot be parsed is left to the tests."""
    rank = {name: number for number, group in enumerate(request.order) for name in group}
    found = {
        (path, line, own, other): None
        for path, file in sorted(request.tree.files.items())
        if path.endswith(".py") and not is_test_path(path) and (own := _layer(path, rank))
        for line, module in _imports(path, file.content)
        if (other := _first(module.split("."), rank)) and other != own and rank[other] >= rank[own]
    }
    return Layered(findings=tuple(_finding(rank, *each) for each in found))


def _finding(rank: Mapping[str, int], path: str, line: int, own: str, other: str) -> Finding:
    where = "beside it" if rank[own] == rank[other] else "further out"
    message = f"{own} imports {other}, which lies {where}"
    return Finding(path=path, line=line, severity=Severity.MEDIUM, kind="layers", message=message)


def _layer(path: str, rank: Mapping[str, int]) -> str:
    return _first(PurePosixPath(path).with_suffix("").parts, rank)


def _first(parts: Sequence[str], rank: Mapping[str, int]) -> str:
    return next((part for part in parts if part in rank), "")


def _imports(path: str, content: bytes) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a file imports, relative names made whole."""
    try:
        parsed = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield node.lineno, each.name
        elif isinstance(node, ast.ImportFrom):
            above = PurePosixPath(path).parts[: -node.level] if node.level else ()
            base = ".".join([*above, *((node.module or "").split("."))]).strip(".")
            yield node.lineno, base
            if base:
                for each in node.names:
                    yield node.lineno, f"{base}.{each.name}"
            else:
                for each in node.names:
                    yield node.lineno, each.name
