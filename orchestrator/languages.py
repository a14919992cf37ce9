"""Which languages' tests a folder holds, by the names of its files."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from orchestrator.tree import Tree

_JAVASCRIPT = re.compile(r"(^|/)[^/]+\.(test|spec)\.[mc]?js$")
_PYTHON = re.compile(r"(^|/)(test_[^/]*|[^/]*_test)\.py$")
_NOT_OURS = frozenset({"node_modules", "dist", "build", ".git", ".venv"})


def javascript_tests(tree: Tree) -> tuple[str, ...]:
    """The files of `tree` that hold JavaScript tests, sorted."""
    return _found(tree, _JAVASCRIPT)


def python_tests(tree: Tree) -> tuple[str, ...]:
    """The files of `tree` that hold pytest tests by their usual names, sorted."""
    return _found(tree, _PYTHON)


def is_foreign(path: str) -> bool:
    """Whether a path belongs to somebody else's code, or is built."""
    return not _NOT_OURS.isdisjoint(PurePosixPath(path).parts)


def _found(tree: Tree, pattern: re.Pattern[str]) -> tuple[str, ...]:
    return tuple(sorted(path for path in tree.files if pattern.search(path) and not is_foreign(path)))
