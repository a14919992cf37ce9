"""The shell worker: started as `python -I -B inside.py` in the work folder of a sandbox.

It runs one command at a time, ends whatever the command leaves behind, and tells which files changed. It
serves the UNIX stream socket whose descriptor is in RAYSMITH_CHANNEL_FD: 4 bytes length, JSON, both ways.
Standard library only, Python 3.9 or later. Commands run as the same user: one may kill this process, and
nothing that it says is to be trusted.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

# It ends every process that it may signal, so it must never serve outside of a sandbox of its own.
HOME = "/trusted"
_ARGUMENT = 100_000
_READ = 1 << 16
_REAP_S = 5.0
_GIT_S = 20.0
_GIT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "raysmith",
    "GIT_AUTHOR_EMAIL": "raysmith@localhost",
    "GIT_COMMITTER_NAME": "raysmith",
    "GIT_COMMITTER_EMAIL": "raysmith@localhost",
}
_QUIET = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "GIT_TERMINAL_PROMPT": "0",
}


class Output:
    """The head and the tail of what a command prints, and how much it was."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.head, self.tail, self.length = bytearray(), bytearray(), 0

    def add(self, data: bytes) -> None:
        self.length += len(data)
        room = self.most - len(self.head)
        self.head += data[:room]
        self.tail += data[room:] if room > 0 else data
        if len(self.tail) > 2 * self.most:
            del self.tail[: -self.most]

    def told(self) -> dict[str, Any]:
        tail = bytes(self.tail[-self.most :])
        return {
            "head": self.head.decode("utf-8", "replace"),
            "tail": tail.decode("utf-8", "replace"),
            "left_out": self.length - len(self.head) - len(tail),
        }


class Work:
    """The work folder, and what the other side knows of it."""

    def __init__(self, root: str, skip: list[str], most: dict[str, int]) -> None:
        self.root = root
        self.skip = frozenset(skip)
        self.most = most
        # Path to stat and to mode with digest, as the other side has them.
        self.known: dict[str, tuple[Any, Any]] = {}
        for path, status in self._found()[0].items():
            content = _content(self._at(path), status, 1 << 40)
            self.known[path] = (_key(status), _version(status, content or b""))
        self.base = frozenset(self.known)

    def changes(self) -> dict[str, Any]:
        """What changed since the last call: contents by path, None for what went."""
        found, overflow = self._found()
        if overflow:
            return {"changed": {}, "large": [], "overflow": True}
        changed: dict[str, Any] = {}
        large, left = [], self.most["bytes"]
        for path, status in self._looked_at(found).items():
            content = _content(self._at(path), status, min(left, self.most["file"]))
            if content is None:
                large.append(path)
                continue
            version = _version(status, content)
            if path not in self.known or self.known[path][1] != version:
                left -= len(content)
                changed[path] = {"mode": version[0], "content": base64.b64encode(content).decode()}
            self.known[path] = (_key(status), version)
        for path in [path for path in self.known if path not in found]:
            del self.known[path]
            changed[path] = None
        return {"changed": changed, "large": large, "overflow": False}

    def _looked_at(self, found: dict[str, os.stat_result]) -> dict[str, os.stat_result]:
        """What may have changed, and what is new and not ignored."""
        new = self._not_ignored([path for path in found if path not in self.known])
        return {
            path: status
            for path, status in found.items()
            if (path in new or path in self.known)
            and (path not in self.known or self.known[path][0] != _key(status))
        }

    def _found(self) -> tuple[dict[str, os.stat_result], bool]:
        """Files and links by path, and whether there are too many to look at."""
        found: dict[str, os.stat_result] = {}
        waiting, seen = [""], 0
        while waiting:
            at = waiting.pop()
            for entry in _entries(self._at(at)):
                seen += 1
                if seen > self.most["entries"] or at.count("/") > self.most["depth"]:
                    return {}, True
                if entry.name in self.skip or entry.name.endswith((".pyc", ".pyo")):
                    continue
                path = f"{at}/{entry.name}" if at else entry.name
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(path)
                    elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                        found[path] = status
        return found, False

    def _not_ignored(self, paths: list[str]) -> set[str]:
        """Those of `paths` that the repository's .gitignore does not name; all where git cannot say."""
        if not paths:
            return set()
        asked = b"\0".join(os.fsencode(path) for path in paths)
        done = _git(self.root, "check-ignore", "-z", "--stdin", stdin=asked)
        if done is None or done.returncode not in (0, 1):
            return set(paths)
        return set(paths) - {os.fsdecode(path) for path in done.stdout.split(b"\0")}

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"


def _version(status: os.stat_result, content: bytes) -> tuple[str, bytes]:
    if stat.S_ISLNK(status.st_mode):
        mode = "link"
    else:
        mode = "executable" if status.st_mode & stat.S_IXUSR else "file"
    return mode, hashlib.sha256(content).digest()


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        with contextlib.suppress(OSError):
            Path(folder).chmod(0o755)
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        return []
    except OSError:
        return []


def _key(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)


def _content(path: str, status: os.stat_result, most: int) -> bytes | None:
    """The bytes at `path`; None for what is larger than `most` or cannot be read."""
    try:
        if stat.S_ISLNK(status.st_mode):
            return os.fsencode(Path(path).readlink())
        if status.st_size > most:
            return None
        if not status.st_mode & stat.S_IRUSR:
            Path(path).chmod(0o644)
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            content = file.read(min(most, status.st_size) + 1)
    except OSError:
        return None
    return content if len(content) <= most else None


