"""Level `weak`: Landlock and a system call filter, where a machine refuses namespaces.

Files, TCP and signals are confined by the kernel. Memory, processes and disk are bounded by a cgroup
where one can be written, else only by the supervisor's looks. No socket can be made, not even to itself.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from actors.sandbox.plain import Plain
from actors.sandbox.port import Job
from actors.sandbox.seccomp import program
from orchestrator.verdict import Level

_CONFINE = Path(__file__).with_name("confine.py")
_OPEN_FILES = 1024
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


class Landlocked(Plain):
    """Process trees that gave up what they do not need; as root, under a user id that owns nothing."""

    level = Level.WEAK

    def plain_request(self, home: Path, job: Job) -> dict[str, Any]:
        """See `Plain.plain_request`."""
        (home / "trusted" / "confine.py").write_text(_CONFINE.read_text())
        rules = {
            "read": [source for source, _ in job.layer.mounts] + [f"{home}/env", f"{home}/trusted"],
            "write": [f"{home}/work", f"{home}/tmp", *_DEVICES],  # noqa: S108 - its own
            "seccomp": program(sockets=False).hex(),
        }
        (home / "trusted" / "confine.json").write_text(json.dumps(rules))
        return super().plain_request(home, job) | {
            "polled": False,
            "mounts": list(job.layer.mounts),
            "own": [str(home), f"{home}/work", f"{home}/tmp"],  # noqa: S108 - its own
        }

    def rlimits(self) -> tuple[str, str, str, str]:
        """See `Plain.rlimits`; the kernel counts processes by user, so an ordinary user's own come on top."""
        processes = self.settings.processes + (_own_threads() if os.geteuid() else 0)
        return (str(processes), str(self.settings.file_mib << 20), str(_OPEN_FILES), "1")

    def confinement(self, home: Path) -> list[str]:
        """See `Plain.confinement`."""
        python = f"{home}/env/bin/python"
        return [
            python,
            *("-I", "-S", "-B", f"{home}/trusted/confine.py", f"{home}/trusted/confine.json", "--"),
        ]


def _own_threads() -> int:
    """Threads that this user has now."""
    count = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if folder.stat().st_uid == os.geteuid():
                    count += len(list((folder / "task").iterdir()))
    return count
