"""Level `none`: a plain process tree, for an operator who wrote the accept string in full.

Only time, output and, by looking at /proc, memory are bounded. Code runs as the user who started
Raysmith and can do whatever that user can. Its folders are gone afterwards, its processes too where the
kernel lets a parent adopt orphans.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from actors.sandbox.bubblewrap import BOOT, Supervised, with_channel
from actors.sandbox.layer import ENV
from actors.sandbox.port import Job
from actors.sandbox.process import SupervisedProcess, bounds, pack
from actors.sandbox.settings import SandboxSettings
from orchestrator.errors import SandboxError
from orchestrator.verdict import Level


class Unsandboxed(Supervised):
    """Plain processes under a supervisor."""

    level = Level.NONE

    def __init__(self, settings: SandboxSettings) -> None:
        super().__init__(settings)
        if not settings.accepts_unsandboxed:
            raise SandboxError(
                "nobody accepted to run code without a sandbox", "set sandbox.allow_unsandboxed"
            )

    def start(self, job: Job, *, channel: bool = False) -> SupervisedProcess:
        """See `Supervised.start`; everything lies in one temporary folder that goes with the process."""
        job = with_channel(job) if channel else job
        home = Path(tempfile.mkdtemp(prefix="raysmith-unsandboxed-"))
        try:
            _lay_out(home, job)
            process = SupervisedProcess(
                self._request(home, job),
                pack(job.tree) + _placed(job.stdin, home),
                self.level,
                channel=channel,
                folder=str(home),
            )
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        weakref.finalize(process, shutil.rmtree, home, ignore_errors=True)
        self.living.add(process)
        return process

    def _request(self, home: Path, job: Job) -> dict[str, Any]:
        environment = {
            "PATH": f"{home}/env/bin:{os.environ.get('PATH', os.defpath)}",
            "HOME": f"{home}/tmp",  # noqa: S108 - its own
            "TMPDIR": f"{home}/tmp",  # noqa: S108 - its own
            "LANG": "C.UTF-8",
        }
        environment |= {
            name: _placed(value.encode(), home).decode() for name, value in job.environment.items()
        }
        python = f"{home}/env/bin/python"
        return bounds(self.settings, job) | {
            "plain": True,
            "polled": True,
            "argv": [
                *(python, "-I", "-S", "-B", f"{home}/trusted/boot.py", f"{home}/work", "0", "0", "0", "0"),
                *("--", python, *(_placed(arg.encode(), home).decode() for arg in job.argv)),
            ],
            "environment": environment,
        }


def _placed(text: bytes, home: Path) -> bytes:
    return text.replace(b"{work}", f"{home}/work".encode()).replace(b"{trusted}", f"{home}/trusted".encode())


def _lay_out(home: Path, job: Job) -> None:
    """The layer as a folder of links to the host's own files, the trusted files, an empty work folder."""
    for name in ("work", "tmp", "trusted"):
        (home / name).mkdir()
    for name, text in {**job.trusted, "boot.py": BOOT.read_text()}.items():
        (home / "trusted" / name).write_text(text)
    for target, place in job.layer.links:
        link = home / place.removeprefix("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(_on_host(target, job))
    for place, text in job.layer.files.items():
        (home / place.removeprefix("/")).write_text(_config(text, job))


def _config(text: str, job: Job) -> str:
    return text.replace(ENV, str(Path(job.layer.host_python).parent))


def _on_host(target: str, job: Job) -> str:
    """Where a path of the layer is outside."""
    for source, inside in sorted(job.layer.mounts, key=lambda mount: -len(mount[1])):
        if target == inside or target.startswith(inside + "/"):
            return source + target[len(inside) :]
    return target
