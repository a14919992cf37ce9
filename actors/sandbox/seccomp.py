"""The system calls that code in a sandbox is refused, as a compiled filter."""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Iterator
from functools import cache
from typing import Any

from orchestrator.errors import SandboxError

# fmt: off
_REFUSED = [
    "acct", "add_key", "bpf", "chroot", "clock_adjtime", "clock_settime", "create_module",
    "delete_module", "fanotify_init", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick",
    "get_kernel_syms", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm",
    "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mbind",
    "migrate_pages", "mount", "mount_setattr", "move_mount", "move_pages", "name_to_handle_at",
    "nfsservctl", "open_by_handle_at", "open_tree", "perf_event_open", "personality", "pidfd_getfd",
    "pivot_root", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace", "query_module",
    "quotactl", "quotactl_fd", "reboot", "request_key", "set_mempolicy", "setdomainname", "sethostname",
    "setns", "settimeofday", "stime", "swapoff", "swapon", "syslog", "umount", "umount2", "unshare",
    "uselib", "userfaultfd", "ustat", "vhangup", "vm86", "vm86old", "vmsplice",
]
# fmt: on
# What a process needs that makes namespaces for those it starts; it loads the whole filter into them.
_OF_MAKERS = frozenset({"mount"})
_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_Condition = tuple[Any, ...]
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16


@cache
def program(*, sockets: bool = True, makes_namespaces: bool = False) -> bytes:
    """The BPF program: refused calls answer EPERM, sockets only of four families.

    Args:
        sockets: False refuses every socket but a pair; where no namespace hides them, a socket by path of
            any service of the host would answer.
        makes_namespaces: For trusted code that confines what it starts itself; for nothing else.

    Raises:
        SandboxError: libseccomp is not installed.
    """
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise SandboxError(
            f"the seccomp filter cannot be built: {error}", "install libseccomp2 and pyseccomp"
        ) from error
    rules = seccomp.SyscallFilter(defaction=seccomp.ALLOW)
    for name, number, condition in _rules():
        if makes_namespaces and _is_of_makers(name, condition):
            continue
        compare = (
            [seccomp.Arg(condition[0], getattr(seccomp, condition[1]), *condition[2:])] if condition else []
        )
        _add(rules, seccomp.ERRNO(number), name, *compare)
    if not sockets:
        _add(rules, seccomp.ERRNO(errno.EPERM), "socket")
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _is_of_makers(name: str, condition: _Condition) -> bool:
    return name in _OF_MAKERS or (name == "clone" and bool(condition))


def profile() -> str:
    """The same filter as Docker and podman read it."""
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {
                    "names": [name],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": error,
                    "args": [_argument(condition)] if condition else [],
                }
                for name, error, condition in _rules()
            ],
        }
    )


def _argument(condition: _Condition) -> dict[str, object]:
    index, operator, *values = condition
    named = dict(zip(("value", "valueTwo"), values, strict=False))
    return {"index": index, "op": f"SCMP_CMP_{operator}", **named}


def _rules() -> Iterator[tuple[str, int, _Condition]]:
    """A call, the error it answers, and what of its arguments has to hold for that."""
    for name in _REFUSED:
        yield name, errno.EPERM, ()
    # glibc falls back to clone(), whose flags a filter can read.
    yield "clone3", errno.ENOSYS, ()
    for bit in range(32):
        if _NAMESPACES >> bit & 1:
            yield "clone", errno.EPERM, (0, "MASKED_EQ", 1 << bit, 1 << bit)
    for request in (_TIOCSTI, _TIOCLINUX):
        yield "ioctl", errno.EPERM, (1, "MASKED_EQ", 0xFFFFFFFF, request)
    for call in ("socket", "socketpair"):
        yield call, errno.EPERM, (0, "GT", _NETLINK)
        for family in range(_NETLINK):
            if family not in (_UNIX, _INET, _INET6):
                yield call, errno.EPERM, (0, "EQ", family)


def _add(rules: object, action: object, name: str, *conditions: object) -> None:
    """Add a rule for a call that this kernel's libseccomp knows."""
    try:
        rules.add_rule(action, name, *conditions)  # type: ignore[attr-defined]
    except (ValueError, OSError) as error:
        if "unknown" in str(error).lower() or isinstance(error, ValueError):
            return
        raise
