"""Decides by the text of a workspace whether a forked run could show anything else than a fresh process.

Pure. In doubt the answer is no: a fresh process costs time, a wrong outcome costs trust.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

from orchestrator.tree import Tree

# What looks at the process it runs in, where a fork differs from what was just started.
_LOOKS_AT_PROCESS = re.compile(
    rb"\bgc\s*\.\s*(?!collect\b|enable\b|disable\b|isenabled\b)|\bfrom\s+gc\b|getallocatedblocks|tracemalloc|orig_argv"
    rb"|psutil|/proc/|ru_maxrss|hash_randomization|HASHSEED|recursionlimit|RecursionError|getrefcount|_debugmallocstats"
)
# What can make the import of a package do something else than it did when the warm process imported it.
_STEERS_IMPORTS = re.compile(
    rb"\benviron\b\s*(?:\[[^\]\n]*\]\s*=[^=]|\|=|\.\s*(?:update|setdefault|pop|popitem|clear|__setitem__)\b)"
    rb"|\bdel\s+(?:os\s*\.\s*)?environ\b|\b(?:putenv|unsetenv|setenv|delenv)\b|patch\.dict|load_dotenv"
    rb"|\bsys\s*\.\s*(?:modules|meta_path|path_hooks|flags|warnoptions)\b|\bimportlib\b|\b__import__\b|\bimport_module\b"
    rb"|\breload\b|\brunpy\b|\bpkgutil\b|\bbuiltins\b|\bsetlocale\b|\btzset\b|\bmonkey\s*\.\s*patch_all\b|import_hook"
    rb"|\bpytest_env\b|\bsetdlopenflags\b|\bimportorskip\b"
)
_ADDS_PATHS = re.compile(
    rb"sys\s*\.\s*path\b|from\s+sys\s+import[^\n]*\bpath\b|pythonpath|addsitedir|\bchdir\b", re.I
)
_ENV_SECTION = re.compile(rb"(?m)^\s*env\s*=")
# Files in the folder of the run that packages read while they are imported.
_READ_AT_IMPORT = frozenset(
    {".env", "matplotlibrc", "setup.cfg.local", ".netrc", "dask.yaml", "pyrightconfig.json"}
)
_CONFIG_SUFFIXES = (".ini", ".cfg", ".toml")
_MODULE_SUFFIXES = (".py", ".so", ".pyd", ".pyc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a warm process holds: top-level names that are loaded, and names it looked for in vain."""

    modules: frozenset[str]
    missed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What one file's text says."""

    looks: bool
    steers: bool
    adds_paths: bool


def why_fresh(tree: Tree) -> str:
    """Why this workspace needs a fresh process whatever is loaded; empty when it does not."""
    for path, file in tree.files.items():
        if path.endswith(".py") and _read(file.content).looks:
            return f"{path} looks at its own process"
        if PurePosixPath(path).suffix in (".pth", ".so", ".pyd"):
            return f"{path} is not plain source"
    return ""


def why_shadowed(tree: Tree, loaded: Loaded) -> str:
    """Why modules of this workspace could be other ones than the loaded; empty when they could not."""
    names = frozenset(_importable(tree))
    if taken := sorted(names & loaded.modules):
        return f"the workspace has a module called {taken[0]}, and another one is loaded"
    if missing := sorted(names & loaded.missed):
        return f"the workspace has {missing[0]}, which a loaded package looked for"
    return ""


def steers_imports(tree: Tree) -> bool:
    """Whether packages may be imported after the task's own code only."""
    for path, file in tree.files.items():
        name = PurePosixPath(path).name
        if name in _READ_AT_IMPORT:
            return True
        if path.endswith(".py") and _read(file.content).steers:
            return True
        if path.endswith(_CONFIG_SUFFIXES) and _sets_environment(file.content):
            return True
    return False


def _sets_environment(content: bytes) -> bool:
    return b"pytest_env" in content or _ENV_SECTION.search(content) is not None


def _importable(tree: Tree) -> Iterator[str]:
    """Names that could be top-level modules: outside of packages, or anywhere if paths are added."""
    packages = {str(PurePosixPath(path).parent) for path in tree.files if path.endswith("/__init__.py")}
    anywhere = any(
        _read(file.content).adds_paths
        for path, file in tree.files.items()
        if path.endswith((".py", *_CONFIG_SUFFIXES))
    )
    for path in tree.files:
        if not path.endswith(_MODULE_SUFFIXES):
            continue
        place = PurePosixPath(path)
        for part in (place, *place.parents):
            if part.name and (anywhere or str(part.parent) not in packages):
                yield part.name.partition(".")[0]


@lru_cache(maxsize=4096)
def _read(content: bytes) -> _Read:
    return _Read(
        looks=_LOOKS_AT_PROCESS.search(content) is not None,
        steers=_STEERS_IMPORTS.search(content) is not None,
        adds_paths=_ADDS_PATHS.search(content) is not None,
    )
