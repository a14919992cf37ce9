"""Runs inside the sandbox: starts a service on a free port, asks it over HTTP, stops it. Needs nothing else.

Standard input is JSON; what was seen goes to descriptor 3 as JSON. The service is a process of its own that
inherits neither; this one never imports its code.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

_PR_SET_DUMPABLE = 4
_TAIL, _MOST_PRINTED, _MOST_BODY = 6000, 1 << 20, 2 << 20
_ONE_ANSWER_S, _STOP_S, _MOST_ROUTES = 10.0, 3.0, 20
_SERVERS = ("FastAPI", "Starlette", "Litestar", "Quart", "Sanic")
_MAKERS = ("create_app", "make_app", "build_app", "get_app", "app_factory")
_NAMED = re.compile(r"\buvicorn[\"',\s]+([A-Za-z_][\w.]*:[A-Za-z_]\w*)([^\n]*--factory)?")
_HEALTHY = re.compile(r"/(up|health|healthz|livez|live|readyz|ready|ping|status|heartbeat)/?$")
_USUAL = ("/health", "/healthz", "/api/health", "/ping", "/status")
# Where a service is looked for first.
_FIRST = ("main", "app", "asgi", "server", "api", "service", "__main__")


def main() -> None:
    """Do what is asked, and answer."""
    with contextlib.suppress(OSError, AttributeError):
        # The service runs as the same user: it must not write into this process's descriptors.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    asked = json.loads(sys.stdin.read())
    seen = Probe(asked).seen()
    with os.fdopen(3, "w", closefd=False) as out:
        out.write(json.dumps(seen))


class Probe:
    """One service, from its start to its end."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        self.port = _free_port()
        self.tail = b""
        self.printed = 0
        self.deadline = time.monotonic() + float(asked["timeout_s"])

    def seen(self) -> dict[str, Any]:
        """What became of it, in the words of `ServiceEnd`."""
        app, argv = self._argv()
        if argv is None:
            return {"end": "no_service", "why": app}
        began = time.monotonic()
        try:
            process = self._started(argv)
        except OSError as error:
            return {"end": "service_crashed", "app": app, "why": f"it cannot be started: {error}"}
        reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        reader.start()
        try:
            seen = self._until_it_answers(process)
            if "end" not in seen:
                seen = {"startup_s": time.monotonic() - began, **self._asked(process)}
        finally:
            _stop(process)
        reader.join(1.0)
        return {"app": app, "port": self.port, "tail": self.tail.decode("utf-8", "replace"), **seen}

    # ---- starting it

    def _argv(self) -> tuple[str, list[str] | None]:
        command, app = self.asked["command"], self.asked["app"]
        if command:
            words = [word.replace("{port}", str(self.port)) for word in shlex.split(command)]
            if words and words[0] in ("python", "python3"):
                return command, [sys.executable, *words[1:]]
            if words and words[0] in ("uvicorn", "hypercorn", "gunicorn", "flask"):
                return command, [sys.executable, "-m", *words]
            return command, words
        if app:
            name, is_made = app, app.rpartition(":")[2] in _MAKERS
        else:
            found = _found(Path(self.asked["work"]), self.asked["roots"])
            if found is None:
                return "nothing in it looks like an ASGI application", None
            name, is_made = found
        uvicorn = [sys.executable, "-m", "uvicorn", name, "--host", "127.0.0.1", "--port", str(self.port)]
        return name, uvicorn + (["--factory"] if is_made else [])

    def _started(self, argv: list[str]) -> subprocess.Popen[bytes]:
        work = self.asked["work"]
        roots = [work, *(str(Path(work, root)) for root in self.asked["roots"])]
        given = [part for part in os.environ.get("PYTHONPATH", "").split(":") if part]
        environ = {**os.environ, "PORT": str(self.port), "PYTHONPATH": ":".join(dict.fromkeys(roots + given))}
        return subprocess.Popen(
            argv,
            cwd=work,
            env={**environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        while part := os.read(process.stdout.fileno(), 1 << 16):
            self.printed += len(part)
            self.tail = (self.tail + part)[-_TAIL:]
            if self.printed > _MOST_PRINTED:
                _kill(process)
                return

    # ---- asking it

    def _until_it_answers(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Nothing once it answers, else how it failed to."""
        first, waits = self.asked["openapi"] or self.asked["health"] or "/", ""
        while time.monotonic() < self.deadline:
            if (ended := self._ended(process)) is not None:
                return ended
            try:
                self._get(first)
                return {}
            except ConnectionRefusedError:
                time.sleep(0.03)
            except (OSError, http.client.HTTPException) as error:
                waits = str(error) or type(error).__name__
                time.sleep(0.05)
        if waits:
            return {"end": "service_silent", "why": f"it takes connections and answers none: {waits}"}
        if elsewhere := sorted(_listening() - {self.port}):
            return {"end": "wrong_port", "elsewhere": elsewhere}
        return {"end": "service_silent", "why": "it listens on no port"}

    def _ended(self, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        if self.printed > _MOST_PRINTED:
            return {"end": "service_flooded", "printed": self.printed}
        if (code := process.poll()) is not None:
            return {"end": "service_crashed", "exit_code": code}
        return None

    def _asked(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Its description, its health, and every route that needs nothing."""
        openapi, health = self.asked["openapi"], self.asked["health"]
        seen: dict[str, Any] = {"asked": {}}
        document: Any = None
        try:
            if openapi:
                status, body = self._noted(openapi, seen)
                seen["openapi_status"] = status
                if status == 200:
                    seen["openapi"] = body.decode("utf-8", "replace")
                    with contextlib.suppress(ValueError, RecursionError):
                        document = json.loads(body)
            routes = _plain_routes(document)
            for path in [health] if health else _health_paths(routes, described=bool(openapi)):
                status, body = self._noted(path, seen)
                seen["health"], seen["health_status"] = path, status
                seen["health_body"] = body[:300].decode("utf-8", "replace")
                if 200 <= status < 300:
                    break
            for path in routes[:_MOST_ROUTES]:
                if path not in seen["asked"]:
                    # What follows its status may be a stream without end.
                    self._noted(path, seen, whole=False)
        except (OSError, http.client.HTTPException) as error:
            ended = self._ended(process)
            if ended is None:
                # It may be about to end by what it was just asked.
                time.sleep(0.1)
                ended = self._ended(process)
            told = f"it stopped answering: {error or type(error).__name__}"
            return {**seen, "end": "service_silent", "why": told, **(ended or {})}
        return seen | (self._ended(process) or {})

    def _noted(self, path: str, seen: dict[str, Any], *, whole: bool = True) -> tuple[int, bytes]:
        status, body = self._get(path, whole=whole)
        seen["asked"][path] = status
        return status, body

    def _get(self, path: str, *, whole: bool = True) -> tuple[int, bytes]:
        """One answer, which may take its share of the time left however slowly it drips."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time is over")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=min(_ONE_ANSWER_S, left))
        connection.connect()
        held, late = connection.sock, threading.Event()
        over = threading.Timer(min(_ONE_ANSWER_S, left), _shut, [held, late])
        over.daemon = True
        over.start()
        try:
            connection.request("GET", path, headers={"Accept": "*/*", "Connection": "close"})
            answer = connection.getresponse()
            body = answer.read(_MOST_BODY + 1) if whole else b""
        finally:
            over.cancel()
            connection.close()
        if late.is_set():
            raise TimeoutError("its answer did not end in time")
        if len(body) > _MOST_BODY:
            raise http.client.HTTPException(f"{path} answers more than {_MOST_BODY} bytes")
        return answer.status, body


def _shut(held: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError):
        held.shutdown(socket.SHUT_RDWR)


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
    return port


def _listening() -> set[int]:
    """Ports of this sandbox on which something listens."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == "0A":
                    found.add(int(words[1].rpartition(":")[2], 16))
    return found


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        process.kill()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """As a container is stopped; what outlives it ends with the sandbox."""
    with contextlib.suppress(OSError):
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    _kill(process)
    process.wait()


# ---- what it describes


def _plain_routes(document: Any) -> list[str]:
    """Paths that a GET without any parameter may be sent to."""
    paths = document.get("paths") if isinstance(document, dict) else None
    if not isinstance(paths, dict):
        return []
    return [
        path
        for path, item in paths.items()
        if isinstance(item, dict)
        and path.startswith("/")
        and "{" not in path
        and path.isascii()
        and path.isprintable()
        and " " not in path
        and isinstance(item.get("get"), dict)
        and not _requires(item.get("parameters"))
        and not _requires(item["get"].get("parameters"))
    ]


def _requires(parameters: Any) -> bool:
    given = parameters if isinstance(parameters, list) else []
    return any(not isinstance(each, dict) or each.get("required") or "$ref" in each for each in given)


def _health_paths(routes: list[str], *, described: bool) -> list[str]:
    """Where health may be told: where the service says so, else the usual places."""
    told = [path for path in routes if _HEALTHY.search(path)]
    return told or [*_USUAL, *([] if described else ["/"])]


# ---- finding the application


def _found(work: Path, roots: list[str]) -> tuple[str, bool] | None:
    """What uvicorn is to serve, and whether that is made by a call: as files say it, else as code looks."""
    for name in ("Procfile", "Dockerfile", "README.md", "compose.yaml", "docker-compose.yml", "Makefile"):
        with contextlib.suppress(OSError):
            for told in _NAMED.finditer((work / name).read_text(errors="replace")):
                module, _, variable = told[1].partition(":")
                if _file_of(work, roots, module):
                    return told[1], bool(told[2]) or variable in _MAKERS
    found = [each for path in sorted(work.rglob("*.py")) for each in _in_file(work, roots, path)]
    found.sort(key=lambda each: each[0])
    return (found[0][1], found[0][2]) if found else None


def _file_of(work: Path, roots: list[str], module: str) -> bool:
    place = Path(*module.split("."))
    return any(
        (work / root / tried).is_file()
        for root in ["", *roots]
        for tried in (place.with_suffix(".py"), place / "__init__.py")
    )


def _in_file(work: Path, roots: list[str], path: Path) -> list[tuple[tuple[int, int, str], str, bool]]:
    relative = path.relative_to(work)
    if relative.name.startswith("test_") or "tests" in relative.parts or len(relative.parts) > 8:
        return []
    root = next((each for each in roots if relative.parts[0] == each), "")
    module = ".".join((relative.relative_to(root) if root else relative).with_suffix("").parts)
    module = module.removesuffix(".__init__")
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return []
    stem = relative.stem
    order = _FIRST.index(stem) if stem in _FIRST else len(_FIRST)
    found = []
    for node in body:
        if name := _application(node):
            found.append(((0, order, module), f"{module}:{name}", False))
        elif isinstance(node, (ast.FunctionDef,)) and node.name in _MAKERS and _needs_nothing(node):
            found.append(((1, order, module), f"{module}:{node.name}", True))
    return found


def _application(node: ast.stmt) -> str:
    """The name that a module gives an application."""
    if isinstance(node, ast.AnnAssign):
        targets: list[ast.expr] = [node.target]
    elif isinstance(node, ast.Assign):
        targets = node.targets
    else:
        return ""
    called = node.value.func if isinstance(node.value, ast.Call) else None
    by = (
        called.id
        if isinstance(called, ast.Name)
        else called.attr
        if isinstance(called, ast.Attribute)
        else ""
    )
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return names[0] if names and by in (*_SERVERS, *_MAKERS) else ""


def _needs_nothing(node: ast.FunctionDef) -> bool:
    given = node.args
    bare = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    return bare <= 0 and all(default is not None for default in given.kw_defaults)


if __name__ == "__main__":
    main()
