"""Level `namespace` by Docker or podman, where bubblewrap cannot work; see docs/design/sandbox.md.

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
        self._image: str | None = None
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
                    "image": self._built(),
                    "command": [job.layer.python, "-I", "-S", "-B", "-c", _START],
                    "user": f"{_USER}:{_USER}",
                    "hostname": "sandbox",
                    "stdin_open": True,
                    "volumes": [ENV, TRUSTED],
                },
                "limits": self._limits(bounded["memory_bytes"]),
                "masked": list(_MASKED),
            },
        }

    def _limits(self, memory_bytes: int) -> dict[str, Any]:
        """Arguments of `create_host_config`: what confines and bounds a container."""
        settings = self.settings
        disk = f"rw,exec,nosuid,nodev,size={settings.disk_mib}m,nr_inodes={settings.inodes}"
        return {
            "network_mode": "none",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges", f"seccomp={profile()}"],
            # The supervisor inside is a process too, and so is every thread.
            "pids_limit": settings.processes + 1,
            "mem_limit": memory_bytes,
            "memswap_limit": memory_bytes,
            "oom_score_adj": 900,
            "shm_size": min(SHM_MIB, settings.disk_mib) << 20,
            "ipc_mode": "private",
            "auto_remove": True,
            "tmpfs": {WORK: f"{disk},mode=700,uid={_USER},gid={_USER}", "/tmp": f"{disk},mode=1777"},  # noqa: S108 - inside
            "ulimits": [
                {"Name": name, "Soft": value, "Hard": value}
                for name, value in (
                    *(("core", 0), ("nofile", OPEN_FILES), ("fsize", settings.file_mib << 20)),
                    ("msgqueue", 0),
                )
            ],
        }

    def _built(self) -> str:
        """The name of the image, built where it is not there yet.

        Raises:
            SandboxError: No daemon answers, or it refuses to build.
        """
        with self._building:
            if self._image is None:
                with closing(connect(self.host)) as client:
                    self._image = _build(client)
        return self._image


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
            member.mode = 0o444 if kind == tarfile.REGTYPE else 0o1777 if name == "tmp" else 0o755
            archive.addfile(member, io.BytesIO(content))

        for path in folders:
            add(path, tarfile.DIRTYPE)
        for path, text in sorted(files.items()):
            add(path, tarfile.REGTYPE, content=text.encode())
        for target, path in links:
            add(path, tarfile.SYMTYPE, target=target)
    return out.getvalue()
