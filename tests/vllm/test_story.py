"""The `/add` story on the real engine: inside the actors, and behind vLLM's OpenAI server.

The model was taught this story. That proves plumbing, and nothing of what a model can do.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from stories import GOAL
from tiny import SERVED

ROOT = Path(__file__).parents[2]
SECRET = "sk-tiny-0123456789abcdef"
# One group as on GPUs: all agents that write share the engine of their replica.
FLEET = [
    {
        "name": "models",
        "roles": ["code", "test", "repair"],
        "min_replicas": 1,
        "num_cpus": 0.2,
        "max_in_flight": 4,
        "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
    },
    {"name": "runners", "roles": ["run"], "min_replicas": 2, "max_replicas": 2, "num_cpus": 0.2},
]


def configuration(folder: Path, *, engine: str | None) -> Path:
    fleet = [{**FLEET[0], "engine": engine}, FLEET[1]]
    settings = {
        "fleet": fleet,
        "sampling": {"temperature": 0.0},
        # The search finds this bug too; here the model is to mend it.
        "budget": {"search_cpu_s": 0.01},
        "vllm": {"args": SERVED},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def run_story(home: Path, config: Path, model: str, **environment: str) -> dict[str, Any]:
    words = [
        sys.executable,
        "-m",
        "raysmith",
        "run",
        GOAL,
        "--model",
        model,
        "--config",
        str(config),
        "--json",
    ]
    done = subprocess.run(
        words,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "RAYSMITH_HOME": str(home), **environment},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def living(marker: str) -> list[str]:
    """Processes whose environment holds `marker`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if marker.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def check(result: dict[str, Any]) -> None:
    assert (result["status"], result["reason"]) == ("succeeded", "certified")
    assert result["repairer"] == "model"
    assert result["files"] == ["app.py", "test_app.py"]
    assert "round(total) if do_round else total" in result["diff"]
    assert result["tokens"]["prompt"] > 500
    assert result["tokens"]["completion"] > 300


def test_the_story_is_certified_on_the_engine_inside_the_actors(tiny_model: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"

    result = run_story(home, configuration(tmp_path, engine="vllm"), f"vllm:{tiny_model}")

    check(result)
    until = time.monotonic() + 30
    while left := [words for words in living(f"RAYSMITH_HOME={home}") if "VLLM" in words]:
        assert time.monotonic() < until, left
        time.sleep(0.2)


@pytest.fixture
def served(tiny_model: Path, tmp_path: Path) -> Iterator[str]:
    """The address of vLLM's own server. (`vllm serve` itself asks for metadata that the CPU build lacks.)"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model)]
    words += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny", "--api-key", SECRET]
    words += ["--max-model-len", "4096", "--enforce-eager", "--dtype", "float32"]
    words += ["--enable-prompt-tokens-details"]
    with (tmp_path / "serve.log").open("w") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, tmp_path / "serve.log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path, within_s: float = 300.0) -> None:
    until = time.monotonic() + within_s
    while True:
        assert server.poll() is None and time.monotonic() < until, log.read_text()[-4000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.5)


def test_the_story_is_certified_through_a_vllm_server(served: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    config = configuration(tmp_path, engine=None)

    result = run_story(home, config, f"{served}#tiny", RAYSMITH_ENDPOINT_KEY=SECRET)

    check(result)
    written = [file for file in home.rglob("*") if file.is_file()]
    assert written
    assert [file for file in written if SECRET.encode() in file.read_bytes()] == []
