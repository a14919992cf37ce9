"""The process that owns one container: it creates and feeds it, and ends it when its own owner is gone.

It speaks the supervisor's language to its owner; inside, the supervisor itself is the container's first
process. Killing the bridge closes the container's standard input, and with it the container.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.sandbox.containers import connect
from actors.sandbox.limits import ROOT, started
from actors.sandbox.process import READY
from actors.sandbox.supervisor import exactly, tell
from orchestrator.errors import SandboxError

if TYPE_CHECKING:
    from docker import APIClient

_LABEL, _PLACE = "raysmith.owner", "raysmith.place"
_GRACE_S = 15.0
_TOLD_WITHIN_S = 4
_PIECE = 1 << 16
_STDOUT = 1
_OUT_OF_MEMORY = {
    "end": "out_of_memory",
    **{"exit_code": None, "wall_s": 0.0, "cpu_s": 0.0, "peak_bytes": 0, "memory": "container"},
    **{"output": 0, "records": len(READY)},
}


def main() -> None:
    """Serve one request and end."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    request = json.loads(exactly(int.from_bytes(exactly(4), "big")))
    payload = exactly(request["payload"])
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        Bridge(request).run(payload)
    except (SandboxError, DockerException, RequestException, OSError) as error:
        tell({"error": str(error), "output": 0, "records": 0})


class Bridge:
    """One container, from its creation to its end."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.asked = request.pop("container")
        self.request = request
        self.client: APIClient = connect(self.asked["host"])
        self.channel = None if request["channel"] is None else socket.socket(fileno=request["channel"])
        self.told = bytearray()
        self.frames = bytearray()
        self.over = self.reported = False
        self.began = int(time.time())

    def run(self, payload: bytes) -> None:
        """Create, feed, carry, remove."""
        _sweep(self.client)
        container = self._create()
        try:
            for place, archive in self.asked["volumes"].items():
                self.client.put_archive(container, place, bytes.fromhex(archive))
            self.pipe = self._attach(container)
            self.client.start(container)
            self.cgroup = _cpu_file(self.client.inspect_container(container)["State"]["Pid"])
            request = {**self.request, "channel": None if self.channel is None else 0}
            text = json.dumps(request).encode()
            self.pipe.sendall(len(text).to_bytes(4, "big") + text + payload)
            self._carry()
            if not self.reported and self._was_out_of_memory(container):
                tell(_OUT_OF_MEMORY, READY)
        finally:
            self._remove(container)
            self.client.close()

    def _create(self) -> str:
        from docker.types import Mount, Ulimit

        limits = self.asked["limits"]
        limits["ulimits"] = [Ulimit(**each) for each in limits["ulimits"]]
        mounts = [
            Mount(target, source, type="bind", read_only=True) for source, target in self.asked["mounts"]
        ]
        config = self.client.create_host_config(**limits, mounts=mounts)
        config["MaskedPaths"] = self.asked["masked"]
        labels = {_PLACE: _place(), _LABEL: f"{os.getpid()}-{started(os.getpid())}"}
        made: dict[str, str] = self.client.create_container(
            **self.asked["create"], labels=labels, host_config=config
        )
        return made["Id"]

    def _attach(self, container: str) -> socket.socket:
        attached = self.client.attach_socket(
            container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        )
        pipe: socket.socket = getattr(attached, "_sock", attached)
        pipe.settimeout(None)
        return pipe

    def _was_out_of_memory(self, container: str) -> bool:
        """Whether the container was killed whole for its memory, as one with a kernel of its own is."""
        until = int(time.time()) + _TOLD_WITHIN_S
        events = self.client.events(
            since=self.began, until=until, filters={"container": container, "event": "oom"}, decode=True
        )
        return any(True for _ in events)

    def _remove(self, container: str) -> None:
        from docker.errors import APIError

        # It removes itself once its process is gone, so both may happen at once.
        with contextlib.suppress(APIError):
            self.client.remove_container(container, force=True, v=True)

    def _carry(self) -> None:
        """Until the container or the owner is gone, or the time of both is up."""
        selector = selectors.DefaultSelector()
        selector.register(0, selectors.EVENT_READ, self._owner)
        selector.register(self.pipe, selectors.EVENT_READ, self._inside)
        if self.channel is not None:
            selector.register(self.channel, selectors.EVENT_READ, self._outside)
        timeout = self.request["timeout_s"]
        deadline = time.monotonic() + timeout + _GRACE_S if timeout else None
        while not self.over:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise SandboxError("the container did not end at its time limit")
            for key, _ in selector.select(left):
                if not self.over and not key.data():
                    selector.unregister(key.fileobj)

    def _owner(self) -> bool:
        """The owner says nothing; its end is the sandbox's, which then tells what it left."""
        if os.read(0, _PIECE):
            return True
        self.pipe.shutdown(socket.SHUT_WR)
        return False

    def _outside(self) -> bool:
        assert self.channel is not None
        data = self.channel.recv(_PIECE)
        if data:
            self.pipe.sendall(data)
        return bool(data)

    def _inside(self) -> bool:
        """Take the runtime's frames apart: 1 byte stream, 3 unused, 4 length, content."""
        data = self.pipe.recv(_PIECE)
        self.frames += data
        while len(self.frames) >= 8:
            size = int.from_bytes(self.frames[4:8], "big")
            if len(self.frames) < 8 + size:
                break
            content = bytes(self.frames[8 : 8 + size])
            if self.frames[0] == _STDOUT:
                self.told += content
            else:
                os.write(2, content)
            del self.frames[: 8 + size]
        self._pass_on()
        self.over = self.over or not data
        return bool(data)

    def _pass_on(self) -> None:
        """Hand on what is whole of what the supervisor inside told."""
        while b"\n" in self.told:
            end = self.told.index(b"\n") + 1
            line = json.loads(self.told[:end])
            size = line.get("channel", 0) + line.get("output", 0) + line.get("records", 0)
            if len(self.told) < end + size:
                return
            content = bytes(self.told[end : end + size])
            del self.told[: end + size]
            if "channel" in line:
                with contextlib.suppress(OSError):
                    if self.channel is not None:
                        self.channel.sendall(content)
            elif "pid" in line:
                tell({"pid": os.getpid(), "cpu": self.cgroup})
            else:
                tell(line, content)
                self.over = self.reported = True


def _cpu_file(pid: int) -> str | None:
    """Where the host shows a container's CPU time; None where it does not."""
    with contextlib.suppress(OSError):
        for line in open(f"/proc/{pid}/cgroup").read().splitlines():  # noqa: PTH123, SIM115 - one read
            _, names, path = line.split(":", 2)
            if "cpuacct" in names.split(","):
                return str(ROOT / "cpuacct" / path.lstrip("/") / "cpuacct.usage")
            if names == "" and (ROOT / "cgroup.controllers").exists():
                return str(ROOT / path.lstrip("/") / "cpu.stat")
    return None


def _place() -> str:
    """Where a process id means what it means here: this boot of this machine, this pid namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}-{Path('/proc/self/ns/pid').readlink()}"


def _sweep(client: APIClient) -> None:
    """Remove containers whose owner is gone: created, and killed before they were started."""
    from docker.errors import APIError

    for container in client.containers(all=True, filters={"label": f"{_PLACE}={_place()}"}):
        pid, _, birth = container["Labels"][_LABEL].partition("-")
        if pid.isdigit() and started(int(pid)) != birth:
            with contextlib.suppress(APIError):
                client.remove_container(container["Id"], force=True, v=True)


if __name__ == "__main__":
    sys.exit("start it through actors/sandbox/process.py")
