"""A folder becomes a snapshot. What is met there is never trusted, and nothing in it is ever changed."""

from __future__ import annotations

import difflib
import io
import os
import shutil
import subprocess
import tokenize
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from actors.beneath import Beneath, NotRegular, TooLarge, check_path, leaves, walk
from orchestrator.errors import TaskError
from orchestrator.languages import language_of, names_patterns
from orchestrator.tree import File, FileMode, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSettings:
    """How much one snapshot may hold."""

    max_mib: float = 64
    """Content of all files together, in MiB."""
    max_files: int = 20000
    """Number of files and links."""


_DEEPEST = 64
_MIB = 1024 * 1024
_NEVER = frozenset({".git", ".hg", ".svn", "__pycache__"})
_UNTRACKED_NEVER = frozenset(
    {".venv", "venv", "node_modules", ".tox", ".nox", ".eggs", ".hypothesis"}
    | {".mypy_cache", ".pytest_cache", ".ruff_cache", ".import_linter_cache", ".DS_Store"}
)
# Names of folders and files that hold no content of a project, wherever they lie.
NEVER_CONTENT = _NEVER | _UNTRACKED_NEVER
_GIT_OPTIONS = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.untrackedCache=false",
    "safe.directory=*",
)
# Nothing of the caller's environment: a stray GIT_DIR would show another repository.
_GIT_ENV = {
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_TERMINAL_PROMPT": "0",
}
_TEST_PATTERNS = ("test_*.py", "*_test.py")

Note = Callable[[str], None]


def snapshot(path: Path, limits: SnapshotSettings | None = None, note: Note = lambda _text: None) -> Tree:
    """All files of the folder `path` that belong to it: by git where it is in a work tree, else by walking.

    Args:
        path: The folder; a subfolder of a work tree gives that subfolder alone.
        limits: How much it may hold.
        note: Told in a sentence of everything left out that a reader may miss.

    Raises:
        TaskError: Not a folder, a symlink that leaves it, something unreadable, or over a limit.
    """
    limits = limits or SnapshotSettings()
    _check_folder(path)
    try:
        with Beneath(path) as folder:
            names = _listed(path, folder, note)
            if len(names) > limits.max_files:
                raise _too_many(path, limits)
            tree = Tree(files=_read_all(path, folder, names, limits, note))
    except PermissionError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror}", "make it readable") from error
    check_links(path, tree)
    return tree


def undecodable(tree: Tree) -> list[tuple[str, str]]:
    """Python files that Python itself could not decode, each with the reason; coding cookies count."""
    found = (
        (path, _why_undecodable(file)) for path, file in sorted(tree.files.items()) if _is_python(path, file)
    )
    return [(path, why) for path, why in found if why]


def check_testable(origin: str, tree: Tree, tests: Sequence[str] = ()) -> None:
    """Refuse a snapshot that holds nothing to test.

    Args:
        origin: Its path, for the message.
        tree: The snapshot.
        tests: What `parse_tests` gave; its paths have to exist.

    Raises:
        TaskError: No file of a language we test, no test, a test path that is absent, or a file that Python
            cannot decode.
    """
    if language_of(tree, tests) == "javascript":
        for path in _test_paths(tests):
            _check_named(origin, tree, path)
        return
    python = [path for path, file in tree.files.items() if _is_python(path, file)]
    if not python:
        raise TaskError(
            f"{origin} holds no Python file and no JavaScript test (*.test.js, *.spec.js)",
            "give the folder that holds the code and its tests",
        )
    for path, why in undecodable(tree):
        raise TaskError(
            f"{path} cannot be decoded: {why}", "save it as UTF-8, or name its encoding in its first line"
        )
    named = _test_paths(tests)
    for path in named:
        _check_named(origin, tree, path)
    if not named and not any(_looks_like_test(path) for path in python) and not names_patterns(tree):
        raise TaskError(
            f"{origin} holds no test file ({' or '.join(_TEST_PATTERNS)})",
            "add a failing test, or name the tests with --tests",
        )


def _check_folder(path: Path) -> None:
    try:
        if path.is_dir():
            return
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise TaskError(f"{str(path)[:200]!r} cannot be a folder: {error}"[:400], "check the path") from error
    if exists:
        raise TaskError(f"{path} is a file", f"give the folder that holds it: {path.parent}")
    above = path.parent
    siblings = [entry.name for entry in above.iterdir() if entry.is_dir()] if above.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    raise TaskError(
        f"{path} does not exist", f"did you mean {above / close[0]}?" if close else "check the path"
    )


def _too_many(path: Path, limits: SnapshotSettings) -> TaskError:
    return TaskError(
        f"{path} holds more than {limits.max_files} files",
        "give a smaller folder, ignore what does not belong to it, or raise `snapshot.max_files`",
    )


def _too_large(path: Path, limits: SnapshotSettings, name: str, size: int) -> TaskError:
    return TaskError(
        f"{path} holds more than {limits.max_mib:g} MiB (stopped at {name}, {size / _MIB:.1f} MiB)",
        "ignore what does not belong to it, or raise `snapshot.max_mib`",
    )


def _listed(path: Path, folder: Beneath, note: Note) -> list[str]:
    return _by_git(path, folder, note) or list(_by_walking(path, folder))


