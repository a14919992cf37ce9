"""Level `namespace`: bubblewrap, a system call filter and a memory limit; see docs/design/sandbox.md."""

from __future__ import annotations

import asyncio
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.sandbox.layer import ENV, shared_links
from actors.sandbox.port import Channel, Completed, Job
from actors.sandbox.process import SupervisedProcess, bounds, pack
from actors.sandbox.seccomp import program
from actors.sandbox.settings import SandboxSettings
from orchestrator.errors import SandboxError
from orchestrator.verdict import Level

WORK, TRUSTED = "/work", "/trusted"
BOOT = Path(__file__).with_name("boot.py")
CHANNEL_FD = 4
SHM_MIB = 64
OPEN_FILES = 1024
ETC = {
    "/etc/passwd": "root:x:0:0:root:/nonexistent:/bin/false\nsandbox:x:1000:1000:sandbox:/tmp:/bin/sh\n",
    "/etc/group": "root:x:0:\nsandbox:x:1000:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


class Supervised:
    """What every provider that has a supervisor shares: threads, cancellation, a list of the living."""

    level = Level.NONE
    main = "actors.sandbox.supervisor"
    """The module whose `main` runs in the process that owns one sandbox."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.living: weakref.WeakSet[SupervisedProcess] = weakref.WeakSet()
        self._threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="sandbox")

    def request(self, job: Job) -> dict[str, Any]:
        """What the supervisor is asked for."""
        raise NotImplementedError

    def start(self, job: Job, *, channel: bool = False) -> SupervisedProcess:
        """Start a job and return at once; for callers without an event loop."""
        job = with_channel(job) if channel else job
        process = SupervisedProcess(
            self.request(job), pack(job.tree) + placed(job.stdin), self.level, channel=channel, main=self.main
        )
        self.living.add(process)
        return process

    async def run(self, job: Job) -> Completed:
        """See `Sandbox.run`."""
        loop = asyncio.get_running_loop()
        process = await self._start_in_thread(job, channel=False)
        waiting = loop.run_in_executor(self._threads, process.wait)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            process.kill()
            await asyncio.wait([waiting])
            raise

    async def open(self, job: Job) -> Channel:
        """See `Sandbox.open`."""
        return await self._start_in_thread(job, channel=True)

    async def _start_in_thread(self, job: Job, *, channel: bool) -> SupervisedProcess:
        starting = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: self.start(job, channel=channel)
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            (await starting).close()
            raise

    def kill_all(self) -> None:
        """See `Sandbox.kill_all`."""
        for process in list(self.living):
            process.kill()


def with_channel(job: Job) -> Job:
    """The job, told where the supervisor puts its channel."""
    return replace(job, environment={**job.environment, "RAYSMITH_CHANNEL_FD": str(CHANNEL_FD)})


class Bubblewrap(Supervised):
    """Sandboxes by bubblewrap, as an ordinary user or as root."""

    level = Level.NAMESPACE

    def request(self, job: Job) -> dict[str, Any]:
        """See `Supervised.request`; folders inside are /work, /trusted and /env."""
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise SandboxError("bubblewrap is not installed", "run `apt-get install bubblewrap`")
        settings = self.settings
        environment = environment_inside(job)
        trusted = {f"{TRUSTED}/{name}": text for name, text in job.trusted.items()}
        return bounds(settings, job) | {
            "bwrap": bwrap,
            "plain": False,
            "polled": False,
            "spaces": [WORK, "/tmp", "/dev/shm"],  # noqa: S108 - inside
            "seccomp": program(makes_namespaces=job.makes_namespaces).hex(),
            "before": _before(job),
            "mounts": list(job.layer.mounts),
            "files": {**ETC, **job.layer.files, f"{TRUSTED}/boot.py": BOOT.read_text(), **trusted},
            "after": _after(settings, job, environment),
            "argv": command_inside(settings, job, processes=settings.processes),
            "environment": {},
        }


def command_inside(settings: SandboxSettings, job: Job, *, processes: int) -> list[str]:
    """`boot.py` with the limits that only a process inside can set, then what the job asks for."""
    return [
        *(job.layer.python, "-I", "-S", "-B", f"{TRUSTED}/boot.py", WORK, str(processes)),
        *(str(settings.file_mib << 20), str(OPEN_FILES), "1", "--", job.layer.python),
        *(placed(arg.encode()).decode() for arg in job.argv),
    ]


def environment_inside(job: Job) -> dict[str, str]:
    """All that a job's process finds in its environment."""
    return {
        "PATH": f"{ENV}/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",  # noqa: S108 - inside
        "TMPDIR": "/tmp",  # noqa: S108 - inside
        "USER": "sandbox",
        "LANG": "C.UTF-8",
        "VIRTUAL_ENV": ENV,
        **{name: placed(value.encode()).decode() for name, value in job.environment.items()},
    }


def placed(text: bytes) -> bytes:
    """`{work}` and `{trusted}` replaced by where they are inside."""
    return text.replace(b"{work}", WORK.encode()).replace(b"{trusted}", TRUSTED.encode())


def _before(job: Job) -> list[str]:
    """Arguments before the mounts: namespaces, privileges, the standard folders."""
    return [
        *("--unshare-all", "--unshare-user", *(() if job.makes_namespaces else ("--disable-userns",))),
        *("--die-with-parent", "--new-session"),
        *("--clearenv", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL", "--hostname", "sandbox"),
        *("--proc", "/proc", "--dev", "/dev"),
    ]


def _after(settings: SandboxSettings, job: Job, environment: dict[str, str]) -> list[str]:
    """Arguments after the mounts: links, sized memory folders, a root that nobody writes."""
    disk, shm = str(settings.disk_mib << 20), str(min(SHM_MIB, settings.disk_mib) << 20)
    args: list[str] = []
    for target, place in [*shared_links(), *job.layer.links]:
        args += ["--symlink", target, place]
    for name, value in environment.items():
        args += ["--setenv", name, value]
    args += ["--perms", "1777", "--size", shm, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108
    args += ["--perms", "1777", "--size", disk, "--tmpfs", "/tmp"]  # noqa: S108 - inside
    return [*args, "--perms", "0755", "--size", disk, "--tmpfs", WORK, "--remount-ro", "/", "--chdir", WORK]
