"""A real `raysmith serve` in a process of its own, and what a client needs to talk to it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

BROKEN = {
    "calc.py": "def add(a, b):\n    return a - b\n",
    "test_calc.py": "from calc import add\n\ndef test_add():\n    assert (add(1, 2), add(5, 7)) == (3, 12)\n",
}
FIXED_LINE = "+    return a + b"


def sleepy(seconds: float) -> dict[str, str]:
    """A green package whose one test takes its time; for `graph=test`."""
    return {"test_slow.py": f"import time\n\n\ndef test_slow():\n    time.sleep({seconds})\n"}


def tar_gz(files: Mapping[str, str], **entries: tarfile.TarInfo) -> bytes:
    """Files as a tar.gz, with extra entries that have no content."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
        for info in entries.values():
            tar.addfile(info)
    return packed.getvalue()


def zipped(files: Mapping[str, str]) -> bytes:
    """Files as a zip."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for name, text in files.items():
            out.writestr(name, text)
    return packed.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """A tar entry of any kind."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Door:
    """One served factory; `process` ends with the block that opened it."""

    url: str
    home: Path
    process: subprocess.Popen[str]
    log: Path

    def client(self, **options: Any) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=60, **options)

    def submit(self, files: Mapping[str, str], *, key: str | None = None, **fields: str) -> str:
        headers = {"Idempotency-Key": key} if key else {}
        with self.client(headers=headers) as client:
            answer = client.post("/runs", files={"archive": ("a.tgz", tar_gz(files))}, data=fields)
        assert answer.status_code == 202, answer.text
        assert set(answer.json()) == {"ok", "run_id", "status"}
        run_id: str = answer.json()["run_id"]
        return run_id

    def run(self, run_id: str) -> dict[str, Any]:
        with self.client() as client:
            answer = client.get(f"/runs/{run_id}")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def ended(self, run_id: str, within_s: float = 90) -> dict[str, Any]:
        """The run once it is finished; refusals while something restarts are waited out."""
        found: dict[str, Any] = {}

        def is_over() -> bool:
            with self.client() as client, contextlib.suppress(httpx2.TransportError):
                answer = client.get(f"/runs/{run_id}")
                found.update(answer.json() if answer.status_code == 200 else {})
            return found.get("status") not in (None, "pending", "running")

        until(is_over, within_s)
        return found

    def owner_pid(self) -> int:
        pid: int = json.loads((self.home / "owner.json").read_text())["pid"]
        return pid

    def pids(self, title: str) -> list[int]:
        """Processes of this factory whose command line begins so."""
        mark = f"RAYSMITH_HOME={self.home}".encode()
        found = []
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if not process.name.isdigit() or not (process / "cmdline").read_bytes().startswith(
                    title.encode()
                ):
                    continue
                if mark in (process / "environ").read_bytes():
                    found.append(int(process.name))
        return found


@contextlib.contextmanager
def served(folder: Path, *arguments: str, **variables: str) -> Iterator[Door]:
    """`raysmith serve` on a free port, until the block ends."""
    port, home, log = free_port(), folder / "home", folder / "serve.log"
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "RAYSMITH_HOME": str(home),
        "RAY_AUTH_MODE": "disabled",
        **variables,
    }
    words = [sys.executable, "-m", "raysmith", "serve", "--port", str(port), "--json", *arguments]
    with log.open("w") as err:
        process = subprocess.Popen(
            words, env=environ, stdout=subprocess.PIPE, stderr=err, text=True, start_new_session=True
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        yield Door(url=json.loads(line)["url"], home=home, process=process, log=log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def until(holds: Callable[[], bool], within_s: float = 30) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.1)


def messages(lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Id and data of every server-sent event; comments are left out."""
    seq = 0
    for line in lines:
        if line.startswith("id: "):
            seq = int(line[4:])
        elif line.startswith("data: "):
            yield seq, json.loads(line[6:])


def follow(door: Door, run_id: str, within_s: float = 120) -> list[tuple[int, dict[str, Any]]]:
    """All events of a run as a patient client gets them: it resumes where its connection broke."""
    seen: list[tuple[int, dict[str, Any]]] = []
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        headers = {"Accept": "text/event-stream"}
        if seen:
            headers["Last-Event-ID"] = str(seen[-1][0])
        with contextlib.suppress(httpx2.TransportError), door.client(headers=headers) as client:
            with client.stream("GET", f"/runs/{run_id}/events") as answer:
                if answer.status_code == 204:
                    return seen
                if answer.status_code == 200:
                    seen.extend(messages(answer.iter_lines()))
        if seen and seen[-1][1]["type"] == "run_finished":
            return seen
        time.sleep(0.2)
    raise AssertionError(f"{run_id} did not end; seen {[each[1]['type'] for each in seen]}")
