"""Confines its own process by Landlock and a system call filter, and becomes the command behind `--`.

Runs in the place of a task's first process: trusted, standard library only. Its first argument names a
JSON file: `read` and `write`, lists of paths, and `seccomp`, the filter's program in hexadecimal.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_VERSION = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_MAKE_DEVICES = 1 << 6 | 1 << 11
_FILE_SYSTEM = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP, _SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2


def main() -> None:
    """Give up everything that is not listed, then become."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    command = sys.argv[sys.argv.index("--") + 1 :]
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    landlock(libc, asked["read"], asked["write"])
    seccomp(libc, bytes.fromhex(asked["seccomp"]))
    os.execv(command[0], command)  # noqa: S606 - becoming it is the point


def landlock(libc: ctypes.CDLL, read: list[str], write: list[str]) -> None:
    """Leave only `read` readable and `write` writable, no TCP, and no signal or abstract socket beyond us."""
    abi = libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)
    _check(abi, "Landlock")
    every = _FILE_SYSTEM[max(known for known in _FILE_SYSTEM if known <= abi)]
    attributes = struct.pack("QQQ", every, _TCP, _SCOPES)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _check(libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0), "a ruleset")
    for path in read:
        _allow(libc, ruleset, path, _EXECUTE | _READ_FILE | _READ_DIR)
    for path in write:
        _allow(libc, ruleset, path, every & ~_MAKE_DEVICES & ~_IOCTL_DEV)
    _check(libc.syscall(_RESTRICT, ruleset, 0), "restricting itself")
    os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not Path(path).is_dir():
        rights &= _OF_FILES
    rule = struct.pack("=Qi", rights, place)
    _check(libc.syscall(_ADD, ruleset, 1, rule, 0), f"a rule for {path}")
    os.close(place)


def seccomp(libc: ctypes.CDLL, program: bytes) -> None:
    """Install a compiled filter."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    _check(libc.prctl(_SET_SECCOMP, _FILTER, header, 0, 0), "the system call filter")


def _check(result: int, what: str) -> int:
    if result < 0:
        raise SystemExit(f"confine: {what}: {os.strerror(ctypes.get_errno())}")
    return result


if __name__ == "__main__":
    main()
