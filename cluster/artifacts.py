"""Contents by their hash, on any file system that fsspec knows: a reader gets what was stored, or an error.

Objects lie at `ab/cd/abcd…`. On a local disk an object is complete and synced before it has its name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from orchestrator import failpoints
from orchestrator.errors import StoreDamaged, StoreError
from orchestrator.tree import File, FileMode, Tree

_DIGEST = re.compile(r"[0-9a-f]{64}")
_USERINFO = re.compile(r"//[^/@]*@")
# Synced together, files share the disk's flushes; alone each one waits for its own.
_PARALLEL_WRITES = 8
_FORGOTTEN_S = 24 * 3600


class _Objects(Protocol):
    """Where objects lie; `name` is their path below the root."""

    def size(self, name: str) -> int | None: ...

    def read(self, name: str) -> bytes: ...

    def write(self, objects: Iterable[tuple[str, bytes]]) -> None: ...

    def remove(self, name: str) -> None: ...


class ArtifactStore:
    """Content-addressed bytes, trees and JSON values."""

    def __init__(self, url: str) -> None:
        """Use the folder or fsspec URL `url`; it is created with the first object.

        Raises:
            StoreError: Nothing is installed that can open it.
        """
        scheme, separator, path = url.partition("://")
        self.place = _USERINFO.sub("//", url.partition("?")[0])
        self._objects: _Objects
        if not separator:
            self._objects = _Folder(Path(url))
        elif scheme in ("file", "local"):
            self._objects = _Folder(Path(path))
        else:
            with self._translated():
                self._objects = _Remote(url)

    def put(self, content: bytes) -> str:
        """Store `content` and return its SHA-256; storing it twice is one object.

        Raises:
            StoreError: It could not be stored.
        """
        return self.put_all([content])[0]

    def put_all(self, contents: Iterable[bytes]) -> list[str]:
        """Store every content and return their hashes in order; faster than one by one."""
        objects = [(hashlib.sha256(content).hexdigest(), content) for content in contents]
        with self._translated():
            absent = {
                _name(digest): content
                for digest, content in objects
                if self._objects.size(_name(digest)) != len(content)
            }
            self._objects.write(absent.items())
        return [digest for digest, _ in objects]

    def get(self, digest: str) -> bytes:
        """The bytes behind `digest`.

        Raises:
            StoreDamaged: Absent, or the content does not hash to `digest`.
            StoreError: The store cannot be reached.
        """
        if not _DIGEST.fullmatch(digest):
            raise StoreDamaged(f"{digest[:80]!r} is not a SHA-256", "look at the event that names it")
        with self._translated():
            try:
                content = self._objects.read(_name(digest))
            except FileNotFoundError as error:
                raise StoreDamaged(
                    f"artifact {digest} is not in {self.place}", "restore the artifacts from a backup"
                ) from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise StoreDamaged(
                f"artifact {digest} in {self.place} holds other bytes than were stored",
                "restore the artifacts from a backup",
            )
        return content

    def has(self, digest: str) -> bool:
        """Whether something is stored under `digest`; only `get` verifies it."""
        if not _DIGEST.fullmatch(digest):
            return False
        with self._translated():
            return self._objects.size(_name(digest)) is not None

    def size(self, digest: str) -> int | None:
        """Bytes under `digest`, None where nothing is."""
        with self._translated():
            return self._objects.size(_name(digest)) if _DIGEST.fullmatch(digest) else None

    def remove(self, digests: Iterable[str]) -> None:
        """Remove objects that nobody names any more; one that is not there is no error.

        Raises:
            StoreError: One could not be removed.
        """
        with self._translated():
            for digest in digests:
                self._objects.remove(_name(digest))

    def put_json(self, value: Any) -> str:
        """Store a JSON value; equal values are one object.

        Raises:
            ValueError: It is not JSON.
            StoreError: It could not be stored.
        """
        try:
            text = json.dumps(
                value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False
            )
        except (TypeError, RecursionError) as error:
            raise ValueError(f"cannot be stored as JSON: {error}") from error
        return self.put(text.encode())

    def get_json(self, digest: str) -> Any:
        """The JSON value behind `digest`.

        Raises:
            StoreDamaged: Absent, not what was stored, or not JSON.
        """
        try:
            return json.loads(self.get(digest))
        except ValueError as error:
            raise StoreDamaged(f"artifact {digest} is not JSON", "look at the event that names it") from error

    def save_tree(self, tree: Tree) -> str:
        """Store every file once and a manifest of them; returns `tree.digest`.

        Raises:
            StoreError: It could not be stored; nothing refers to the part that was.
        """
        self.put_all(file.content for file in tree.files.values())
        return self.put(manifest(tree))

    def load_tree(self, digest: str) -> Tree:
        """The tree that `save_tree` gave `digest` for.

        Raises:
            StoreDamaged: The manifest or a file is absent or not what was stored.
        """
        return Tree(
            files={
                path: File(content=self.get(content), mode=mode)
                for path, mode, content in self.tree_entries(digest)
            }
        )

    def tree_entries(self, digest: str) -> list[tuple[str, FileMode, str]]:
        """Path, mode and content hash of every file of a tree, without reading the files.

        Raises:
            StoreDamaged: The manifest is absent or is not one.
        """
        rows = self.get_json(digest)
        try:
            return [(str(path), FileMode(mode), str(content)) for path, mode, content in rows]
        except (TypeError, ValueError) as error:
            raise StoreDamaged(
                f"artifact {digest} is not a tree's manifest", "look at the event that names it"
            ) from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        # Any backend has errors of its own, and their text may hold a signed URL or a key: type and
        # system reason are told, the original is not chained.
        try:
            yield
        except (StoreError, MemoryError):
            raise
        except Exception as error:
            raise self._told(error) from None

    def _told(self, error: Exception) -> StoreError:
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return StoreError(
                f"the disk that holds {self.place} is full", "free some space; what was stored stays"
            )
        if isinstance(error, ImportError):
            return StoreError(
                f"{self.place} needs a package that is not installed", "install its fsspec driver"
            )
        reason = os.strerror(number) if number else type(error).__name__
        return StoreError(
            f"{self.place} cannot be used ({reason})", "check the address, the rights and the network"
        )


def manifest(tree: Tree) -> bytes:
    """The object that stands for `tree`; its hash is `tree.digest`."""
    return json.dumps([[path, file.mode, file.digest] for path, file in sorted(tree.files.items())]).encode()


def _name(digest: str) -> str:
    return f"{digest[:2]}/{digest[2:4]}/{digest}"


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._swept = False

    def size(self, name: str) -> int | None:
        try:
            return (self._root / name).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def write(self, objects: Iterable[tuple[str, bytes]]) -> None:
        waiting = list(objects)
        if not waiting:
            return
        self._begin()
        if len(waiting) < 4:
            folders = {folder for each in waiting for folder in self._write(*each)}
        else:
            with ThreadPoolExecutor(_PARALLEL_WRITES) as pool:
                folders = {
                    folder for made in pool.map(lambda each: self._write(*each), waiting) for folder in made
                }
        for folder in folders:
            _sync(folder)

    def _begin(self) -> None:
        temporary = self._root / "tmp"
        if not temporary.is_dir():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.mkdir(exist_ok=True)
            _sync(self._root.parent)
        if not self._swept:
            self._swept = True
            _sweep(temporary)

    def _write(self, name: str, content: bytes) -> list[Path]:
        """Put one object in its place; the folders that have to be synced for its name to last."""
        target = self._root / name
        temporary = self._root / "tmp" / uuid.uuid4().hex
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            failpoints.hit("artifacts.before_rename")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return [target.parent, target.parent.parent, self._root]


def _sweep(temporary: Path) -> None:
    """Remove what writers that died have left; living ones are done long before."""
    for left in temporary.iterdir():
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < time.time() - _FORGOTTEN_S:
                left.unlink()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Remote:
    """A bucket or memory: a write there is whole or absent, so nothing has to be renamed."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs  # a laptop's folder never needs it

        self._system, root = url_to_fs(url)
        self._root = root.rstrip("/")

    def size(self, name: str) -> int | None:
        try:
            return int(self._system.size(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        content: bytes = self._system.cat_file(f"{self._root}/{name}")
        return content

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm_file(f"{self._root}/{name}")

    def write(self, objects: Iterable[tuple[str, bytes]]) -> None:
        waiting = {f"{self._root}/{name}": content for name, content in objects}
        if waiting:
            self._system.pipe(waiting)
