"""What bounds and measures a process tree: cgroups where writable, else a look at /proc.

Standard library only, since the supervisor of a sandbox runs with nothing else.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PREFIX = "raysmith-"
_V1 = ("memory", "pids", "cpuacct")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Group:
    """The cgroup of one sandbox, named after its supervisor so that a dead one's can be swept."""

    def __init__(self, kind: str, folders: dict[str, Path]) -> None:
        self.kind = kind
        self.folders = folders

    @classmethod
    def create(cls, memory_bytes: int, processes: int) -> Group | None:
        """A cgroup with both limits set, or None where none can be written."""
        name = f"{PREFIX}{os.getpid()}-{started(os.getpid())}"
        for kind, parents in _places():
            for parent in parents.values():
                sweep(parent)
            group = cls(kind, {what: parent / name for what, parent in parents.items()})
            try:
                group._make(memory_bytes, processes)
            except OSError:
                group.remove()
                continue
            return group
        return None

    def _make(self, memory_bytes: int, processes: int) -> None:
        for folder in self.folders.values():
            folder.mkdir()
        if self.kind == "cgroup-v1":
            (self.folders["memory"] / "memory.limit_in_bytes").write_text(str(memory_bytes))
            with suppress(OSError):
                (self.folders["memory"] / "memory.memsw.limit_in_bytes").write_text(str(memory_bytes))
            (self.folders["pids"] / "pids.max").write_text(str(processes))
            return
        folder = self.folders["all"]
        (folder / "memory.max").write_text(str(memory_bytes))
        (folder / "pids.max").write_text(str(processes))
        with suppress(OSError):
            (folder / "memory.swap.max").write_text("0")

    def join(self) -> None:
        """Move the calling process in."""
        for folder in self.folders.values():
            (folder / "cgroup.procs").write_text("0")

    @property
    def cpu_file(self) -> str:
        """Where `read_cpu` finds this group's CPU time."""
        if self.kind == "cgroup-v1":
            return str(self.folders["cpuacct"] / "cpuacct.usage")
        return str(self.folders["all"] / "cpu.stat")

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something here for memory."""
        folder = self.folders.get("memory") or self.folders["all"]
        name = "memory.oom_control" if self.kind == "cgroup-v1" else "memory.events"
        return _keyed(folder / name).get("oom_kill", 0) > 0

    def peak_bytes(self) -> int:
        """The most memory held at a time, 0 where the kernel does not tell."""
        folder = self.folders.get("memory") or self.folders["all"]
        name = "memory.max_usage_in_bytes" if self.kind == "cgroup-v1" else "memory.peak"
        try:
            return int((folder / name).read_text())
        except (OSError, ValueError):
            return 0

    def members(self) -> list[int]:
        """Process ids inside, as this namespace sees them."""
        folder = self.folders.get("pids") or self.folders["all"]
        try:
            return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def kill(self) -> None:
        """SIGKILL everything inside until nothing is left or three seconds are over."""
        deadline = time.monotonic() + 3
        while (members := [pid for pid in self.members() if pid]) and time.monotonic() < deadline:
            for pid in members:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    def remove(self) -> None:
        """Remove the group; the kernel may need a moment after its last process."""
        for folder in self.folders.values():
            for _ in range(200):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.005)
                else:
                    break


class Inherited(Group):
    """The cgroup that a container runtime put this process into, seen from inside: read, never changed."""

    @classmethod
    def found(cls) -> Inherited | None:
        """None where the container does not show it."""
        if (ROOT / "memory.events").exists():
            return cls("cgroup-v2", {"all": ROOT})
        if (ROOT / "memory" / "memory.oom_control").exists():
            return cls("cgroup-v1", {name: ROOT / name for name in _V1})
        return None

    def join(self) -> None:
        """What is forked is inside."""

    def kill(self) -> None:
        """It would end this process too."""

    def remove(self) -> None:
        """The runtime does."""


def _places() -> Iterator[tuple[str, dict[str, Path]]]:
    """Where a cgroup could be made, best first."""
    if (ROOT / "cgroup.controllers").exists():
        own = _own_v2()
        for folder in [own, *own.parents]:
            if not folder.is_relative_to(ROOT):
                return
            if _delegated(folder):
                yield "cgroup-v2", {"all": folder}
    elif all((ROOT / name).is_dir() for name in _V1):
        yield "cgroup-v1", {name: ROOT / name for name in _V1}


def _own_v2() -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return ROOT / line[3:].lstrip("/")
    return ROOT


def _delegated(folder: Path) -> bool:
    try:
        passed_on = (folder / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False
    return {"memory", "pids"} <= set(passed_on) and os.access(folder, os.W_OK)


def sweep(parent: Path) -> int:
    """End and remove the groups of supervisors that are gone; how many went."""
    swept = 0
    with suppress(OSError):
        for folder in parent.glob(f"{PREFIX}*-*"):
            pid, _, birth = folder.name.removeprefix(PREFIX).partition("-")
            if pid.isdigit() and started(int(pid)) != birth:
                group = Group("swept", {"all": folder})
                group.kill()
                group.remove()
                swept += not folder.exists()
    return swept


def sweep_everywhere() -> None:
    """`sweep` wherever this process could make a group."""
    for _, parents in _places():
        for parent in parents.values():
            sweep(parent)


def started(pid: int) -> str:
    """When a process started, in ticks since boot; empty when it is gone."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the command name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _keyed(path: Path) -> dict[str, int]:
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def read_cpu(path: str) -> float:
    """CPU seconds that a `cpu_file` tells."""
    if path.endswith("cpuacct.usage"):
        return int(Path(path).read_text()) / 1e9
    return _keyed(Path(path)).get("usage_usec", 0) / 1e6


def tree(pid: int) -> list[int]:
    """`pid` and everything below it."""
    found, front = [], [pid]
    while front:
        current = front.pop()
        found.append(current)
        with suppress(OSError):
            for task in Path(f"/proc/{current}/task").iterdir():
                with suppress(OSError):
                    front.extend(int(child) for child in (task / "children").read_text().split())
    return found


def proportional_bytes(pid: int) -> int | None:
    """Memory of `pid` and everything below it, shared pages counted once; None where /proc does not tell.

    Dearer than `tree_usage`, whose resident bytes count what forks share once for each of them.
    """
    total = 0
    for member in tree(pid):
        try:
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
        except ProcessLookupError:
            continue
        except OSError:
            return None
        total += sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:"))
    return total


def tree_usage(pid: int) -> tuple[int, int, float]:
    """Resident bytes, threads and CPU seconds of `pid` and everything below it."""
    resident = threads = 0
    cpu = 0.0
    for member in tree(pid):
        fields = _stat(member)
        if fields:
            resident += int(fields[21]) * _PAGE
            threads += int(fields[17])
            cpu += sum(int(field) for field in fields[11:15]) / _TICKS
    return resident, threads, cpu


def space(path: str, most: int) -> tuple[int, int]:
    """Bytes and inodes that lie in a folder, a look at each; it stops counting beyond `most` inodes."""
    held = inodes = 0
    front = [path]
    while front and inodes <= most:
        with suppress(OSError), os.scandir(front.pop()) as entries:
            for entry in entries:
                inodes += 1
                with suppress(OSError):
                    held += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        front.append(entry.path)
    return held, inodes


def mounted_space(path: str) -> tuple[int, int]:
    """Bytes and inodes in use in the file system mounted at `path`."""
    try:
        told = os.statvfs(path)
    except OSError:
        return 0, 0
    return (told.f_blocks - told.f_bfree) * told.f_frsize, told.f_files - told.f_ffree