def _git(root: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes] | None:
    """A git command that has ended, None where there is none or it hung."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", *arguments]
    try:
        return subprocess.run(
            command,
            cwd=root,
            env={**os.environ, **_QUIET, **_GIT},
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_GIT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None


def commit(root: str) -> bool:
    """Make the work folder a repository with one commit, so that `git diff` works in it."""
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--allow-empty", "-m", "base"]):
        done = _git(root, *arguments)
        if done is None or done.returncode != 0:
            shutil.rmtree(f"{root}/.git", ignore_errors=True)
            return False
    return True


def run(command: str, timeout_s: float, keep: int, flood: int) -> dict[str, Any]:
    """Run `command` by a shell of its own and end whatever it leaves."""
    output = Output(keep)
    try:
        process = _started(command)
    except (OSError, ValueError) as error:
        output.add(f"the shell cannot be started: {error}\n".encode())
        return {"exit_code": None, "end": "exited", **output.told()}
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    end = _watched(process, pipe, output, time.monotonic() + timeout_s, flood)
    end_all()
    code = process.wait()
    if end == "exited":
        _drain(pipe, output)
    process.stdout.close()
    exit_code = (code if code >= 0 else 128 - code) if end == "exited" else None
    return {"exit_code": exit_code, "end": end, **output.told()}


def _started(command: str) -> subprocess.Popen[bytes]:
    shell = shutil.which("bash") or "/bin/sh"
    options = ["--noprofile", "--norc"] if shell.endswith("bash") else []
    script = None
    if len(command.encode("utf-8", "replace")) < _ARGUMENT:
        argv = [shell, *options, "-c", command]
    else:
        # One argument of a process holds 128 KiB; a file written by heredoc may be longer.
        script = os.memfd_create("command")
        with os.fdopen(os.dup(script), "wb") as file:
            file.write(command.encode("utf-8", "replace"))
        argv = [shell, *options, f"/proc/self/fd/{script}"]
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=() if script is None else (script,),
            env={**os.environ, **_QUIET},
        )
    finally:
        if script is not None:
            os.close(script)


def _watched(process: subprocess.Popen[bytes], pipe: int, output: Output, deadline: float, flood: int) -> str:
    """Take what it prints until its shell has ended or a limit is reached."""
    os.set_blocking(pipe, False)
    ended = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    return "timeout"
                for key, _ in selector.select(left):
                    if key.fd == ended:
                        return "exited"
                    data = _read(pipe)
                    if data == b"":
                        selector.unregister(pipe)
                    output.add(data or b"")
                if output.length > flood:
                    return "flood"
    finally:
        os.close(ended)


def _drain(pipe: int, output: Output) -> None:
    """What is left in the pipe of processes that are all gone."""
    while data := _read(pipe):
        output.add(data)


def _read(fd: int) -> bytes | None:
    try:
        return os.read(fd, _READ)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def end_all() -> None:
    """Kill every other process of the sandbox until none is left."""
    deadline = time.monotonic() + _REAP_S
    while time.monotonic() < deadline:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
        with contextlib.suppress(ChildProcessError):
            # Without reaping: the exit code is Popen's to read.
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if _only_zombies():
            return
        time.sleep(0.002)


def _only_zombies() -> bool:
    """Whether all that is left has ended and waits for its parent to look."""
    own = {"1", str(os.getpid())}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and process.name not in own:
            try:
                state = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            except (OSError, IndexError):
                continue
            if state not in ("Z", "X"):
                return False
    return True


def serve(channel: socket.socket) -> None:
    """Answer until the channel closes."""
    work = None
    while True:
        size = int.from_bytes(_exactly(channel, 4), "big")
        request = json.loads(_exactly(channel, size))
        asked = request["arguments"]
        try:
            if request["method"] == "start":
                work = Work(str(Path.cwd()), asked["skip"], asked["most"])
                result: dict[str, Any] = {"git": commit(work.root)}
            elif request["method"] == "run" and work is not None:
                result = run(asked["command"], asked["timeout_s"], asked["keep"], asked["flood"])
                result.update(work.changes())
                end_all()
            else:
                raise ValueError(f"no method {request['method']!r}")
            reply = {"id": request["id"], "result": result}
        except Exception as error:
            reply = {"id": request["id"], "error": f"{type(error).__name__}: {error}"}
        data = json.dumps(reply).encode()
        channel.sendall(len(data).to_bytes(4, "big") + data)


def _exactly(channel: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = channel.recv(min(count - len(data), 1 << 20))
        if not part:
            raise SystemExit(0)
        data += part
    return bytes(data)


def main() -> None:
    """Serve the channel."""
    if str(Path(__file__).parent) != HOME:
        raise SystemExit("the shell worker runs in a sandbox only")
    fd = int(os.environ.pop("RAYSMITH_CHANNEL_FD"))
    os.set_inheritable(fd, False)
    channel = socket.socket(fileno=fd)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    # What was told through it has been told: commands have no business there.
    os.close(3)
    serve(channel)


if __name__ == "__main__":
    main()