def _by_walking(path: Path, folder: Beneath) -> Iterable[str]:
    def skip(name: str) -> bool:
        return _is_skipped(name) or folder.holds(f"{name}/pyvenv.cfg")

    try:
        yield from (name for name in walk(folder, _DEEPEST, skip) if not _is_skipped(name))
    except RecursionError as error:
        raise TaskError(
            f"{path / str(error)} lies deeper than {_DEEPEST} levels", "give a flatter folder"
        ) from error


def belongs(name: str) -> bool:
    """Whether a file at `name` is content, and not version control's, a cache's or an environment's."""
    return not any(_is_skipped(part) for part in name.split("/"))


def _is_skipped(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last in _NEVER or last in _UNTRACKED_NEVER or last.endswith((".pyc", ".pyo"))


def _by_git(path: Path, folder: Beneath, note: Note) -> list[str]:
    """What git counts as content; empty where there is no work tree, or where it ignores the whole folder."""
    git = shutil.which("git")
    if git is None:
        return []
    tracked = _git(git, path, "ls-files", "-c", "-z")
    others = _git(git, path, "ls-files", "-o", "--exclude-standard", "-z") if tracked is not None else None
    if tracked is None or others is None:
        return []
    names = [
        name for name in dict.fromkeys(tracked) if not _in_parts(name, _NEVER) and not name.endswith(".pyc")
    ]
    environments = _environments(folder, others)
    for name in others:
        if name.endswith("/"):
            note(f"{name} is a git repository of its own and was left out")
        elif not any(_is_skipped(part) for part in name.split("/")) and not name.startswith(environments):
            names.append(name)
    return names


def _environments(folder: Beneath, names: Iterable[str]) -> tuple[str, ...]:
    marker = "/pyvenv.cfg"
    return tuple(
        name.removesuffix("pyvenv.cfg") for name in names if name.endswith(marker) and folder.holds(name)
    )


def _in_parts(name: str, parts: frozenset[str]) -> bool:
    return not parts.isdisjoint(name.split("/"))


def _git(git: str, path: Path, *arguments: str) -> list[str] | None:
    options = [word for option in _GIT_OPTIONS for word in ("-c", option)]
    try:
        done = subprocess.run(
            [git, *options, *arguments],
            cwd=path,
            env=_GIT_ENV,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name] if done.returncode == 0 else None


def _read_all(
    path: Path, folder: Beneath, names: Iterable[str], limits: SnapshotSettings, note: Note
) -> dict[str, File]:
    files: dict[str, File] = {}
    left = int(limits.max_mib * _MIB)
    for name in sorted(names, key=lambda name: name.rpartition("/")[::2]):
        if not _can_name(name):
            note(f"{name!r} was left out: its name is not UTF-8 text")
            continue
        try:
            file = _read(path, folder, name, left, note)
        except TooLarge as error:
            raise _too_large(path, limits, name, folder.size(name)) from error
        if file is not None:
            files[name] = file
            left -= len(file.content)
    return dict(sorted(files.items()))


def _can_name(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(path: Path, folder: Beneath, name: str, left: int, note: Note) -> File | None:
    try:
        return folder.read(check_path(name), left)
    except NotRegular:
        kind = "a folder of its own (a git submodule?)" if (path / name).is_dir() else "not a regular file"
        note(f"{name} is {kind} and was left out")
    except OSError as error:
        raise TaskError(
            f"{path / name} cannot be read: {error.strerror}", "make it readable, or let .gitignore name it"
        ) from error
    return None


def check_links(path: Path, tree: Tree) -> None:
    """Refuse a tree in which following a symlink can end outside of it.

    Raises:
        TaskError: It names the link below `path` and its target.
    """
    links = {
        name: os.fsdecode(file.content) for name, file in tree.files.items() if file.mode is FileMode.LINK
    }
    for name, target in sorted(links.items()):
        if leaves(name, links):
            raise TaskError(
                f"the symlink {path / name} -> {target!r} leaves the folder",
                "replace it by what it points at, or let .gitignore name it",
            )


def _is_python(path: str, file: File) -> bool:
    return path.endswith(".py") and file.mode is not FileMode.LINK


def _why_undecodable(file: File) -> str:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(file.content).readline)
        file.content.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        return str(error)
    return ""


def _looks_like_test(path: str) -> bool:
    name = PurePosixPath(path).name
    return any(PurePosixPath(name).match(pattern) for pattern in _TEST_PATTERNS)


def _test_paths(tests: Sequence[str]) -> list[str]:
    paths: list[str] = []
    words = iter(tests)
    for word in words:
        if word.startswith("-"):
            if "=" not in word:
                next(words, None)
        else:
            paths.append(word.split("::", 1)[0].strip("/").removeprefix("./"))
    return paths


def _check_named(origin: str, tree: Tree, path: str) -> None:
    inside = [name for name in tree.files if path in ("", ".") or name == path or name.startswith(f"{path}/")]
    if not inside:
        close = difflib.get_close_matches(
            path, [name for name in tree.files if name.endswith((".py", ".js", ".mjs", ".cjs"))], n=1
        )
        raise TaskError(
            f"the test path {path!r} is not in {origin}",
            f"did you mean {close[0]}?" if close else "give it relative to the folder",
        )
