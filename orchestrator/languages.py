"""Which languages' tests a folder holds, by the names of its files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from orchestrator.tree import Tree

_JAVASCRIPT = re.compile(r"(^|/)[^/]+\.(test|spec)\.[mc]?js$")
_PYTHON = re.compile(r"(^|/)(test_[^/]*|[^/]*_test)\.py$")
_CONFIGURATION = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
_NOT_OURS = frozenset({"node_modules", "dist", "build", ".git", ".venv"})


def javascript_tests(tree: Tree) -> tuple[str, ...]:
    """The files of `tree` that hold JavaScript tests, sorted."""
    return _found(tree, _JAVASCRIPT)


def is_javascript_test(path: str) -> bool:
    """Whether a path names a JavaScript test of ours."""
    return bool(_JAVASCRIPT.search(path)) and not is_foreign(path)


def python_tests(tree: Tree) -> tuple[str, ...]:
    """The files of `tree` that hold pytest tests by their usual names, sorted."""
    return _found(tree, _PYTHON)


def language_of(tree: Tree, tests: Sequence[str] = ()) -> str:
    """Whose tests a folder is judged by where nobody says: JavaScript's where it holds no others.

    Args:
        tests: What selects them; one that names Python decides.
    """
    names_python = any(".py" in word for word in tests)
    if names_python or python_tests(tree) or names_patterns(tree) or not javascript_tests(tree):
        return "python"
    return "javascript"


def names_patterns(tree: Tree) -> bool:
    """Whether the suite names the files that hold its tests; only pytest can tell if there are any."""
    known = (tree.files.get(name) for name in _CONFIGURATION)
    return any(word in file.content for file in known if file for word in (b"python_files", b"--doctest"))


def is_foreign(path: str) -> bool:
    """Whether a path belongs to somebody else's code, or is built."""
    return not _NOT_OURS.isdisjoint(PurePosixPath(path).parts)


def _found(tree: Tree, pattern: re.Pattern[str]) -> tuple[str, ...]:
    return tuple(sorted(path for path in tree.files if pattern.search(path) and not is_foreign(path)))
