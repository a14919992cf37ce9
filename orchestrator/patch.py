"""Changes to a tree: their rules, their unified diff and their JSON. Nothing here writes a file."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from orchestrator.errors import AgentError
from orchestrator.tree import File, FileMode, Tree

Changes = Mapping[str, File | None]

MAX_FILES = 200
MAX_FILE_BYTES = 512_000
MAX_TOTAL_BYTES = 4_000_000
MAX_DEPTH = 12
MAX_PATH = 240

_CONTROL_FILES = frozenset(
    (
        *("conftest.py", "pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg"),
        *("sitecustomize.py", "usercustomize.py", ".env", "pip.conf", ".gitattributes", ".gitmodules"),
    )
)
_CONTROL_FOLDERS = (
    ".git*",
    ".ssh",
    ".vscode",
    ".idea",
    ".claude",
    "__pycache__",
    "*.egg-info",
    "*.dist-info",
)
_CONTROL_SUFFIXES = (".pyc", ".pyo", ".so", ".pyd", ".dll", ".pth")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_BANNED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def check_path(path: str) -> str:
    """`path` when it names a place inside a tree and nothing else on any file system.

    Raises:
        AgentError: It is absolute, climbs, or holds a component or character that some
            file system reads differently.
    """
    if (reason := _path_fault(path)) is not None:
        raise AgentError(
            f"path {path!r:.300} cannot be written: {reason}", "name a relative path inside the folder"
        )
    return path


def _path_fault(path: str) -> str | None:
    parts = path.split("/")
    faults = {
        f"it is empty or longer than {MAX_PATH} characters": not 0 < len(path) <= MAX_PATH,
        "it is absolute or starts with ~ or -": path.startswith(("/", "~", "-")),
        "it holds a backslash or colon": "\\" in path or ":" in path,
        "it holds a control, format or unassigned character": any(
            unicodedata.category(character) in _BANNED_CATEGORIES for character in path
        ),
        "it is not in its compatible Unicode form": unicodedata.normalize("NFKC", path) != path,
        f"it is deeper than {MAX_DEPTH} levels": len(parts) > MAX_DEPTH,
        "a component is not a plain name": not all(map(_is_plain, parts)),
    }
    return next((reason for reason, holds in faults.items() if holds), None)


def _is_plain(part: str) -> bool:
    return not (part in ("", ".", "..") or part[-1] in ". " or part[0] == " " or _RESERVED.fullmatch(part))


def outside(changes: Iterable[str], allowed: Sequence[str]) -> list[str]:
    """The changed paths that no glob of `allowed` matches; none where it is empty."""
    if not allowed:
        return []
    return [path for path in sorted(changes) if not any(fnmatchcase(path, glob) for glob in allowed)]


def is_control(path: str) -> bool:
    """Whether `path` steers tools instead of being code: test configuration, hooks, compiled files."""
    parts = path.casefold().split("/")
    return (
        parts[-1] in _CONTROL_FILES
        or parts[-1].endswith(_CONTROL_SUFFIXES)
        or any(
            fnmatchcase(part, pattern)
            for part in parts
            for pattern in _CONTROL_FOLDERS
            if part != ".gitignore"
        )
    )


def check_changes(
    base: Tree,
    changes: Changes,
    *,
    protected: frozenset[str] = frozenset(),
    allowed: frozenset[str] = frozenset(),
) -> Changes:
    """`changes` when an agent may make them to `base`; `allowed` are control files that it was asked for.

    Raises:
        AgentError: Too many or too large, a path of the kinds `check_path` and `is_control`
            refuse, a link, a protected path, or two paths that are one on some file system.
    """
    if len(changes) > MAX_FILES:
        raise AgentError(f"{len(changes)} files in one reply", f"write at most {MAX_FILES}")
    total = sum(len(file.content) for file in changes.values() if file)
    if total > MAX_TOTAL_BYTES:
        raise AgentError(f"{total} bytes in one reply", f"write at most {MAX_TOTAL_BYTES}")
    for path, file in changes.items():
        _check_change(path, file, protected, allowed)
    _check_clashes(base.with_files(changes))
    return changes


def _check_change(path: str, file: File | None, protected: frozenset[str], allowed: frozenset[str]) -> None:
    check_path(path)
    if is_control(path) and path not in allowed:
        raise AgentError(f"{path!r} steers tools and cannot be changed", "leave it out")
    if path in protected:
        raise AgentError(f"{path!r} is protected", "change the code, not its tests")
    if file is not None and file.mode is FileMode.LINK:
        raise AgentError(f"{path!r} would be a link", "write a plain file")
    if file is not None and len(file.content) > MAX_FILE_BYTES:
        raise AgentError(f"{path!r} has {len(file.content)} bytes", f"write at most {MAX_FILE_BYTES} a file")


def _check_clashes(tree: Tree) -> None:
    seen: dict[str, str] = {}
    for path in tree.files:
        key = unicodedata.normalize("NFC", path).casefold()
        if key in seen:
            raise AgentError(f"{path!r} and {seen[key]!r} are one file on some systems", "rename one")
        seen[key] = path
    for path in tree.files:
        for folder in PurePosixPath(path).parents:
            if str(folder) in tree.files:
                raise AgentError(f"{folder!s} is a file and the folder of {path!r}", "rename one")


def unified_diff(base: Tree, changes: Changes) -> str:
    """The diff that `git apply` and `patch -p1` take in the snapshot's folder.

    Bytes that are not UTF-8 are kept as surrogate escapes: write the text back with
    `errors="surrogateescape"`.
    """
    return "".join(
        "".join(_file_diff(path, base.files.get(path), changes[path]))
        for path in sorted(changes)
        if base.files.get(path) != changes[path]
    )


def _file_diff(path: str, old: File | None, new: File | None) -> Iterator[str]:
    yield f"diff --git {_quoted('a/' + path)} {_quoted('b/' + path)}\n"
    if old is None and new is not None:
        yield f"new file mode {_MODES[new.mode]}\n"
    if new is None and old is not None:
        yield f"deleted file mode {_MODES[old.mode]}\n"
    if old and new and old.mode is not new.mode:
        yield f"old mode {_MODES[old.mode]}\nnew mode {_MODES[new.mode]}\n"
    hunks = list(difflib.unified_diff(_lines(old), _lines(new), lineterm="\n"))[2:]
    if hunks:
        yield f"--- {_header('a/' + path) if old else '/dev/null'}\n"
        yield f"+++ {_header('b/' + path) if new else '/dev/null'}\n"
        for line in hunks:
            yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


_MODES = {FileMode.FILE: "100644", FileMode.EXECUTABLE: "100755", FileMode.LINK: "120000"}


def _lines(file: File | None) -> list[str]:
    text = file.content.decode("utf-8", "surrogateescape") if file else ""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _quoted(name: str) -> str:
    if not any(character in '"\\' or ord(character) < 32 for character in name):
        return name
    escaped = "".join(
        f"\\{character}"
        if character in '"\\'
        else f"\\{ord(character):03o}"
        if ord(character) < 32
        else character
        for character in name
    )
    return f'"{escaped}"'


def _header(name: str) -> str:
    # A tab ends a name that holds a space, as git writes it: patch(1) would cut it at the space.
    return f"{_quoted(name)}\t" if " " in name else _quoted(name)
