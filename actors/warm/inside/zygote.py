"""The warm process of a sandbox: pytest and packages of the layer are loaded, each run is a fork of it.

Trusted; standard library and pytest only. It imports nothing of a task, and reads nothing that a task or
a run wrote: files, output and records pass by it as descriptors. All it learns of a run is how it ended.

On its channel, both ways: 4 bytes big-endian length, then JSON; descriptors come beside a request.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
import types
import warnings
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

_READY = b"ready\n"
_MOST_FDS = 8


def load(name: str) -> types.ModuleType:
    """A module that lies beside this file, under a name that no task has."""
    loader = SourceFileLoader(f"raysmith_{name}", str(Path(__file__).with_name(f"{name}.py")))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


class Missed:
    """A finder that finds nothing and keeps what nobody found: a workspace could have had it."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(self, name: str, path: Any = None, _target: Any = None) -> None:
        """See `importlib.abc.MetaPathFinder`."""
        if path is None:
            self.names.add(name)


class Zygote:
    """Answers one request at a time until its channel closes or nobody asks for `idle_s`."""

    def __init__(self, channel: socket.socket, isolation: types.ModuleType) -> None:
        self._channel = channel
        self._isolation = isolation
        self._setup = self._receive()[0]
        self._rules = isolation.Filter(bytes.fromhex(self._setup["filter"]))
        self._entries: dict[str, types.ModuleType] = {}

    def serve(self) -> None:
        """Load, tell what is loaded, then run what is asked."""
        missed = Missed()
        sys.meta_path.append(missed)
        odd = self._load()
        sys.meta_path.remove(missed)
        self._send(
            {
                "odd": odd,
                "threads": _count("/proc/self/task"),
                "files": _count("/proc/self/fd") - 1,
                "modules": sorted({name.partition(".")[0] for name in sys.modules}),
                "missed": sorted({name.partition(".")[0] for name in missed.names}),
            }
        )
        gc.collect()
        gc.freeze()
        while select.select([self._channel], [], [], self._setup["idle_s"])[0]:
            request, files = self._receive()
            if request.get("do") != "stop":  # what it was to stop has ended by itself
                self._send(self._run(request, files))

    # ---- loading

    def _load(self) -> dict[str, str]:
        """Import everything; modules whose import did more than define things, and what."""
        odd: dict[str, str] = {}
        for name in ("boot", *self._setup["entries"]):
            self._entries[name] = load(name)
        from _pytest.config import default_plugins

        for name in default_plugins:
            importlib.import_module(f"_pytest.{name}")
        for name in self._setup["preload"]:
            if name not in sys.modules and (what := _imported(name)):
                odd[name] = what
        load("rehearsal").rehearse(self._entries["reporter"])
        self._ahead = load("ahead").Ahead(self._entries["reporter"])
        self._before = load("before").Before(self._entries["reporter"])
        return odd

    # ---- running

    def _run(self, request: Mapping[str, Any], received: list[int]) -> dict[str, Any]:
        began = time.monotonic()
        null = os.open(os.devnull, os.O_RDWR)
        streams = [null if number is None else received[number] for number in request["files"]]

        def body() -> None:
            self._channel.detach()
            self._become(request)

        try:
            init = self._isolation.start(dict(enumerate(streams)), self._setup["limits"], self._rules, body)
        except OSError as error:
            return {"id": request["id"], "error": str(error)}
        finally:
            for fd in {*received, null}:
                os.close(fd)
        timeout_s = request["timeout_s"]
        end = self._watch(init, None if timeout_s is None else began + timeout_s)
        _, status, usage = os.wait4(init, 0)
        code = os.waitstatus_to_exitcode(status)
        return {
            "id": request["id"],
            "end": end,
            "exit_code": code if code >= 0 else 128 - code,
            "wall_s": time.monotonic() - began,
            "cpu_s": usage.ru_utime + usage.ru_stime,
        }

    def _watch(self, init: int, deadline: float | None) -> str:
        """Wait for the run's init, killing it at its time or when told to: its pid namespace goes with it."""
        gone = os.pidfd_open(init)
        end = ""
        try:
            while not end:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                ready = select.select([gone, self._channel.fileno()], [], [], left)[0]
                if gone in ready:
                    return "exited"
                if ready and self._receive()[0].get("do") != "stop":
                    raise SystemExit("a request while a run was going on")
                end = "killed" if ready else "timeout"
            signal.pidfd_send_signal(gone, signal.SIGKILL)
            return end
        finally:
            os.close(gone)

    def _become(self, request: Mapping[str, Any]) -> None:
        """In the fork: write the workspace, then be the process that a fresh sandbox would have started."""
        code = 1
        try:
            self._entries["boot"].unpack(self._isolation.WORK)
            os.environ.update(request["environment"])
            os.write(3, _READY)
            entry = self._entries[request["entry"]]
            if request["entry"] == "reporter":
                self._ahead.use()
                code = entry.run(self._before)
            else:
                entry.main()
                code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        _leave(code)

    # ---- the channel

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        head, files = b"", []
        while len(head) < 4:
            part, some, _, _ = socket.recv_fds(self._channel, 4 - len(head), _MOST_FDS)
            files += some
            head += part
            if not part:
                raise SystemExit(0)
        text = b""
        while len(text) < (size := int.from_bytes(head, "big")):
            part = self._channel.recv(size - len(text))
            if not part:
                raise SystemExit(0)
            text += part
        return json.loads(text), files

    def _send(self, value: Mapping[str, Any]) -> None:
        text = json.dumps(value).encode()
        self._channel.sendall(len(text).to_bytes(4, "big") + text)


def _imported(name: str) -> str:
    """Import a module; what that did beyond it, in words. One that cannot be imported is left out."""
    before = _surroundings()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        try:
            importlib.import_module(name)
        except BaseException:
            return ""
        if warnings.filters != filters:
            return "it changes the filters of warnings"
    if said:
        return f"it warns: {said[0].message}"[:300]
    if sys.gettrace() or sys.getprofile() or threading.active_count() > 1:
        return "it traces or starts threads"
    return (
        "" if before == _surroundings() else "it changes the environment, the path, the folder or the threads"
    )


def _surroundings() -> tuple[object, ...]:
    return dict(os.environ), list(sys.path), Path.cwd(), _count("/proc/self/task")


def _count(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def _leave(code: int) -> None:
    """End as an interpreter does, except for taking every object apart."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        code = code or 120
    finally:
        os._exit(code & 0xFF)


def main() -> None:
    """Serve the socket whose descriptor is in RAYSMITH_CHANNEL_FD."""
    fd = int(os.environ.pop("RAYSMITH_CHANNEL_FD"))
    os.set_inheritable(fd, False)
    isolation = load("isolation")
    isolation.prctl(isolation.PR_SET_DUMPABLE, 0)
    Zygote(socket.socket(fileno=fd), isolation).serve()


if __name__ == "__main__":
    main()
