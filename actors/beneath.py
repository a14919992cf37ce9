"""Reading and writing below one folder through descriptors. A symlink on the way is never followed."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from orchestrator.errors import TaskError
from orchestrator.tree import File, FileMode

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO put in a file's place meanwhile must not block the reader.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NotRegular(Exception):
    """The entry is a folder, FIFO, socket or device."""


class TooLarge(Exception):
    """The file holds more than the bytes allowed."""


class Beneath:
    """One open folder. Paths are POSIX, relative, without `.` and `..`; the root itself may be a symlink."""

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._last: tuple[str, int] | None = None

    def __enter__(self) -> Beneath:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget()
        os.close(self._root)

    def entries(self, folder: str) -> list[tuple[str, bool]]:
        """Name and whether it is a real folder, for what `folder` holds, sorted by name."""
        with os.scandir(self._folder(folder)) as found:
            return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)

    def holds(self, path: str) -> bool:
        """Whether anything at all is at `path`."""
        try:
            self._lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def size(self, path: str) -> int:
        """Bytes of the entry at `path`, without opening it."""
        return self._lstat(path).st_size

    def read(self, path: str, most: int) -> File | None:
        """The file or link at `path`, None when there is none.

        Raises:
            NotRegular: It is neither a file nor a link.
            TooLarge: It holds more than `most` bytes.
            OSError: It cannot be read.
        """
        folder, name = self._split(path)
        try:
            parent = self._folder(folder)
            found = os.lstat(name, dir_fd=parent)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(found.st_mode):
            return File(content=os.fsencode(os.readlink(name, dir_fd=parent)), mode=FileMode.LINK)
        if not stat.S_ISREG(found.st_mode):
            raise NotRegular(path)
        return _read_regular(name, parent, most)

    def stage(self, path: str, file: File, like: os.stat_result | None) -> str:
        """Write `file` beside `path` under a passing name, durable, and return that name.

        Args:
            path: Where it will go; missing folders on the way are made.
            file: What to write.
            like: Whose permissions and owner to keep; None for a new file.
        """
        parent = self._folder(self._split(path)[0], make=True)
        name = f".raysmith-{secrets.token_hex(8)}"
        if file.mode is FileMode.LINK:
            os.symlink(file.content, name, dir_fd=parent)
            return name
        permissions = 0o777 if file.mode is FileMode.EXECUTABLE else 0o666
        descriptor = os.open(name, _WRITE, permissions, dir_fd=parent)
        try:
            with os.fdopen(descriptor, "wb") as out:
                _keep_owner(descriptor, like or os.fstat(parent))
                if like is not None:
                    os.fchmod(descriptor, _permissions(like.st_mode, file.mode))
                out.write(file.content)
                out.flush()
                os.fsync(descriptor)
        except BaseException:
            os.unlink(name, dir_fd=parent)
            raise
        return name

    def place(self, staged: str, path: str) -> None:
        """Put what `stage` wrote at `path`, atomically."""
        folder, name = self._split(path)
        parent = self._folder(folder)
        os.replace(staged, name, src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)

    def remove(self, path: str, *, missing_ok: bool = False) -> None:
        """Remove the file or link at `path`."""
        folder, name = self._split(path)
        with contextlib.suppress(FileNotFoundError) if missing_ok else contextlib.nullcontext():
            os.unlink(name, dir_fd=self._folder(folder))

    def drop_empty(self, folder: str) -> None:
        """Remove `folder` and the folders above it as far as they are empty."""
        self._forget()
        while folder:
            above, name = self._split(folder)
            try:
                os.rmdir(name, dir_fd=self._folder(above))
            except OSError:
                return
            self._forget()
            folder = above

    def stat(self, path: str) -> os.stat_result | None:
        """What is at `path` itself, None when nothing is."""
        try:
            return self._lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _lstat(self, path: str) -> os.stat_result:
        folder, name = self._split(path)
        return os.lstat(name, dir_fd=self._folder(folder))

    def _folder(self, folder: str, *, make: bool = False) -> int:
        """A descriptor of `folder`, valid until the next call."""
        if not folder:
            return self._root
        if self._last is None or self._last[0] != folder:
            self._forget()
            self._last = (folder, self._descend(folder.split("/"), make=make))
        return self._last[1]

    def _descend(self, parts: list[str], *, make: bool) -> int:
        at = os.dup(self._root)
        try:
            for part in parts:
                made = make and _make(part, at)
                below = _open_folder(part, at)
                if made:
                    _keep_owner(below, os.fstat(at))
                os.close(at)
                at = below
        except BaseException:
            os.close(at)
            raise
        return at

    def _forget(self) -> None:
        if self._last is not None:
            os.close(self._last[1])
            self._last = None

    @staticmethod
    def _split(path: str) -> tuple[str, str]:
        folder, _, name = path.rpartition("/")
        return folder, name


def check_path(path: str) -> str:
    """`path` when it can only lie below a root.

    Raises:
        TaskError: It is empty, absolute, or has an empty, `.` or `..` component.
    """
    if not path or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise TaskError(f"{path!r} is not a path inside the folder", "use relative paths without `..`")
    return path


def leaves(path: str, links: dict[str, str]) -> bool:
    """Whether following `path` through `links` (path to target) can end outside the root."""
    at: list[str] = []
    todo = path.split("/")[::-1]
    hops = 0
    while todo:
        part = todo.pop()
        if part == "..":
            if not at:
                return True
            at.pop()
        elif part not in ("", "."):
            at.append(part)
            target = links.get("/".join(at))
            if target is not None:
                hops += 1
                # The kernel gives up after 40 hops as well, so a loop leads nowhere.
                if hops > 40:
                    return False
                if target.startswith("/"):
                    return True
                at.pop()
                todo.extend(reversed(target.split("/")))
    return False


def _read_regular(name: str, parent: int, most: int) -> File | None:
    try:
        descriptor = os.open(name, _READ, dir_fd=parent)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as source:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotRegular(name)
        content = source.read(most + 1)
    if len(content) > most:
        raise TooLarge(name)
    executable = bool(found.st_mode & stat.S_IXUSR)
    return File(content=content, mode=FileMode.EXECUTABLE if executable else FileMode.FILE)


def _open_folder(name: str, parent: int) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except OSError as error:
        # Linux says ELOOP or ENOTDIR for a symlink here; to us both mean "no folder".
        if _is_link(name, parent):
            raise NotADirectoryError(error.errno, "a symlink where a folder was", name) from error
        raise


def _is_link(name: str, parent: int) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(name, dir_fd=parent).st_mode)
    except OSError:
        return False


def _make(name: str, parent: int) -> bool:
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        return False
    return True


def _permissions(old: int, mode: FileMode) -> int:
    bits = stat.S_IMODE(old) & 0o777
    readable = bits & 0o444
    return bits | readable >> 2 if mode is FileMode.EXECUTABLE else bits & ~0o111


def _keep_owner(descriptor: int, like: os.stat_result) -> None:
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, like.st_uid, like.st_gid)


def walk(folder: Beneath, deepest: int, skip: Callable[[str], bool]) -> Iterator[str]:
    """Every entry below `folder` that is not a folder; a folder for which `skip` holds is left out.

    Raises:
        RecursionError: A folder lies deeper than `deepest` levels; it names the folder.
    """
    waiting = [""]
    while waiting:
        at = waiting.pop()
        for name, is_folder in folder.entries(at):
            path = f"{at}/{name}" if at else name
            if not is_folder:
                yield path
            elif path.count("/") + 1 > deepest:
                raise RecursionError(path)
            elif not skip(path):
                waiting.append(path)
