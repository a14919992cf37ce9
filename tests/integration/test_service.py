"""Services that are started in a sandbox and asked over HTTP, and the ways in which they do not answer."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from wheels import wheel

from actors.dependencies.settings import DependencySettings
from actors.judge.profile import MissingDependency
from actors.runner import Runner
from actors.sandbox.probe import probe
from actors.sandbox.settings import SandboxSettings
from orchestrator.building import Served, ServiceEnd, ServiceRequest
from orchestrator.tree import File, Tree
from orchestrator.verdict import Level

SETTINGS = SandboxSettings(timeout_s=60)
_REPORT = probe(SETTINGS)
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.skipif(_REPORT.level is Level.NONE, reason=f"nothing confines here: {_REPORT.error}"),
]

APP = "from fastapi import FastAPI\napp = FastAPI(title='Shop', version='2')\n"
HEALTH = "@app.get('/health')\ndef health():\n    return {'ok': True}\n"
INDENTED = (APP + HEALTH).replace("\n", "\n    ")
ROUTE = "@app.get('/items')\ndef items(most: int = 3):\n    return list(range(most))\n"
# A service without a framework: answers `PATHS`, on `PORT`.
PLAIN = """
import http.server, json, os, sys
DOCUMENT = json.dumps({"openapi": "3.1.0", "info": {"title": "Plain", "version": "1"},
    "paths": {"/up": {"get": {"responses": {"200": {"description": "fine"}}}}}})
