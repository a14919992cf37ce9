"""An uploaded archive becomes a snapshot in memory; no disk is written, and nothing in it is trusted.

Kinds, names, sizes and counts of all entries are checked before the first one is read.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from actors.workspace import SnapshotSettings, belongs, check_links
from orchestrator.errors import TaskError
from orchestrator.tree import File, FileMode, Tree

T = TypeVar("T")

_MIB = 1024 * 1024
_BLOCK = 512
_MAX_NAME = 1024
_MAX_DEPTH = 64
# Source text shrinks to a fifth or a tenth; a bomb to a thousandth.
_MAX_RATIO = 200
_RATIO_COUNTS_FROM = 8 * _MIB
_ZIP_ENTRY = b"PK\x01\x02"


class ArchiveRefused(TaskError):
    """An archive that is broken, hostile, or larger than a snapshot may be."""

    code = "archive"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One file or link: its checked path and the way to its bytes."""

    path: str
    size: int
    mode: FileMode
    read: Callable[[], bytes]


def tree_from(content: bytes, limits: SnapshotSettings | None = None, *, root: str = "") -> Tree:
    """The snapshot in `content`, a tar.gz, tar or zip.

    Args:
        content: The whole archive.
        limits: How much it may hold, as for a folder.
        root: The folder inside that is wanted; "" for all of it.

    Raises:
        ArchiveRefused: It is no such archive; a name, link or kind of entry could lead outside; it
            holds more than `limits` allow, or expands like a bomb.
    """
    limits = limits or SnapshotSettings()
    try:
        entries = list(_entries(content, limits))
        _check_sizes(entries, limits, len(content))
        files = {entry.path: _file(entry) for entry in entries if belongs(entry.path)}
    except ArchiveRefused:
        raise
    except MemoryError:
        raise
    except Exception as error:
        # The standard library's readers meet hostile bytes with a dozen kinds of exceptions.
        raise ArchiveRefused(f"the archive cannot be read: {error}", "pack it again") from error
    tree = Tree(files=dict(sorted(_below(files, root).items())))
    if not tree.files:
        _refuse(f"there is no file {f'below {root!r} ' if root else ''}in it", "name the folder as `root`")
    _check_links(tree)
    return tree


def _entries(content: bytes, limits: SnapshotSettings) -> Iterator[_Entry]:
    if content.startswith(b"\x1f\x8b"):
        return _of_tar(_inflated(content, limits), limits)
    if content.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _of_zip(content, limits)
    if content[257:262] == b"ustar":
        return _of_tar(content, limits)
    return _refuse("it is neither tar.gz, tar nor zip", "pack it with `tar czf` or `zip -r`")


def _inflated(content: bytes, limits: SnapshotSettings) -> bytes:
    """All members of a gzip file, given up as soon as there is too much of it."""
    # Headers and padding of every entry come on top of the files.
    most = int(limits.max_mib * _MIB) + limits.max_files * 3 * _BLOCK + _MIB
    out = bytearray()
    left = content
    while left.startswith(b"\x1f\x8b"):
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            piece = member.decompress(left, _MIB)
            left = member.unconsumed_tail
            out += piece
            _check_ratio(len(out), len(content))
            if len(out) > most:
                _too_large(limits)
            if not piece and not left and not member.eof:
                _refuse("it ends in the middle", "send the whole file")
        left = member.unused_data
    return bytes(out)


def _of_tar(content: bytes, limits: SnapshotSettings) -> Iterator[_Entry]:
    known: dict[str, tarfile.TarInfo] = {}
    # Never closed: entries are read later, and there is no file behind it.
    tar = tarfile.open(fileobj=io.BytesIO(content), mode="r:")  # noqa: SIM115
    for info in _counted(_members(tar), limits):
        kind, path = _kind_of(info), _path(info.name)
        if kind is None or path is None:
            continue
        source = info
        if info.islnk():
            source = known.get(_path(info.linkname) or "") or _leading_out(path, info.linkname)
        if kind is not FileMode.LINK:
            known[path] = source
        yield _tar_entry(tar, path, kind, info, source)
    # tarfile takes a broken header for the end of the archive.
    if content[tar.offset : tar.offset + _BLOCK].strip(b"\0"):
        _refuse(f"its header at byte {tar.offset} is broken", "pack it again")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (info := tar.next()) is not None:
        yield info


def _tar_entry(
    tar: tarfile.TarFile, path: str, kind: FileMode, info: tarfile.TarInfo, source: tarfile.TarInfo
) -> _Entry:
    def read() -> bytes:
        if kind is FileMode.LINK:
            return os.fsencode(info.linkname)
        found = tar.extractfile(source)
        assert found is not None
        return found.read()

    return _Entry(path=path, size=0 if kind is FileMode.LINK else source.size, mode=kind, read=read)


