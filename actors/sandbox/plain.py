"""What providers without a file system of their own share: one temporary folder, gone with the process."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

from actors.sandbox.bubblewrap import BOOT, Supervised, with_channel
from actors.sandbox.folders import make_folder, remove_folder, sweep_folders
from actors.sandbox.layer import ENV
from actors.sandbox.port import Job
from actors.sandbox.process import SupervisedProcess, bounds, pack
from actors.sandbox.settings import SandboxSettings


class Plain(Supervised):
    """Process trees under a supervisor, each in a folder of the host."""

    def __init__(self, settings: SandboxSettings) -> None:
        super().__init__(settings)
        sweep_folders()

    def start(self, job: Job, *, channel: bool = False) -> SupervisedProcess:
        """See `Supervised.start`; everything lies in one temporary folder that goes with the process."""
        job = with_channel(job) if channel else job
        home = make_folder()
        try:
            _lay_out(home, job)
            process = SupervisedProcess(
                self.plain_request(home, job),
                pack(job.tree) + placed(job.stdin, home),
                self.level,
                channel=channel,
                folder=str(home),
            )
        except BaseException:
            remove_folder(str(home))
            raise
        weakref.finalize(process, remove_folder, str(home))
        self.living.add(process)
        return process

    def plain_request(self, home: Path, job: Job) -> dict[str, Any]:
        """What the supervisor is asked for."""
        environment = {
            "PATH": f"{home}/env/bin:{os.environ.get('PATH', os.defpath)}",
            "HOME": f"{home}/tmp",  # noqa: S108 - its own
            "TMPDIR": f"{home}/tmp",  # noqa: S108 - its own
            "LANG": "C.UTF-8",
        }
        environment |= {
            name: placed(value.encode(), home).decode() for name, value in job.environment.items()
        }
        python = f"{home}/env/bin/python"
        return bounds(self.settings, job) | {
            "plain": True,
            "polled": True,
            "own": [],
            "folder": str(home),
            "spaces": [f"{home}/work", f"{home}/tmp"],  # noqa: S108 - its own
            "argv": [
                *(python, "-I", "-S", "-B", f"{home}/trusted/boot.py", f"{home}/work", *self.rlimits(), "--"),
                *self.confinement(home),
                *(python, *(placed(arg.encode(), home).decode() for arg in job.argv)),
            ],
            "environment": environment,
        }

    def rlimits(self) -> tuple[str, str, str, str]:
        """The four limits that `boot.py` is given."""
        return ("0", "0", "0", "0")

    def confinement(self, home: Path) -> list[str]:
        """A command that confines itself and becomes what follows it; empty for none."""
        del home
        return []


def placed(text: bytes, home: Path) -> bytes:
    """`{work}` and `{trusted}` replaced by where they are."""
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
