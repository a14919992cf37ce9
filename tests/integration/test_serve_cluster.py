"""The application on a cluster that others started: `serve run`, then `serve deploy` of the shipped file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import yaml
from http_door import free_port, sleepy, tar_gz, until

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]

HOLD = """
import ray, sys, time
context = ray.init(address="local", include_dashboard=True, dashboard_port=int(sys.argv[1]), num_cpus=2,
    object_store_memory=256 * 2**20)
print(context.address_info["gcs_address"], flush=True)
time.sleep(3600)
"""


@dataclass
class Cluster:
    """A Ray cluster that knows nothing of Raysmith but its home."""

    address: str
    dashboard: str
    folder: Path
    environ: dict[str, str]

    def serve(self, *words: str) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("serve")), *words],
            env=self.environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "RAYSMITH_HOME": str(tmp_path / "home"),
        "RAY_AUTH_MODE": "disabled",
    }
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(port)],
        env=environ,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        yield Cluster(address, f"http://127.0.0.1:{port}", tmp_path, environ)
    finally:
        process.terminate()
        process.stdout.close()
        process.wait(60)


def answers(url: str, path: str = "/health/ready", **headers: str) -> int:
    try:
        return httpx2.get(url + path, headers=headers, timeout=20).status_code
    except httpx2.TransportError:
        return 0


def test_serve_run_and_serve_deploy_open_the_door_of_one_factory(cluster: Cluster) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    cluster.serve("start", "-a", cluster.address, "--http-host", "127.0.0.1", "--http-port", str(port))
    cluster.serve("run", "-a", cluster.address, "--non-blocking", "serve.app:app", "http.max_streams=64")
    # The factory is started by the ingress when somebody first asks.
    until(lambda: answers(url) == 200, 60)

    submitted = httpx2.post(
        f"{url}/runs", files={"archive": tar_gz(sleepy(0))}, data={"graph": "test"}, timeout=30
    )
    assert submitted.status_code == 202, submitted.text
    run = f"/runs/{submitted.json()['run_id']}"
    until(lambda: httpx2.get(url + run).json()["status"] == "succeeded", 60)

    cluster.serve("shutdown", "-y", "-a", cluster.dashboard)
    config = yaml.safe_load((ROOT / "configs/serve.yaml").read_text())
    port = free_port()
    config["http_options"]["port"] = port
    (cluster.folder / "serve.yaml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{port}"
    cluster.serve("deploy", "-a", cluster.dashboard, "serve.yaml")
    until(lambda: answers(url) == 200, 60)

    assert answers(url, run) == 401
    made = subprocess.run(
        [sys.executable, "-m", "raysmith", "keys", "create", "test", "--json"],
        env=cluster.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    key = yaml.safe_load(made.stdout)
    until(lambda: answers(url, run, Authorization=f"Bearer {key['key']}") == 200, 5)
    subprocess.run(
        [sys.executable, "-m", "raysmith", "keys", "revoke", key["id"]], env=cluster.environ, check=True
    )
    until(lambda: answers(url, run, Authorization=f"Bearer {key['key']}") == 401, 3)
    assert key["key"] not in "".join(
        file.read_text(errors="replace") for file in (cluster.folder / "home").glob("*.json")
    )
