"""pytest by `docker run`, in an image of nothing that the host's files are bound into."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

_SHARED = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")
# A container sees its own cgroup, of either version.
_CPU = (
    "echo CPU; if [ -e /sys/fs/cgroup/cpu.stat ]; then head -n 1 /sys/fs/cgroup/cpu.stat;"
    " else echo nanoseconds $(cat /sys/fs/cgroup/cpuacct/cpuacct.usage); fi"
)


def why_no_docker() -> str:
    """Why no daemon can be asked; empty when one answers."""
    try:
        asked = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return f"docker: {error}"
    return "" if asked.returncode == 0 else asked.stderr.strip().splitlines()[-1]


class DockerPytest:
    """An image of its own, removed by `close`."""

    def __init__(self, python: Path) -> None:
        self._python = python
        self._image = f"raysmith-verdict-{uuid.uuid4().hex[:12]}"
        # A tar archive of no files ends with two empty blocks.
        subprocess.run(
            ["docker", "import", "-", self._image], input=bytes(1024), capture_output=True, check=True
        )

    def run(self, folder: str) -> tuple[str, float]:
        """pytest on a folder: what it said, and the CPU seconds of the container."""
        base = self._python.resolve().parents[1]
        environment = self._python.parents[1]
        mounts = [path for path in (*_SHARED, str(base), str(environment)) if Path(path).exists()]
        command = ["docker", "run", "--rm", "--network", "none", "--cap-drop", "ALL", "--workdir", "/work"]
        for path in mounts:
            command += ["-v", f"{path}:{path}:ro"]
        command += ["-v", f"{folder}:/work", "--tmpfs", "/tmp", self._image]
        done = subprocess.run(
            [*command, "/bin/sh", "-c", f"{self._python} -m pytest -q; {_CPU}"],
            capture_output=True,
            text=True,
            check=False,
        )
        said, _, counted = done.stdout.rpartition("CPU\n")
        assert counted, done.stdout + done.stderr
        unit, number = counted.split()[-2:]
        return said, int(number) / (1e6 if unit == "usage_usec" else 1e9)

    def close(self) -> None:
        """Remove the image."""
        subprocess.run(["docker", "rmi", "-f", self._image], capture_output=True, check=False)
