"""The one process that owns a sandbox: it starts it, feeds it, bounds it and ends it.

It runs alone, with the standard library only and one thread, so that fork is safe. It ends the
sandbox when its own standard input ends, so that a killed owner leaves nothing; and it is the
parent of bubblewrap, so that killing it ends the sandbox too (--die-with-parent).

Standard input: 4 bytes length, JSON request, `payload` bytes for the sandbox; then silence.
Standard output: one JSON line when started, one when over, then output and records as told there.

It is also the first process inside a container, where it bounds nothing but time and output. There the
channel has no descriptor of its own (`framed`): its bytes follow the payload on standard input, and come
back between the lines, each piece behind one that says `channel` and its length.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from actors.sandbox.folders import remove_folder
from actors.sandbox.limits import (
    Group,
    Inherited,
    mounted_space,
    proportional_bytes,
    read_cpu,
    space,
    tree,
    tree_usage,
)
from actors.sandbox.staging import Refused, free_uid, reachable, reveal

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_LOW_FDS = 20
_POLL_S, _CHECK_S = 0.05, 0.25
_PIPE = 1 << 16


def main() -> None:
    """Serve one request and end."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    request = json.loads(exactly(int.from_bytes(exactly(4), "big")))
    payload = exactly(request["payload"])
    try:
        report, output, records = Supervisor(request, payload).run()
    except (Refused, OSError) as error:
        report, output, records = {"error": str(error)}, b"", b""
    report |= {"output": len(output), "records": len(records)}
    with contextlib.suppress(BrokenPipeError):
        tell(report, output, records)


