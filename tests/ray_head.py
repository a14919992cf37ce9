"""A Ray cluster of a test's own, as `ray start --head` makes one, on free ports and in its own folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[1]
CARRIED = ("raysmith.py", "orchestrator/", "actors/", "cluster/", "serve/", "configs/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A running cluster; `home` is RAYSMITH_HOME on it."""

    address: str
    dashboard: str
    home: Path
    folder: Path
    environ: Mapping[str, str]

    def outside(self, **more: str) -> dict[str, str]:
        """The environment of somebody who is not on the cluster."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RAYSMITH_"))
        }
        away = self.folder / "away"
        away.mkdir(exist_ok=True)
        mine = {"HOME": str(away), "RAYSMITH_HOME": str(away / "raysmith")}
        auth = {name: value for name, value in self.environ.items() if name.startswith("RAY_AUTH")}
        return {**kept, **mine, **auth, **more}


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def ray_head(num_cpus: int = 2, **environ: str) -> Iterator[Head]:
    """Start a head with a dashboard, and end everything that it started."""
    # Sockets lie below it, and their paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="rs-"))
    home = folder / "raysmith"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RAYSMITH_"))},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(folder),
        "RAYSMITH_HOME": str(home),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        **environ,
    }
    gcs, dashboard = free_port(), free_port()
    ports = [
        word
        for name in (
            "ray-client-server-port",
            "dashboard-agent-listen-port",
            "dashboard-agent-grpc-port",
            "metrics-export-port",
            "runtime-env-agent-port",
        )
        for word in (f"--{name}", str(free_port()))
    ]
    with (folder / "out").open("wb") as out:
        head = subprocess.Popen(
            [
                *(BIN / "ray", "start", "--head", "--block", f"--port={gcs}", *ports),
                *("--include-dashboard=true", f"--dashboard-port={dashboard}", "--disable-usage-stats"),
                *(
                    f"--num-cpus={num_cpus}",
                    f"--temp-dir={folder / 'ray'}",
                    "--object-store-memory=100000000",
                ),
            ],
            env=environment,
            start_new_session=True,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{dashboard}"
        _wait_for(head, url, folder / "out")
        yield Head(address=f"127.0.0.1:{gcs}", dashboard=url, home=home, folder=folder, environ=environment)
    finally:
        end_session(head)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(head: subprocess.Popen[bytes], url: str, out: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and head.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/api/version", timeout=2).close()
            return
        except urllib.error.HTTPError:
            return  # it asks for a token
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no Ray head came up: {out.read_text()[-2000:]}")


def end_session(head: subprocess.Popen[Any]) -> None:
    """End a process and whatever came of it: Ray's workers have groups of their own, but one session."""
    ours = _session_of(head.pid)
    head.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        head.wait(15)
    for pid in {*ours, *_session_of(head.pid)}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    head.wait(15)


def _session_of(leader: int) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader:
                    found.add(int(entry.name))
    return found


def checkout(folder: Path) -> Path:
    """This project as a user has it, with a mark in its code that the installed one does not have."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, names):
        if (ROOT / name).is_file() and name.startswith(CARRIED):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    main = (
        (folder / "raysmith.py")
        .read_text()
        .replace(
            'if __name__ == "__main__":',
            'if __name__ == "__main__":\n    print("the code of the working directory")',
        )
    )
    (folder / "raysmith.py").write_text(main)
    return folder


def alive(head: Head) -> dict[str, int]:
    """The factory's actors on the cluster and their processes."""
    code = (
        "import json, ray, sys\n"
        "from ray.util.state import list_actors\n"
        "ray.init(sys.argv[1], namespace='raysmith', log_to_driver=False)\n"
        "found = list_actors(sys.argv[2], filters=[('state', '=', 'ALIVE')], detail=True)\n"
        "print(json.dumps({actor.name: actor.pid for actor in found if actor.name}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, head.address, head.dashboard],
        env=dict(head.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
