"""pytest by `docker run`, in an image of nothing that the host's files are bound into."""

from __future__ import annotations

import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from orchestrator.tree import Tree

T = TypeVar("T")
_SHARED = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")


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

    def verdict(self, tree: Tree, cost: Callable[..., T]) -> T:
        """One verdict; of its CPU only the client's part can be seen from here."""
        began = time.perf_counter()
        base = self._python.resolve().parents[1]
        environment = self._python.parents[1]
        mounts = [path for path in (*_SHARED, str(base), str(environment)) if Path(path).exists()]
        with tempfile.TemporaryDirectory() as folder:
            for path, file in tree.files.items():
                place = Path(folder, path)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.content)
            command = [
                "docker",
                "run",
                "--rm",
                "--network",
                "none",
                "--cap-drop",
                "ALL",
                "--workdir",
                "/work",
            ]
            for path in mounts:
                command += ["-v", f"{path}:{path}:ro"]
            command += ["-v", f"{folder}:/work", "--tmpfs", "/tmp", self._image]
            done = subprocess.run(
                [*command, str(self._python), "-m", "pytest", "-q"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        return cost(wall_s=time.perf_counter() - began, cpu_s=float("nan"))

    def close(self) -> None:
        """Remove the image."""
        subprocess.run(["docker", "rmi", "-f", self._image], capture_output=True, check=False)