def exactly(count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = os.read(0, min(count - len(data), 1 << 20))
        if not part:
            raise SystemExit(0)
        data += part
    return bytes(data)


def tell(report: dict[str, Any], *parts: bytes) -> None:
    data = b"".join([json.dumps(report).encode(), b"\n", *parts])
    while data:
        data = data[os.write(1, data) :]


class Supervisor:
    """One sandbox, from its first process to the last one reaped."""

    def __init__(self, request: dict[str, Any], payload: bytes) -> None:
        self.request = request
        self.payload = memoryview(payload)
        self.output, self.records = bytearray(), bytearray()
        self.selector = selectors.DefaultSelector()
        self.group: Group | None = None
        self.init: int | None = None
        self.init_fd: int | None = None
        self.stream: int | None = None
        self.inwards = bytearray()
        self.cpu_before = 0.0
        self.why = ""
        self.end = "exited"
        self.peak = 0
        self.exit_status: int | None = None
        self.owner = os.getppid()
        self.uid = self._other_user()

    def run(self) -> tuple[dict[str, Any], bytes, bytes]:
        """Start, watch, end, measure."""
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        if self.request["framed"]:
            # Whoever shares its user id may not read its memory, nor write to its standard output.
            _prctl(_PR_SET_DUMPABLE, 0)
            self.group = Inherited.found()
            self.cpu_before = read_cpu(self.group.cpu_file) if self.group else 0.0
        elif not self.request["polled"]:
            self.group = Group.create(self.request["memory_bytes"], self.request["processes"])
        try:
            begin = time.monotonic()
            self._start()
            self._watch(begin + self.request["timeout_s"] if self.request["timeout_s"] else None)
            wall_s = time.monotonic() - begin
            self._end()
            return self._report(wall_s), bytes(self.output), bytes(self.records)
        finally:
            self._end()
            if self.group:
                self.group.remove()
            if "folder" in self.request:
                remove_folder(self.request["folder"])

    # ---- start

    def _start(self) -> None:
        input_read, self.input = _pipe()
        output_read, output = _pipe()
        records_read, records = _pipe()
        info_read, info = _pipe()
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.input, fcntl.F_SETPIPE_SZ, 1 << 20)
        low = {0: input_read, 1: output, 2: output, 3: records}
        if self.request["framed"] and self.request["channel"] is not None:
            self.stream, theirs = (_high(end.detach()) for end in socket.socketpair())
            low[4] = theirs
        elif self.request["channel"] is not None:
            low[4] = _high(self.request["channel"])
        command, kept = self._command(info)
        self.child = os.fork()
        if self.child == 0:
            self._become(command, low, kept)
        for fd in {*low.values(), *kept}:
            os.close(fd)
        self._listen(output_read, records_read, info_read)

    def _command(self, info: int) -> tuple[list[str], list[int]]:
        """What to execute and the descriptors it needs above the low ones."""
        if self.request["plain"]:
            self.init = None
            os.close(info)
            return self.request["argv"], []
        sources = reachable(self.request["mounts"])
        kept, args = [info], ["--info-fd", str(info)]
        seccomp = _memory(bytes.fromhex(self.request["seccomp"]))
        kept.append(seccomp)
        args += ["--seccomp", str(seccomp), *self.request["before"]]
        for source, target in sources:
            args += ["--ro-bind", source, target]
        for target, text in self.request["files"].items():
            kept.append(_memory(text.encode()))
            args += ["--perms", "0444", "--file", str(kept[-1]), target]
        args += self.request["after"]
        kept.append(_memory(b"".join(arg.encode() + b"\0" for arg in args)))
        return [self.request["bwrap"], "--args", str(kept[-1]), "--", *self.request["argv"]], kept

    def _other_user(self) -> int | None:
        """As root the user id to drop to, who is given the folders that the sandbox writes."""
        if os.geteuid() != 0 or (self.request["plain"] and not self.request["own"]):
            return None
        uid = free_uid()
        if own := self.request.get("own"):
            for folder in own:
                os.chown(folder, uid, uid)
            reveal([*(source for source, _ in self.request["mounts"]), own[0]])
        return uid

    def _become(self, command: list[str], low: dict[int, int], kept: list[int]) -> None:
        """In the child: join the group, drop to nobody in particular, execute. Never returns."""
        try:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _prctl(_PR_SET_DUMPABLE, 1)
            if self.group:
                self.group.join()
            Path("/proc/self/oom_score_adj").write_text("1000")
            for number, fd in low.items():
                os.dup2(fd, number)
            for fd in kept:
                os.set_inheritable(fd, True)
            if self.uid is not None:
                uid = self.uid
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            # Ray starts its processes with SIGINT blocked, and a suite may send it to itself.
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.chdir("/")
            os.execve(command[0], command, self.request["environment"])  # noqa: S606 - it becomes bwrap
        except BaseException as error:
            os.write(2, f"supervisor: {error}\n".encode())
        finally:
            os._exit(127)

    # ---- watch

    def _listen(self, output: int, records: int, info: int) -> None:
        for fd in (0, self.input, output, records, info):
            os.set_blocking(fd, False)
        self.info, self.info_text = info, b""
        self.selector.register(0, selectors.EVENT_READ, self._owner_gone)
        self.selector.register(self.input, selectors.EVENT_WRITE, self._feed)
        self.selector.register(output, selectors.EVENT_READ, self._take_output)
        self.selector.register(records, selectors.EVENT_READ, self._take_records)
        self.selector.register(info, selectors.EVENT_READ, self._take_info)
        if self.stream is not None:
            os.set_blocking(self.stream, False)
            self.selector.register(self.stream, selectors.EVENT_READ, self._carry)
        self.exit_fd = _ending(self.child)
        self.selector.register(self.exit_fd, selectors.EVENT_READ, self._exited)
        if self.request["plain"]:
            self._started(self.child)

    def _watch(self, deadline: float | None) -> None:
        self.over = False
        polled = self.group is None
        next_look = next_check = 0.0
        while not self.over:
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return self._stop("timeout")
            if os.getppid() != self.owner:
                return self._stop("killed")
            if polled and now >= next_look:
                next_look = now + _POLL_S
                self._look()
            if now >= next_check:
                self._check()
                # A slow look at a full folder must not become all that is done.
                next_check = now + max(_CHECK_S, 4 * (time.monotonic() - now))
            waits = min(_POLL_S if polled else _CHECK_S, max(0.0, deadline - now) if deadline else _CHECK_S)
            for key, _ in self.selector.select(waits):
                if not self.over:
                    key.data(key.fd)
        return None

    def _stop(self, end: str, why: str = "") -> None:
        self.end, self.over, self.why = end, True, why

    def _owner_gone(self, fd: int) -> None:
        data = _read(fd)
        if data == b"":
            self._stop("killed")
        elif data and self.stream is not None:
            self.inwards += data
            self.selector.modify(self.stream, selectors.EVENT_READ | selectors.EVENT_WRITE, self._carry)

    def _carry(self, fd: int) -> None:
        """The channel of a container: both directions as far as they go without waiting."""
        if self.inwards:
            with contextlib.suppress(OSError):
                del self.inwards[: os.write(fd, self.inwards[:_PIPE])]
        if (data := _read(fd)) == b"":
            self.selector.unregister(fd)
            self.stream = None
            return
        if data:
            tell({"channel": len(data)}, data)
        waits = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.inwards else 0)
        self.selector.modify(fd, waits, self._carry)

    def _feed(self, fd: int) -> None:
        try:
            self.payload = self.payload[os.write(fd, self.payload[:_PIPE]) :]
        except BlockingIOError:
            return
        except OSError:
            self.payload = self.payload[:0]
        if not self.payload:
            self.selector.unregister(fd)
            os.close(fd)

    def _take_output(self, fd: int) -> None:
        self._take(fd, self.output, self.request["output_bytes"])

    def _take_records(self, fd: int) -> None:
        self._take(fd, self.records, self.request["record_bytes"])

    def _take(self, fd: int, into: bytearray, most: int) -> None:
        data = _read(fd)
        if not data:
            self.selector.unregister(fd)
            os.close(fd)
        into += data or b""
        if len(into) > most:
            del into[most:]
            self._stop("output_limit")

    def _take_info(self, fd: int) -> None:
        data = _read(fd)
        self.info_text += data or b""
        if data:
            with contextlib.suppress(ValueError):
                self._started(json.loads(self.info_text)["child-pid"])
            return
        self.selector.unregister(fd)
        os.close(fd)

    def _started(self, pid: int) -> None:
        self.init = pid
        with contextlib.suppress(OSError):
            self.init_fd = os.pidfd_open(pid)
        cpu_file = self.group.cpu_file if self.group else None
        with contextlib.suppress(BrokenPipeError):
            tell({"pid": pid, "cpu": cpu_file})

    def _exited(self, fd: int) -> None:
        pid, status = os.waitpid(self.child, os.WNOHANG)
        if pid == 0:
            _read(fd)
            return
        self.exit_status = status
        self._stop("exited")

    def _look(self) -> None:
        """Without a cgroup: what the tree holds now, and an end to it when that is too much."""
        if self.init is None:
            return
        resident, threads, _ = tree_usage(self.init)
        files = 0 if self.request["plain"] else sum(held for held, _ in self._spaces())
        if resident + files > self.request["memory_bytes"]:
            exact = proportional_bytes(self.init)
            resident = resident if exact is None else exact
        resident += files
        self.peak = max(self.peak, resident)
        if resident > self.request["memory_bytes"]:
            self._stop("out_of_memory")
        elif threads > self.request["processes"] + 8:
            self._stop("killed")

    def _check(self) -> None:
        """What nothing else bounds: CPU time, inodes, and disk where folders have no size of their own."""
        if self.init is None:
            return None
        used = read_cpu(self.group.cpu_file) - self.cpu_before if self.group else tree_usage(self.init)[2]
        if used > self.request["cpu_s"]:
            return self._stop("timeout", f"ended after {self.request['cpu_s']:g} s of CPU time")
        for held, inodes in self._spaces():
            if inodes > self.request["inodes"]:
                return self._stop("killed", f"ended for more than {self.request['inodes']} files in a folder")
            if held > self.request["disk_bytes"] and self.request["plain"]:
                mib = self.request["disk_bytes"] >> 20
                return self._stop("killed", f"ended for more than {mib} MiB in a folder")
        return None

    def _spaces(self) -> list[tuple[int, int]]:
        """Bytes and inodes in each place that the sandbox writes."""
        if self.request["plain"]:
            return [space(path, self.request["inodes"]) for path in self.request["spaces"]]
        return [mounted_space(f"/proc/{self.init}/root{path}") for path in self.request["spaces"]]

    # ---- end

    def _end(self) -> None:
        """Kill whatever is left and reap it; harmless when nothing is."""
        if self.init_fd is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.init_fd, signal.SIGKILL)
        if self.group:
            self.group.kill()
        self._reap()
        for key in list(self.selector.get_map().values()):
            if key.data in (self._take_output, self._take_records):
                self._drain(key.fd, self.output if key.data == self._take_output else self.records)
            self.selector.unregister(key.fd)
        if self.why:
            note = f"\nraysmith: {self.why}\n".encode()
            self.output[self.request["output_bytes"] - len(note) :] = note
            self.why = ""

    def _drain(self, fd: int, into: bytearray) -> None:
        most = self.request["output_bytes" if into is self.output else "record_bytes"]
        while len(into) < most and (data := _read(fd)):
            into += data
        del into[most:]

    def _reap(self) -> None:
        """As subreaper every orphan of the sandbox is our child: kill until there is none."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == getattr(self, "child", None) and self.exit_status is None:
                self.exit_status = status
            if pid == 0:
                for member in tree(os.getpid())[1:]:
                    with contextlib.suppress(OSError):
                        os.kill(member, signal.SIGKILL)
                time.sleep(0.002)

    def _report(self, wall_s: float) -> dict[str, Any]:
        usage = _children()
        report: dict[str, Any] = {
            "end": self.end,
            "exit_code": None,
            "wall_s": wall_s,
            "cpu_s": usage,
            "peak_bytes": self.peak,
            "memory": "polled" if self.group is None else self.group.kind,
        }
        if self.end == "exited" and self.exit_status is not None:
            code = os.waitstatus_to_exitcode(self.exit_status)
            report["exit_code"] = code if code >= 0 else 128 - code
        if self.group:
            with contextlib.suppress(OSError, ValueError):
                report["cpu_s"] = read_cpu(self.group.cpu_file) - self.cpu_before
            report["peak_bytes"] = self.group.peak_bytes()
            if self.group.out_of_memory() and report["exit_code"] != 0:
                report |= {"end": "out_of_memory", "exit_code": None}
        return report


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _read(fd: int) -> bytes | None:
    """What is there: None when nothing yet, empty at the end."""
    try:
        return os.read(fd, _PIPE)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _ending(pid: int) -> int:
    """Can be read when `pid` has ended; where the kernel has no pidfds, as gVisor, when any child has."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
    read, write = _pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write)
    os.write(write, b"\0")  # it may have ended before anybody listened
    return read


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    return _high(read), _high(write)


def _high(fd: int) -> int:
    """The same file above the descriptors that the sandbox's process gets."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOW_FDS)
    os.close(fd)
    return moved


def _memory(content: bytes) -> int:
    fd = _high(os.memfd_create("raysmith", os.MFD_CLOEXEC))
    while content:
        content = content[os.write(fd, content) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit("start it through actors/sandbox/process.py")
