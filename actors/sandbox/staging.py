"""What a supervisor that runs as root does before it drops to nobody: show files that only root can reach.

Everything happens in the supervisor's own mount namespace; the host's mounts and folders stay as they are.
Standard library only.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV = 0x1000, 0x4000, 0x40000, 2, 4
_STAGE = (b"tmpfs", _MS_NOSUID | _MS_NODEV, b"size=1m,mode=755")
_BASE_UID, _PLAIN_UID = 2_000_000_000, 64_999


class Refused(Exception):
    """The sandbox cannot be started here; the text says which call failed."""


def reachable(mounts: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Source and target of every mount, each source where an unprivileged user can reach it.

    An ordinary user's own paths are used as they are. As root they are bound below a stage: dropping
    privileges first could not read an interpreter in root's home.

    Raises:
        Refused: This root may not mount.
    """
    pairs = [(source, target) for source, target in mounts]
    if os.geteuid() != 0:
        return pairs
    libc = _own_mounts()
    stage = _stage([source for source, _ in pairs])
    _check(libc.mount(b"raysmith", stage.encode(), *_STAGE), "mounting a stage")
    return [
        (_bind(libc, source, f"{stage}/{number}"), target) for number, (source, target) in enumerate(pairs)
    ]


def reveal(paths: Sequence[str]) -> None:
    """As root, let an unprivileged user reach `paths` where they are, though a folder above is closed to it.

    Each closed folder is covered by one that holds nothing but what of `paths` lies in it.

    Raises:
        Refused: A folder is closed and this root may not mount.
    """
    closed: dict[str, list[str]] = {}
    for path in sorted(paths):
        if above := _closed_above(path):
            closed.setdefault(above, []).append(path)
    if not closed:
        return
    libc = _own_mounts()
    for folder, inside in closed.items():
        held = [(path, os.open(path, os.O_PATH)) for path in inside]
        _check(libc.mount(b"raysmith", folder.encode(), *_STAGE), f"covering {folder}")
        for path, fd in held:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            _bind(libc, f"/proc/self/fd/{fd}", path)
            os.close(fd)


def _closed_above(path: str) -> str | None:
    """The uppermost folder on the way to `path` that only its owner may pass."""
    return next((str(above) for above in reversed(Path(path).parents) if not above.stat().st_mode & 1), None)


def _own_mounts() -> ctypes.CDLL:
    """libc, once the calling process has a mount namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS), "unshare(CLONE_NEWNS) as root, which needs CAP_SYS_ADMIN")
    _check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "making mounts private")
    return libc


def _bind(libc: ctypes.CDLL, source: str, place: str) -> str:
    if Path(source).is_dir():
        Path(place).mkdir(exist_ok=True)
    else:
        Path(place).touch()
    _check(libc.mount(source.encode(), place.encode(), None, _MS_BIND | _MS_REC, None), f"binding {source}")
    return place


def _stage(sources: list[str]) -> str:
    """A folder to mount over, above none of the sources."""
    for folder in ("/mnt", "/media", "/srv", "/opt", "/tmp"):  # noqa: S108 - only mounted over, privately
        if Path(folder).is_dir() and not any(Path(source).is_relative_to(folder) for source in sources):
            return folder
    raise Refused(
        "no folder to stage mounts in: /mnt, /media, /srv, /opt and /tmp are absent or hold a source"
    )


def free_uid() -> int:
    """A user id that owns nothing and that no other sandbox has, where this namespace maps so many."""
    uid = _BASE_UID + os.getpid()
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = (int(number) for number in line.split())
        if first <= uid < first + count:
            return uid
    return _PLAIN_UID


def _check(result: int, what: str) -> None:
    if result != 0:
        raise Refused(f"{what}: {os.strerror(ctypes.get_errno())}")
