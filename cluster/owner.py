"""Who may write a store: one process holds a lock on RAYSMITH_HOME; a file in it says where to find it.

A free lock means nobody, whatever the file says. Nothing here talks to Ray.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator import failpoints
from orchestrator.errors import StoreDamaged, StoreError, StoreOwned

_LOCK = "owner.lock"
_FILE = "owner.json"
_EPOCH = "owner.epoch"
# A probe holds the lock for microseconds; an acquirer outlasts it even when it may not wait.
_PROBE_S = 0.2
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A living factory. `address` and `namespace` are "" until its Ray cluster is up; `started_at` is UTC.

    `driver_pid` is the process on `host` with which the factory ends, 0 where it outlives its driver.
    """

    address: str = ""
    namespace: str = ""
    pid: int
    host: str
    epoch: int
    started_at: str
    version: str
    driver_pid: int = 0

    @property
    def is_dying(self) -> bool:
        """The process that it ends with is gone; what still holds the lock goes within seconds."""
        return bool(self.driver_pid and self.host == socket.gethostname() and not _lives(self.driver_pid))


class Ownership:
    """The lock, held from `acquire` until `release` or the end of this process, whichever comes first."""

    def __init__(self, home: Path, descriptor: int, owner: Owner) -> None:
        self._home = home
        self._descriptor: int | None = descriptor
        self.owner = owner

    @classmethod
    def acquire(
        cls,
        home: Path,
        wait_s: float = 10.0,
        *,
        address: str = "",
        namespace: str = "",
        driver_pid: int = 0,
        at_least: int = 0,
    ) -> Ownership:
        """Take the store at `home`, made if need be, with an epoch higher than any before.

        Args:
            wait_s: How long to wait for a dying owner.
            address, namespace: Where newcomers join; `publish` tells it later.
            driver_pid: As in `Owner`.
            at_least: The epoch is higher than this too; give it `stored_epoch(…)`.

        Raises:
            StoreOwned: Somebody else still holds it after `wait_s`.
            StoreError: `home` cannot be used.
        """
        make_home(home)
        descriptor = _lock(home, max(wait_s, _PROBE_S))
        try:
            failpoints.hit("owner.after_lock")
            epoch = max(_read_epoch(home), at_least) + 1
            _write(home / _EPOCH, f"{epoch}\n")
            ownership = cls(
                home, descriptor, replace(_newcomer(epoch, address, namespace), driver_pid=driver_pid)
            )
            ownership._tell()
        except OSError as error:
            os.close(descriptor)
            raise _translate(error, home) from error
        except BaseException:
            os.close(descriptor)
            raise
        return ownership

    @property
    def epoch(self) -> int:
        """Higher than that of every owner before."""
        return self.owner.epoch

    def publish(self, address: str, namespace: str) -> None:
        """Tell newcomers where to join, once the Ray cluster is up.

        Raises:
            StoreError: `home` cannot be written.
        """
        self.owner = replace(self.owner, address=address, namespace=namespace)
        try:
            self._tell()
        except OSError as error:
            raise _translate(error, self._home) from error

    def release(self) -> None:
        """Let go; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            (self._home / _FILE).unlink(missing_ok=True)
        except OSError:
            pass  # a free lock says the same
        finally:
            # Unlocking and not only closing: a forked child may still hold the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _tell(self) -> None:
        _write(self._home / _FILE, json.dumps(asdict(self.owner), indent=2) + "\n")


def is_owned(home: Path) -> bool:
    """Whether a living process holds the store; nothing is taken or made.

    Raises:
        StoreError: `home` cannot be read.
    """
    try:
        descriptor = os.open(home / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _translate(error, home) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_owner(home: Path) -> Owner | None:
    """The living owner of the store; None for nobody, or one that is only just taking over.

    Raises:
        StoreError: `home` cannot be read.
    """
    return _told(home) if is_owned(home) else None


def lost_owner(home: Path) -> Owner | None:
    """Who was killed while it held the store, and may be brought back by the Ray cluster that it is on.

    None where the store is held, was let go, or where the process that it would end with is gone.
    Raises:
        StoreError: `home` cannot be read.
    """
    owner = None if is_owned(home) else _told(home)
    return owner if owner is not None and owner.address and not owner.is_dying else None


def _told(home: Path) -> Owner | None:
    """What the file says, unless an owner that has not written its own came after it."""
    try:
        data = json.loads((home / _FILE).read_text())
        owner = Owner(**{item.name: data[item.name] for item in fields(Owner)})
        return owner if owner.epoch == _read_epoch(home) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    except OSError as error:
        raise _translate(error, home) from error


def make_home(home: Path) -> None:
    """Make RAYSMITH_HOME, readable by this user only.

    Raises:
        StoreError: It cannot be made, or is a file.
    """
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _translate(error, home) from error


def _lock(home: Path, wait_s: float) -> int:
    try:
        descriptor = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _translate(error, home) from error
    deadline = time.monotonic() + wait_s
    while not _try_lock(descriptor, home):
        if time.monotonic() >= deadline:
            os.close(descriptor)
            raise _owned(home, wait_s)
        time.sleep(_POLL_S)
    return descriptor


def _try_lock(descriptor: int, home: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        os.close(descriptor)
        raise _translate(error, home) from error
    return True


def _owned(home: Path, wait_s: float) -> StoreOwned:
    owner = read_owner(home)
    who = f"process {owner.pid} on {owner.host}" if owner else "another process"
    return StoreOwned(
        f"{home} is still held by {who} after {wait_s:g} s",
        "join that factory, end it, or name another RAYSMITH_HOME",
    )


def _newcomer(epoch: int, address: str, namespace: str) -> Owner:
    try:
        version = metadata.version("raysmith")
    except metadata.PackageNotFoundError:
        version = "unknown"
    return Owner(
        address=address,
        namespace=namespace,
        pid=os.getpid(),
        host=socket.gethostname(),
        epoch=epoch,
        started_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        version=version,
    )


def _read_epoch(home: Path) -> int:
    path = home / _EPOCH
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
    except ValueError as error:
        raise StoreDamaged(
            f"{path} does not hold a number", "delete it if no factory is running here"
        ) from error


def _write(path: Path, text: str) -> None:
    """Replace `path` whole, so that a reader or a power loss sees the old text or the new."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


_TOLD: dict[int, tuple[str, str]] = {
    errno.EACCES: ("cannot be written", "make it writable, or name another RAYSMITH_HOME"),
    errno.EPERM: ("cannot be written", "make it writable, or name another RAYSMITH_HOME"),
    errno.EROFS: ("is on a read-only disk", "name another RAYSMITH_HOME"),
    errno.ENOSPC: ("is on a full disk", "free some space, or name another RAYSMITH_HOME"),
    errno.EDQUOT: ("is over its disk quota", "free some space, or name another RAYSMITH_HOME"),
    errno.EEXIST: ("is a file, not a folder", "name another RAYSMITH_HOME"),
    errno.ENOTDIR: ("is a file or lies below one", "name another RAYSMITH_HOME"),
    errno.ENOLCK: ("is on a file system without locks", "put RAYSMITH_HOME on a local disk"),
}


def _translate(error: OSError, home: Path) -> StoreError:
    what, next_move = _TOLD.get(
        error.errno or 0, (f"cannot be used ({error.strerror})", "name another RAYSMITH_HOME")
    )
    return StoreError(f"RAYSMITH_HOME {home} {what}", next_move)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A dead process that nobody has waited for still has its number.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return True