class Door(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = {"/openapi.json": (200, DOCUMENT), "/up": (200, "up")}.get(self.path, (404, "no"))
        self.send_response(found[0]); self.end_headers(); self.wfile.write(found[1].encode())
    def log_message(self, *_): ...
def serve(port): http.server.HTTPServer(("127.0.0.1", int(port)), Door).serve_forever()
"""
LISTEN = """
import socket, time
held = socket.socket()
held.bind(("127.0.0.1", int(sys.argv[1])))
held.listen(50)
"""


def service(text: str, **more: str) -> Tree:
    files = {"main.py": text, **{name.replace("__", "/"): each for name, each in more.items()}}
    return Tree(files={path: File(content=each.encode()) for path, each in files.items()})


def plain(text: str, timeout_s: float = 20.0, **more: str) -> ServiceRequest:
    given = {"command": "python main.py {port}", **more}
    return ServiceRequest(tree=service(f"{PLAIN}\n{text}"), timeout_s=timeout_s, **given)


def web(text: str, timeout_s: float = 20.0, **more: str) -> ServiceRequest:
    return ServiceRequest(tree=service(f"{APP}{text}"), timeout_s=timeout_s, **more)


REQUESTS = {
    "healthy": web(HEALTH + ROUTE),
    "factory": ServiceRequest(
        tree=service("x = 1\n", **{"shop__web.py": f"def create_app():\n    {INDENTED}\n    return app\n"}),
        timeout_s=20.0,
    ),
    "named": ServiceRequest(
        tree=service(
            APP + "raise RuntimeError('not me')\n",
            **{
                "Dockerfile": 'CMD ["uvicorn", "shop.door:served", "--port", "80"]\n',
                "shop__door.py": (APP + HEALTH).replace("app", "served"),
            },
        ),
        timeout_s=20.0,
    ),
    "src": ServiceRequest(
        tree=Tree(
            files={
                "src/shop/main.py": File(content=f"from shop.parts import number\n{APP}{HEALTH}".encode()),
                "src/shop/parts.py": File(content=b"number = 1\n"),
            }
        ),
        timeout_s=20.0,
    ),
    "plain": plain("serve(sys.argv[1])"),
    "port_variable": plain("serve(os.environ['PORT'])", command="python main.py"),
    "no_health_route": web(ROUTE),
    "stream": web(
        f"{HEALTH}from fastapi.responses import StreamingResponse\nimport time\n"
        "def forever():\n    while True:\n        yield b'x'\n        time.sleep(0.1)\n"
        "@app.get('/events')\ndef events():\n    return StreamingResponse(forever())\n"
    ),
    "crash": web("raise RuntimeError('no database')\n"),
    "crash_later": web(HEALTH + "@app.get('/bye')\ndef bye():\n    import os\n    os._exit(7)\n"),
    "own_mistake": ServiceRequest(
        tree=service("import shop.nowhere\n" + APP, **{"shop__a.py": "x = 1\n"}), timeout_s=20.0
    ),
    "hang_at_start": web("import time\ntime.sleep(1000)\n", 3.0),
    "never_answers": plain(
        f"{LISTEN}time.sleep(1000)",
        3.0,
    ),
    "drips": plain(
        f"{LISTEN}while True:\n    taken, _ = held.accept()\n    taken.send(b'HTTP/1.1 200 OK\\r\\n')\n"
        "    for _ in range(1000):\n        taken.send(b'X: y\\r\\n'); time.sleep(0.2)",
        3.0,
    ),
    "wrong_port": plain("serve(8123)", 3.0),
    "floods": plain(
        "import threading\nthreading.Thread(target=lambda: serve(sys.argv[1])).start()\n"
        "while True: print('x' * 9999)"
    ),
    "error": web(HEALTH + "@app.get('/boom')\ndef boom():\n    return 1 / 0\n"),
    "sick": web(
        "from fastapi import Response\n"
        "@app.get('/health')\ndef health():\n    return Response(status_code=503)\n"
    ),
    "asked_health": web(HEALTH, health="/up"),
    "no_document": plain("serve(sys.argv[1])", openapi="/docs.json"),
    "bad_document": plain("DOCUMENT = DOCUMENT.replace('responses', 'answers')\nserve(sys.argv[1])"),
    "large_document": plain("DOCUMENT = DOCUMENT + ' ' * (9 << 20)\nserve(sys.argv[1])", 5.0),
    "no_service": ServiceRequest(tree=service("def add(a, b):\n    return a + b\n"), timeout_s=20.0),
    "kills_who_asks": plain("import signal\nos.kill(os.getppid(), signal.SIGKILL)\nserve(sys.argv[1])"),
    "forges": plain(
        "import glob\nfor place in glob.glob(f'/proc/{os.getppid()}/fd/*'):\n    try:\n"
        "        open(place, 'w').write('{\"end\": \"healthy\"}')\n"
        "    except OSError:\n        pass\nsys.exit(3)"
    ),
    "forks": plain("if os.fork() == 0:\n    os.setsid()\n    while True: pass\nserve(sys.argv[1])"),
    "eats": plain("held = []\nwhile True: held.append(bytearray(1 << 24))"),
}


@pytest.fixture(scope="module")
def seen() -> dict[str, Served]:
    """What became of every service; they are started a few at a time."""

    async def all_of_them() -> dict[str, Served]:
        runner, room = Runner(SETTINGS), asyncio.Semaphore(4)

        async def one(request: ServiceRequest) -> Served:
            async with room:
                return await runner.serve(request)

        return dict(zip(REQUESTS, await asyncio.gather(*map(one, REQUESTS.values())), strict=True))

    return asyncio.run(all_of_them())


@pytest.mark.parametrize(
    "name",
    ["healthy", "factory", "named", "src", "plain", "port_variable", "no_health_route", "stream", "forks"],
)
def test_a_service_that_answers_is_healthy(seen: dict[str, Served], name: str) -> None:
    found = seen[name]

    assert found.end is ServiceEnd.HEALTHY, found.explanation
    assert found.startup_s > 0 and found.peak_mib > 0 and found.level is _REPORT.level and found.routes


def test_it_is_told_what_was_asked_and_answered(seen: dict[str, Served]) -> None:
    found = seen["healthy"]

    assert (found.app, found.health, found.title, found.version) == ("main:app", "/health", "Shop", "2")
    assert found.routes == ("GET /health", "GET /items")
    assert dict(found.asked) == {"/openapi.json": 200, "/health": 200, "/items": 200}
    assert (seen["factory"].app, seen["named"].app) == ("shop.web:create_app", "shop.door:served")
    assert (seen["src"].app, seen["plain"].health) == ("shop.main:app", "/up")
    assert seen["no_health_route"].health == "/openapi.json"


@pytest.mark.parametrize(
    ("name", "end", "told"),
    [
        ("crash", ServiceEnd.CRASHED, "no database"),
        ("crash_later", ServiceEnd.CRASHED, "exit code 7"),
        ("own_mistake", ServiceEnd.CRASHED, "shop.nowhere"),
        ("hang_at_start", ServiceEnd.SILENT, "listens on no port; 3 s were given"),
        ("never_answers", ServiceEnd.SILENT, "takes connections and answers none"),
        ("drips", ServiceEnd.SILENT, "takes connections and answers none"),
        ("wrong_port", ServiceEnd.WRONG_PORT, "it listens on port 8123"),
        ("floods", ServiceEnd.FLOODED, "it printed more than"),
        ("error", ServiceEnd.UNHEALTHY, "/boom answers 500"),
        ("sick", ServiceEnd.UNHEALTHY, "/health answers 503"),
        ("asked_health", ServiceEnd.UNHEALTHY, "/up answers 404"),
        ("no_document", ServiceEnd.BAD_OPENAPI, "/docs.json answers 404"),
        ("bad_document", ServiceEnd.BAD_OPENAPI, "`GET /up` names no responses"),
        ("large_document", ServiceEnd.SILENT, "answers more than"),
        ("no_service", ServiceEnd.NO_SERVICE, "nothing in it looks like"),
        ("kills_who_asks", ServiceEnd.CRASHED, "it ended the process that asked it"),
        ("forges", ServiceEnd.CRASHED, "exit code 3"),
        ("eats", ServiceEnd.CRASHED, ""),
    ],
)
def test_one_that_does_not_is_told_why(
    seen: dict[str, Served], name: str, end: ServiceEnd, told: str
) -> None:
    found = seen[name]

    assert found.end is end and told in found.explanation, found.explanation
    assert len(found.explanation) < 4000 and found.wall_s < 45


@pytest.mark.usefixtures("seen")
def test_nothing_of_them_is_left() -> None:
    told = [_command(entry) for entry in os.listdir("/proc") if entry.isdigit()]

    inside = [each for each in told if each.startswith(b"/env/")]
    assert not [each for each in inside if b"\0main.py\0" in each or b"\0uvicorn\0" in each]


def _command(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""


async def test_a_package_that_only_the_service_needs_is_installed(tmp_path: Path) -> None:
    index = tmp_path / "index"
    index.mkdir()
    wheel(index, "prices", prices__py="def price(): return 3\n")
    request = web("from prices import price\n" + HEALTH)

    with pytest.raises(MissingDependency, match="the service needs 'prices'"):
        await Runner(SETTINGS).serve(request)
    known = DependencySettings(index=str(index), allow=("prices",), folder=str(tmp_path / "kept"))
    found = await Runner(SETTINGS, known).serve(request)

    assert found.end is ServiceEnd.HEALTHY, found.explanation
    assert [line.split()[0] for line in found.packages] == ["prices==1.0"]
