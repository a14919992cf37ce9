"""The work folder as it has to be: what tests wrote there is undone, candidates are laid over it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping

from . import text

Stamp = tuple[int, int, int, int]
_KEEP_BYTES = 64 * 1024 * 1024


class Guard:
    """Remembers every file below `root` and puts it back. Paths are relative to `root`."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.contents: dict[str, bytes] = {}
        self.stamps: dict[str, Stamp] = {}
        self._texts: dict[str, tuple[str, str]] = {}
        self._folders: set[str] = set()
        kept = 0
        for path, entry in self._walk():
            self.stamps[path] = _stamp(entry.stat(follow_symlinks=False))
            if entry.is_file(follow_symlinks=False) and kept + entry.stat().st_size <= _KEEP_BYTES:
                self.contents[path] = self.read(path)
                kept += len(self.contents[path])
        self._own_folders = frozenset(self._folders)

    def read(self, path: str) -> bytes:
        """What the file holds now."""
        with open(os.path.join(self.root, path), "rb") as file:  # noqa: PTH118, PTH123
            return file.read()

    def source(self, path: str) -> str:
        """The remembered text of a source file."""
        return self._decoded(path)[0]

    def edited(self, edits: Mapping[str, list[text.Span]]) -> dict[str, bytes]:
        """New contents of the files that `edits` change."""
        changed = {}
        for path, spans in edits.items():
            source, encoding = self._decoded(path)
            changed[path] = text.replaced(source, spans).encode(encoding)
        return changed

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Lay `contents` over the folder for a while."""
        for path, content in contents.items():
            with open(os.path.join(self.root, path), "wb") as file:  # noqa: PTH118, PTH123
                file.write(content)

    def put_back(self, paths: Mapping[str, object]) -> None:
        """Give these files their remembered contents again."""
        self.write({path: self.contents[path] for path in paths})
        for path in paths:
            self.stamps[path] = _stamp(os.lstat(os.path.join(self.root, path)))  # noqa: PTH118

    def accept(self, contents: Mapping[str, bytes]) -> None:
        """Make `contents` part of what is remembered, and write them."""
        self.contents.update(contents)
        self._texts.clear()
        self.put_back(dict(contents))

    def restore(self, anyhow: Iterable[str] = ()) -> int:
        """Undo what was written below the root; returns how many entries had changed.

        Files of `anyhow` are written in any case: two writes within a tick of the clock look the same.
        """
        self.put_back({path: None for path in anyhow if path in self.contents})
        seen: set[str] = set()
        undone = 0
        self._folders.clear()
        for path, entry in list(self._walk()):
            seen.add(path)
            if self.stamps.get(path) == _stamp(entry.stat(follow_symlinks=False)):
                continue
            undone += 1
            if path not in self.stamps:
                os.unlink(os.path.join(self.root, path))  # noqa: PTH108, PTH118
            elif path in self.contents:
                self._replace(path)
        for path in self.stamps.keys() - seen:
            if path in self.contents:
                undone += 1
                self._replace(path)
        for folder in self._folders - self._own_folders:
            undone += 1
            shutil.rmtree(os.path.join(self.root, folder), ignore_errors=True)  # noqa: PTH118
        return undone

    def _decoded(self, path: str) -> tuple[str, str]:
        if path not in self._texts:
            self._texts[path] = text.decode(self.contents[path])
        return self._texts[path]

    def _replace(self, path: str) -> None:
        full = os.path.join(self.root, path)  # noqa: PTH118
        os.makedirs(os.path.dirname(full), exist_ok=True)  # noqa: PTH103, PTH120
        if os.path.isdir(full):  # noqa: PTH112
            shutil.rmtree(full)
        elif os.path.lexists(full):
            os.unlink(full)  # noqa: PTH108
        self.put_back({path: None})

    def _walk(self, folder: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
        try:
            entries = list(os.scandir(os.path.join(self.root, folder)))  # noqa: PTH118
        except OSError:
            return
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    self._folders.add(path)
                    yield from self._walk(path)
            else:
                yield path, entry


def _stamp(info: os.stat_result) -> Stamp:
    return info.st_mtime_ns, info.st_size, info.st_ino, info.st_mode
