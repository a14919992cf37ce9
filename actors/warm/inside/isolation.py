"""Namespaces and privileges of one forked run: made by trusted code, before any code of the task.

A run is two processes of namespaces of their own (user, mount, pid, ipc, network): an init that reaps,
and the one that becomes the run. Both have lost every capability, may make no namespace and load the
system call filter of a fresh sandbox before the second one reads its workspace.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

WORK = "/work"
_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_CLONE = {"x86_64": 56, "aarch64": 220}
_PR_SET_PDEATHSIG, PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 4, 22, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _AMBIENT_CLEAR, _FILTER = 38, 47, 4, 2
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_CAP_VERSION = 0x20080522
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_LAST_FD = 4

_libc = ctypes.CDLL(None, use_errno=True)
# Holds the interpreter's lock: the copy must not wake up without it.
_locked = ctypes.PyDLL(None, use_errno=True)


class Filter:
    """A compiled system call filter, kept ready for a child to load."""

    def __init__(self, program: bytes) -> None:
        self._code = ctypes.create_string_buffer(program, len(program))
        packed = struct.pack("@HP", len(program) // 8, ctypes.addressof(self._code))
        self._header = ctypes.create_string_buffer(packed, len(packed))

    def load(self) -> None:
        """Put this process and what it starts under the filter; there is no way back."""
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
        prctl(_PR_SET_SECCOMP, _FILTER, ctypes.addressof(self._header))


def prctl(option: int, *values: int) -> None:
    """prctl(2).

    Raises:
        OSError: The kernel refused.
    """
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(option, *arguments), f"prctl({option})")


def start(
    files: Mapping[int, int], limits: Mapping[str, int], rules: Filter, body: Callable[[], None]
) -> int:
    """Fork a run; the process id of its init, whose end is the end of everything in the run.

    Args:
        files: Descriptors of the run by number, from 0; every other one is closed in it.
        limits: `tmp_bytes`, `shm_bytes`, `work_bytes`, and `inodes` of each.
        body: What the run does in its empty work folder; it does not return.
    """
    pid = _fork_apart()
    if pid:
        return pid
    try:
        # A group of its own: kill(0, …) asks for no namespace.
        os.setsid()
        _take(files)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # Only who may be looked into may write its own maps; nothing of the task runs before it is 0 again.
        prctl(PR_SET_DUMPABLE, 1)
        _own_user()
        _own_folders(limits)
        _loopback_up()
        _drop_capabilities()
        prctl(PR_SET_DUMPABLE, 0)
        rules.load()
        child = os.fork()
        if child == 0:
            prctl(PR_SET_DUMPABLE, 1)
            os.chdir(WORK)
            body()
        _reap_until(child)
    except BaseException as error:
        os.write(2, f"a warm run could not be set up: {error!r}\n".encode())
    finally:
        os._exit(127)


def _fork_apart() -> int:
    """os.fork() into new namespaces, which it cannot do itself before they would be this process' too."""
    flags = _NEWUSER | _NEWNS | _NEWPID | _NEWIPC | _NEWNET | signal.SIGCHLD
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid = int(_locked.syscall(_CLONE[os.uname().machine], flags, 0, 0, 0, 0))
    if pid == 0:
        api.PyOS_AfterFork_Child()
        return 0
    error = ctypes.get_errno()
    api.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, f"clone: {os.strerror(error)}")
    return pid


def _take(files: Mapping[int, int]) -> None:
    high = {number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for number, fd in files.items()}
    for number, fd in high.items():
        os.dup2(fd, number)
    os.closerange(max(files) + 1, 1 << 16)
    for number in range(max(files) + 1):
        if number not in files:
            os.close(number)


def _own_user() -> None:
    """The same ids as before, in a namespace of this run's; none may be made below it."""
    for place, text in (
        ("/proc/self/setgroups", b"deny"),
        ("/proc/self/uid_map", b"1000 1000 1"),
        ("/proc/self/gid_map", b"1000 1000 1"),
        ("/proc/sys/user/max_user_namespaces", b"0"),
    ):
        fd = os.open(place, os.O_WRONLY)
        os.write(fd, text)
        os.close(fd)


def _own_folders(limits: Mapping[str, int]) -> None:
    _mount(b"proc", "/proc", _NOSUID | _NODEV | _NOEXEC, "")
    for place, size, mode in (
        ("/tmp", limits["tmp_bytes"], "1777"),  # noqa: S108 - a file system of the run's own
        ("/dev/shm", limits["shm_bytes"], "1777"),  # noqa: S108
        (WORK, limits["work_bytes"], "0755"),
    ):
        _mount(b"tmpfs", place, _NOSUID | _NODEV, f"size={size},nr_inodes={limits['inodes']},mode={mode}")


def _mount(kind: bytes, place: str, flags: int, options: str) -> None:
    _check(_libc.mount(kind, place.encode(), kind, flags, options.encode()), f"mounting {place}")


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _drop_capabilities() -> None:
    prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR)
    for capability in range(64):
        try:
            prctl(_PR_CAPBSET_DROP, capability)
        except OSError:
            break  # the kernel knows no more of them
    header, none = struct.pack("@Ii", _CAP_VERSION, 0), bytes(24)
    _check(_libc.capset(header, none), "capset")


def _reap_until(child: int) -> None:
    """Be the init of the run: collect orphans, and end as `child` ended, which ends all that is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.closerange(0, _LAST_FD + 1)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _check(result: int, what: str) -> Any:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
