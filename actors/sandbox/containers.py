"""Level `namespace` by Docker or podman, where bubblewrap cannot work, and `kernel` by a runtime of theirs.

See docs/design/sandbox.md.

The daemon has to share this machine's files: interpreter and packages are bound read-only.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import tarfile
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.sandbox.bubblewrap import (
    BOOT,
    ETC,
    OPEN_FILES,
    SHM_MIB,
    TRUSTED,
    WORK,
    Supervised,
    command_inside,
    environment_inside,
)
from actors.sandbox.layer import ENV, shared_links
from actors.sandbox.port import Job
from actors.sandbox.process import bounds
from actors.sandbox.seccomp import profile
from actors.sandbox.settings import SandboxSettings
from orchestrator.errors import SandboxError
from orchestrator.verdict import Level

if TYPE_CHECKING:
    from docker import APIClient

_USER = 64_999  # owns nothing on the host
_HERE = Path(__file__).parent
_SUPERVISOR = f"{TRUSTED}/supervisor"
_MODULES = ("__init__.py", "supervisor.py", "limits.py", "staging.py", "folders.py")
_START = f"import sys; sys.path.append({_SUPERVISOR!r}); from actors.sandbox.supervisor import main; main()"
_UNCOUNTED = (
    1 << 20
)  # all containers share the user id that the kernel would count by; `pids_limit` bounds each
_MOST_PROCESSES = 1 << 15  # as `_UNCOUNTED`; more is not every daemon's to give
_KERNEL_MIB = 256
_PLACES = ("/var/run/docker.sock", "/run/podman/podman.sock")
# What a runtime masks by itself, and the rest of /sys but the cgroup.
_MASKED = (
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/block", "/sys/bus"),
    *(
        "/sys/class",
        "/sys/dev",
        "/sys/devices",
        "/sys/hypervisor",
        "/sys/kernel",
        "/sys/module",
        "/sys/power",
    ),
)


class Containers(Supervised):
    """One container for each sandbox; `bridge.py` owns it as the supervisor owns bubblewrap."""

    level = Level.NAMESPACE
    main = "actors.sandbox.bridge"

    def __init__(self, settings: SandboxSettings) -> None:
        super().__init__(settings)
        self.host = settings.docker_host or _usual_host()
        self._daemon: _Daemon | None = None
        self._building = threading.Lock()

    def request(self, job: Job) -> dict[str, Any]:
        """See `Supervised.request`; folders inside are /work, /trusted and /env."""
        bounded = bounds(self.settings, job)
        return bounded | {
            "plain": True,
            "polled": False,
            "own": [],
            "framed": True,
            "argv": command_inside(self.settings, job, processes=_UNCOUNTED),
            "environment": environment_inside(job),
            "container": {
                "host": self.host,
                "volumes": {
                    ENV: _tar(
                        {
                            place: text
                            for place, text in job.layer.files.items()
                            if place.startswith(f"{ENV}/")
                        },
                        job.layer.links,
                        below=ENV,
                    ).hex(),
                    TRUSTED: _tar(_trusted(job), (), below=TRUSTED).hex(),
                },
                "mounts": list(job.layer.mounts),
                "create": {
                    "image": self._built().image,
                    "command": [job.layer.python, "-I", "-S", "-B", "-c", _START],
                    "user": f"{_USER}:{_USER}",
                    "hostname": "sandbox",
                    "stdin_open": True,
                    "volumes": [ENV, TRUSTED],
                },
                "limits": self._limits(bounded["memory_bytes"], self._built()),
                "masked": list(_MASKED),
            },
        }

    def _limits(self, memory_bytes: int, daemon: _Daemon) -> dict[str, Any]:
        """Arguments of `create_host_config`: what confines and bounds a container."""
        settings = self.settings
        disk = f"rw,exec,nosuid,nodev,size={settings.disk_mib}m"
        own = "mode=1777"
        if not daemon.is_podman:  # which knows neither; the supervisor counts inodes all the same
            disk += f",nr_inodes={settings.inodes}"
            own = f"mode=700,uid={_USER},gid={_USER}"
        return {
            "network_mode": "none",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges", f"seccomp={daemon.seccomp}", *daemon.masks],
            # The supervisor inside is a process too, and so is every thread.
            "pids_limit": settings.processes + 1,
            "mem_limit": memory_bytes,
            "memswap_limit": memory_bytes,
            "oom_score_adj": 900,
            "shm_size": min(SHM_MIB, settings.disk_mib) << 20,
            "ipc_mode": "private",
            "auto_remove": True,
            "tmpfs": {WORK: f"{disk},{own}", "/tmp": f"{disk},mode=1777"},  # noqa: S108 - inside
            "ulimits": [
                {"Name": name, "Soft": value, "Hard": value}
                for name, value in (
                    *(("core", 0), ("nofile", OPEN_FILES), ("fsize", settings.file_mib << 20)),
                    ("msgqueue", 0),
                    # podman's own default may be more than this machine grants.
                    *((("nproc", _MOST_PROCESSES),) if daemon.is_podman else ()),
                )
            ],
        }

    def _built(self) -> _Daemon:
        """What the daemon takes, with the image built where it is not there yet.

        Raises:
            SandboxError: No daemon answers, it refuses to build, or it lacks the runtime.
        """
        with self._building:
            if self._daemon is None:
                with closing(connect(self.host)) as client:
                    self._check(client)
                    is_podman = _is_podman(client)
                    seccomp = _profile_file() if is_podman else profile()
                    self._daemon = _Daemon(image=_build(client), seccomp=seccomp, is_podman=is_podman)
        return self._daemon

    def _check(self, client: APIClient) -> None:
        """Whether the daemon has what this provider needs."""


class OwnKernel(Containers):
    """Level `kernel`: containers by a runtime that gives each a kernel of its own, as gVisor's `runsc`.

    The daemon says whether it has the runtime; the self-test looks from inside whether that is true.
    """

    level = Level.KERNEL

    def _limits(self, memory_bytes: int, daemon: _Daemon) -> dict[str, Any]:
        limits = super()._limits(memory_bytes, daemon)
        # The kernel of its own lives in the container's memory, too; the supervisor inside bounds the task.
        whole = memory_bytes + (_KERNEL_MIB << 20)
        own = {"runtime": self.settings.runtime, "mem_limit": whole, "memswap_limit": whole}
        return {**limits, **own}

    def _check(self, client: APIClient) -> None:
        runtimes = sorted(client.info().get("Runtimes") or ())
        if self.settings.runtime not in runtimes:
            raise SandboxError(
                f"the daemon at {self.host} has no runtime {self.settings.runtime!r}, "
                f"only {', '.join(runtimes) or 'its own'}",
                "install gVisor (gvisor.dev/docs/user_guide/install), run `runsc install` and restart "
                "the daemon, or name another runtime that gives containers a kernel in sandbox.runtime",
            )

    def shares(self, kernel: str) -> bool:
        """Whether a kernel seen from inside is the daemon's or this machine's own."""
        with closing(connect(self.host)) as client:
            daemons = str(client.info().get("KernelVersion", ""))
        own = os.uname()
        return kernel.partition(" ")[0] == daemons or kernel == f"{own.release} {own.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Daemon:
    """The image's name, and the system call filter: itself for Docker, a file's path for podman."""

    image: str
    seccomp: str
    is_podman: bool

    @property
    def masks(self) -> tuple[str, ...]:
        """What podman is told in words; Docker takes the list beside."""
        return (f"mask={':'.join(_MASKED)}",) if self.is_podman else ()


def connect(host: str) -> APIClient:
    """A client of the daemon at `host`.

    Raises:
        SandboxError: The package is not installed, or nothing answers.
    """
    try:
        import docker
    except ImportError as error:
        raise SandboxError(
            "the docker package is not installed", "run `pip install 'raysmith[docker]'`"
        ) from error
    try:
        _knock(host)
        client = docker.APIClient(base_url=host, version="auto", timeout=60)
    except (docker.errors.DockerException, OSError) as error:
        raise SandboxError(
            f"no Docker or podman daemon answers at {host}: {error}", "start one, or set sandbox.docker_host"
        ) from error
    return client


def _knock(host: str) -> None:
    """Whether anything listens, before the client tries: it leaves a socket open where nothing does."""
    if host.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(host.removeprefix("unix://"))


def _usual_host() -> str:
    if host := os.environ.get("DOCKER_HOST"):
        return host
    own = f"{os.environ.get('XDG_RUNTIME_DIR', '/run/user/' + str(os.getuid()))}/podman/podman.sock"
    return f"unix://{next((place for place in (*_PLACES, own) if Path(place).exists()), _PLACES[0])}"


def _build(client: APIClient) -> str:
    """The image from our Dockerfile, under a name that tells its content."""
    root = _tar(_etc(), shared_links(), folders=(ENV, TRUSTED, WORK, "/tmp", "/usr"))  # noqa: S108 - inside
    dockerfile = (_HERE / "Dockerfile").read_bytes()
    name = f"raysmith-sandbox:{hashlib.sha256(dockerfile + root).hexdigest()[:16]}"
    if client.images(name, quiet=True):
        return name
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for path, content in (("Dockerfile", dockerfile), ("root.tar", root)):
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    context.seek(0)
    told = list(client.build(fileobj=context, custom_context=True, tag=name, rm=True, decode=True))
    if errors := [line["error"] for line in told if "error" in line]:
        raise SandboxError(f"the sandbox's image cannot be built: {errors[-1]}", "see docs/design/sandbox.md")
    return name


def _is_podman(client: APIClient) -> bool:
    parts = client.version().get("Components") or ()
    return any("podman" in str(part.get("Name", "")).lower() for part in parts)


def _profile_file() -> str:
    """A file of ours with the filter, for a daemon on this machine."""
    from platformdirs import user_cache_path

    text = profile()
    place = user_cache_path("raysmith") / f"seccomp-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not place.is_file() or place.read_text() != text:
        place.parent.mkdir(parents=True, exist_ok=True)
        passing = place.with_suffix(f".{os.getpid()}")
        passing.write_text(text)
        passing.replace(place)
    return str(place)


def _etc() -> dict[str, str]:
    return {path: text.replace(":1000:", f":{_USER}:") for path, text in ETC.items()}


def _trusted(job: Job) -> dict[str, str]:
    """The job's trusted files, `boot.py`, and what the supervisor inside is made of."""
    modules = {f"{_SUPERVISOR}/actors/sandbox/{name}": (_HERE / name).read_text() for name in _MODULES}
    own = {f"{TRUSTED}/{name}": text for name, text in job.trusted.items()}
    return own | modules | {f"{TRUSTED}/boot.py": BOOT.read_text(), f"{_SUPERVISOR}/actors/__init__.py": ""}


def _tar(
    files: Mapping[str, str], links: Any = (), *, below: str = "", folders: tuple[str, ...] = ()
) -> bytes:
    """An archive of root's: files that nobody may write, links, and the folders they lie in."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        made: set[str] = set()

        def add(path: str, kind: bytes, *, content: bytes = b"", target: str = "") -> None:
            name = path.removeprefix(below).strip("/")
            if not name or name in made:
                return
            made.add(name)
            add(path.rpartition("/")[0], tarfile.DIRTYPE)
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(content)
            # A memory folder mounted over a folder takes its mode.
            member.mode = 0o444 if kind == tarfile.REGTYPE else 0o1777 if name in ("tmp", "work") else 0o755
            archive.addfile(member, io.BytesIO(content))

        for path in folders:
            add(path, tarfile.DIRTYPE)
        for path, text in sorted(files.items()):
            add(path, tarfile.REGTYPE, content=text.encode())
        for target, path in links:
            add(path, tarfile.SYMTYPE, target=target)
    return out.getvalue()