def _kind_of(info: tarfile.TarInfo) -> FileMode | None:
    """What an entry becomes, None for a folder."""
    if info.isdir():
        return None
    if info.issym():
        return FileMode.LINK
    if info.issparse() or not (info.isreg() or info.islnk()) or info.size < 0:
        _refuse(f"{info.name!r:.200} is a device, pipe or sparse file", "pack plain files")
    return FileMode.EXECUTABLE if info.mode & stat.S_IXUSR else FileMode.FILE


def _of_zip(content: bytes, limits: SnapshotSettings) -> Iterator[_Entry]:
    # The reader makes an object of every entry before anybody can count them.
    if content.count(_ZIP_ENTRY) > 4 * limits.max_files + 1000:
        _too_many(limits)
    zipped = zipfile.ZipFile(io.BytesIO(content))
    for info in _counted(zipped.infolist(), limits):
        mode = info.external_attr >> 16 if info.create_system == 3 else 0  # 3 is Unix
        path = _path(info.orig_filename)
        if info.is_dir() or path is None:
            continue
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFLNK):
            _refuse(f"{path!r:.200} is a device or pipe", "pack plain files")
        if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            _refuse(f"{path!r:.200} is encrypted or packed in a rare way", "use plain `zip -r`")
        yield _zip_entry(zipped, path, info, mode)


def _zip_entry(zipped: zipfile.ZipFile, path: str, info: zipfile.ZipInfo, mode: int) -> _Entry:
    kind = FileMode.EXECUTABLE if mode & stat.S_IXUSR else FileMode.FILE
    return _Entry(
        path=path,
        size=info.file_size,
        mode=FileMode.LINK if stat.S_ISLNK(mode) else kind,
        read=lambda: zipped.read(info),
    )


def _counted(infos: Iterable[T], limits: SnapshotSettings) -> Iterator[T]:
    for number, info in enumerate(infos):
        # Folders count too, so twice the files and some.
        if number >= 2 * limits.max_files + 1000:
            _too_many(limits)
        yield info


def _path(name: str) -> str | None:
    """The path below the root that an entry's name stands for, None for the root itself."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    faults = {
        "is absolute": name.startswith("/"),
        "climbs out of the archive": ".." in parts,
        "holds a NUL or a backslash": "\0" in name or "\\" in name,
        "is too long": len(name) > _MAX_NAME or len(parts) > _MAX_DEPTH,
        "is not UTF-8": not _is_text(name),
    }
    for fault, holds in faults.items():
        if holds:
            _refuse(f"the entry {name!r:.200} {fault}", "pack relative names, inside one folder")
    return "/".join(parts) or None


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_sizes(entries: list[_Entry], limits: SnapshotSettings, packed: int) -> None:
    paths = {entry.path for entry in entries}
    if len(paths) < len(entries):
        _refuse("it holds two entries of one name", "pack every file once")
    if len(entries) > limits.max_files:
        _too_many(limits)
    total = sum(entry.size for entry in entries)
    _check_ratio(total, packed)
    if total > limits.max_mib * _MIB:
        _too_large(limits)
    for path in paths:
        above = path
        while above := above.rpartition("/")[0]:
            if above in paths:
                _refuse(f"{above!r:.200} is a file and the folder of {path!r:.200}", "pack it again")


def _file(entry: _Entry) -> File:
    content = entry.read()
    if entry.mode is not FileMode.LINK and len(content) != entry.size:
        _refuse(f"{entry.path!r:.200} does not hold what its header says", "pack it again")
    if entry.mode is FileMode.LINK and not 0 < len(content) <= _MAX_NAME:
        _refuse(f"the link {entry.path!r:.200} has no usable target", "pack plain files")
    return File(content=content, mode=entry.mode)


def _below(files: dict[str, File], root: str) -> dict[str, File]:
    wanted = _path(root)
    if wanted is None:
        return files
    start = f"{wanted}/"
    return {path.removeprefix(start): file for path, file in files.items() if path.startswith(start)}


def _check_links(tree: Tree) -> None:
    try:
        check_links(Path(), tree)
    except TaskError as error:
        raise ArchiveRefused(error.message, "replace it by what it points at") from error


def _check_ratio(unpacked: int, packed: int) -> None:
    if unpacked > _RATIO_COUNTS_FROM and unpacked > _MAX_RATIO * packed:
        _refuse(f"it expands to more than {_MAX_RATIO} times its size", "leave out what compresses like that")


def _leading_out(path: str, target: str) -> NoReturn:
    _refuse(f"{path!r:.200} is a hard link to {target!r:.200}, which is no file in it", "pack plain files")


def _too_many(limits: SnapshotSettings) -> NoReturn:
    _refuse(f"it holds more than {limits.max_files} files", "send less, or raise `snapshot.max_files`")


def _too_large(limits: SnapshotSettings) -> NoReturn:
    _refuse(f"it holds more than {limits.max_mib:g} MiB", "send less, or raise `snapshot.max_mib`")


def _refuse(reason: str, next_move: str) -> NoReturn:
    raise ArchiveRefused(f"the archive is refused: {reason}", next_move)
