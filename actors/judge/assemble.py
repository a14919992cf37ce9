"""What of a candidate may enter a sandbox: its code, never its own tests, configuration or hooks."""

from __future__ import annotations

import ast
import contextlib
import doctest
import fnmatch
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from actors.judge import tripwire
from actors.judge.config import CONFIG_FILES
from actors.sandbox.layer import importable_names
from orchestrator.tree import File, FileMode, Tree
from orchestrator.verdict import TestProfile

_CONTROL_FILES = frozenset(
    {"conftest.py", "sitecustomize.py", "usercustomize.py", ".coveragerc", *CONFIG_FILES}
)
_CONTROL_SUFFIXES = (".pth", ".pyc", ".pyo", ".so", ".pyd", ".egg-link")
_CONTROL_FOLDERS = frozenset({"__pycache__", ".git", ".github", ".hg", ".venv", ".pytest_cache"})
_TEST_FOLDERS = frozenset({"test", "tests"})
_TEST_TOOLS = frozenset(
    {"pytest", "_pytest", "pluggy", "py", "iniconfig", "packaging", "pygments", "exceptiongroup"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A candidate as it is tested.

    Attributes:
        tree: The base's protected files and the candidate's code.
        dropped: Paths of the candidate that were left out or put back, sorted.
        findings: In words, why a person should look before this is certified.
    """

    tree: Tree
    dropped: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


def protected_paths(
    tree: Tree, *, patterns: Sequence[str] = (), protect: Sequence[str] = ()
) -> frozenset[str]:
    """Paths of the base that decide about the tests.

    Args:
        tree: The base.
        patterns: File name patterns of tests that its configuration adds (`python_files`).
        protect: Paths, folders or globs that the caller names.
    """
    tests = {path for path in tree.files if is_test(path, patterns)}
    homes = {home for path in tests for home in _homes(path)}
    return frozenset(
        path
        for path in tree.files
        if path in tests
        or PurePosixPath(path).name in _CONTROL_FILES
        or any(str(parent) in homes for parent in PurePosixPath(path).parents)
        or _matches(path, protect)
    )


def is_test(path: str, patterns: Sequence[str] = ()) -> bool:
    """Whether pytest would take a file for a test by its name."""
    name = PurePosixPath(path).name
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in ("test_*.py", "*_test.py", *patterns))


def _homes(path: str) -> set[str]:
    """Folders called `tests` above a test file: everything below them belongs to the tests."""
    return {str(parent) for parent in PurePosixPath(path).parents if parent.name in _TEST_FOLDERS}


def _matches(path: str, globs: Iterable[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(path, glob) or path == glob.rstrip("/") or path.startswith(glob.rstrip("/") + "/")
        for glob in globs
    )


def assemble(
    base: Tree, candidate: Tree, profile: TestProfile, *, modules: frozenset[str] = frozenset()
) -> Assembled:
    """Lay the candidate's code over the base; pure.

    Args:
        base: What the profile was frozen from.
        candidate: Whatever an agent made of it.
        profile: Says what is protected.
        modules: Top-level names of the environment layer, besides the standard library's.
    """
    homes = {home for path in profile.protected if is_test(path) for home in _homes(path)}
    kept: dict[str, File] = {}
    dropped = set()
    for path, file in candidate.files.items():
        if path in profile.protected:
            continue
        if base.files.get(path) == file or not _is_control(path, file, base, homes):
            kept[path] = file
        else:
            dropped.add(path)
    protected = {path: base.files[path] for path in profile.protected if path in base.files}
    dropped |= {path for path, file in protected.items() if candidate.files.get(path) != file}
    clashing = _clashing(kept, protected)
    dropped |= clashing
    tree = Tree(files={**{path: file for path, file in kept.items() if path not in clashing}, **protected})
    findings = (*_shadows(base, tree, modules), *tripwire.scan(base, tree, profile.protected))
    if _runs_doctests(base, profile):
        findings += tuple(_lost_examples(base, tree))
    return Assembled(tree=tree, dropped=tuple(sorted(dropped)), findings=findings)


def _is_control(path: str, file: File, base: Tree, homes: set[str]) -> bool:
    """Whether an added or changed file could steer the judge; a base's own unprotected file may change."""
    place = PurePosixPath(path)
    if file.mode is FileMode.LINK or any(part in _CONTROL_FOLDERS for part in place.parts):
        return True
    if place.name.endswith(_CONTROL_SUFFIXES):
        return True
    if path in base.files:
        return False
    return (
        place.name in _CONTROL_FILES
        or is_test(path)
        or any(part.endswith((".egg-info", ".dist-info")) for part in place.parts)
        or any(str(parent) in homes for parent in place.parents)
    )


def _clashing(kept: Mapping[str, File], protected: Mapping[str, File]) -> set[str]:
    """Kept paths that need a folder where a file is, or are a file where a folder has to be."""
    folders = {str(parent) for path in [*kept, *protected] for parent in PurePosixPath(path).parents}
    return {
        path
        for path in kept
        if path in folders or any(str(parent) in protected for parent in PurePosixPath(path).parents)
    }


def _shadows(base: Tree, tree: Tree, modules: frozenset[str]) -> list[str]:
    """Added top-level modules that hide one of the standard library or of the environment."""
    taken = modules | sys.stdlib_module_names | _TEST_TOOLS
    added = (importable_names(tree) - importable_names(base)) & taken
    return [f"the patch adds a module called {name}, which hides the installed one" for name in sorted(added)]


def _runs_doctests(base: Tree, profile: TestProfile) -> bool:
    """Whether examples in the code's own docstrings are among the tests."""
    named = any("doctest" in option for option in (*profile.options, *profile.arguments))
    return named or any(
        b"doctest" in base.files[path].content for path in profile.protected & base.files.keys()
    )


def _lost_examples(base: Tree, tree: Tree) -> Iterator[str]:
    """Files of the base whose examples are no longer what they were: they are tests that lie in the code."""
    for path, file in base.files.items():
        if path.endswith(".py") and b">>>" in file.content:
            after = tree.files.get(path)
            if after != file and _examples(file.content) - _examples(after.content if after else b""):
                yield f"{path} loses or changes examples that are run as tests"


def _examples(content: bytes) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    try:
        module = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return found
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            with contextlib.suppress(ValueError):
                examples = doctest.DocTestParser().get_examples(ast.get_docstring(node) or "")
                found.update((each.source, each.want) for each in examples)
    return found
