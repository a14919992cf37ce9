"""Tests and code in processes of their own: what crosses is judged there, what does not is told."""

from __future__ import annotations

# ruff: noqa: E501 - lines of small files
import asyncio
from collections.abc import Mapping

import pytest
from disguises import FLATTERING, REACHING

from actors.judge.profile import read_suite
from actors.judge.separate import Apart, run_apart
from actors.runner import Runner
from actors.sandbox.layer import build_layer, importable_names
from actors.sandbox.probe import choose, probe
from actors.sandbox.settings import SandboxSettings
from orchestrator.steps import Profiled, ProfileRequest, StrengthRequest, TestRequest
from orchestrator.tree import File, Tree
from orchestrator.verdict import JudgeKind, Level, Outcome, RunEnd, Strength, Verdict, judge

SETTINGS = SandboxSettings(timeout_s=30)
_REPORT = probe(SETTINGS)
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(_REPORT.level is Level.NONE, reason=f"bubblewrap cannot run here: {_REPORT.error}"),
]


def tree(files: Mapping[str, str]) -> Tree:
    return Tree(files={path: File(content=text.encode()) for path, text in files.items()})


async def apart(files: Mapping[str, str], *, timeout_s: float = 30) -> Apart:
    base = tree(files)
    layer = build_layer(None, without=importable_names(base))
    sandbox, _ = choose(SETTINGS)
    assert sandbox is not None
    return await run_apart(
        sandbox, layer, base, read_suite(ProfileRequest(tree=base), layer), timeout_s=timeout_s
    )


async def judged(
    base: Mapping[str, str], changes: Mapping[str, str], minimum: JudgeKind
) -> tuple[Profiled, Verdict, Verdict]:
    """The profile, the verdict where any judge will do, and the one where `minimum` has to be the judge."""
    start, runner = tree(base), Runner(SETTINGS)
    shown = await runner.profile(ProfileRequest(tree=start))
    candidate = start.with_files({path: File(content=text.encode()) for path, text in changes.items()})
    runs = [
        await runner.test(TestRequest(base=start, candidate=candidate, profile=shown.profile, seed=seed))
        for seed in (0, 3)
    ]
    return shown, judge(shown.profile, runs), judge(shown.profile, runs, judge_minimum=minimum)


CODE = '''
"""Everything that plain data can be asked for."""
import asyncio
import datetime
from decimal import Decimal

LIMIT = 3
TABLE = {"a": [1, (2.5, None)], b"k": {1, 2}}
BIG = 2 ** 200

class NoMoney(ValueError):
    def __init__(self, missing):
        super().__init__(f"{missing} is missing")
        self.missing = missing

class Account:
    kind = "plain"

    def __init__(self, start=0):
        self.total = start

    def take(self, amount):
        if amount > self.total:
            raise NoMoney(amount - self.total)
        self.total -= amount
        return self

    @property
    def double(self):
        return self.total * 2

    def __len__(self):
        return self.total

    def __getitem__(self, key):
        return [self.total][key]

    def __str__(self):
        return f"account of {self.total}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.total = -1

def account(start): return Account(start)
def sort(values): values.sort()
def fill(table, key): table[key] = True
def shout(word): print(word.upper())
def count(n):
    yield from range(n)
async def later(n):
    await asyncio.sleep(0)
    return n + 1
def price(): return Decimal("1.10")
def day(): return datetime.date(2024, 2, 29)
def parse(text): return int(text)
def total(account): return account.total
'''
PLAIN = """
import datetime
from decimal import Decimal
import pytest
import bank
from bank import Account, NoMoney, account

def test_values():
    assert bank.LIMIT == 3 and bank.BIG == 2 ** 200
    assert bank.TABLE == {"a": [1, (2.5, None)], b"k": {1, 2}}
    assert (bank.price(), bank.day()) == (Decimal("1.10"), datetime.date(2024, 2, 29))

def test_objects():
    own = Account(5)
    assert own.take(2).total == 3
    assert (own.double, len(own), own[0], str(own), f"{own}") == (6, 3, 3, "account of 3", "account of 3")
    own.total = 9
    assert own.total == 9 and Account.kind == "plain"
    assert own is own.take(0)
    assert bank.total(own) == 9

def test_errors():
    with pytest.raises(NoMoney, match="4 is missing") as caught:
        account(1).take(5)
    assert caught.value.missing == 4
    with pytest.raises(ValueError):
        account(1).take(5)
    with pytest.raises(ValueError, match="invalid literal"):
        bank.parse("x")
    with pytest.raises(AttributeError):
        bank.nothing
    with pytest.raises(IndexError):
        account(1)[7]
    with pytest.raises(TypeError):
        bank.parse()

def test_changed_arguments():
    values, table = [3, 1, 2], {}
    bank.sort(values)
    bank.fill(table, "x")
    assert (values, table) == ([1, 2, 3], {"x": True})

def test_printed(capsys):
    bank.shout("hi")
    assert capsys.readouterr().out == "HI\\n"

def test_iterators():
    assert list(bank.count(3)) == [0, 1, 2]
    assert sum(bank.count(4)) == 6
    with account(1) as own:
        assert own.total == 1
    assert own.total == -1

@pytest.mark.asyncio
async def test_coroutines():
    assert await bank.later(1) == 2

class TestInAClass:
    @pytest.fixture
    def own(self):
        return Account(7)

    @pytest.mark.parametrize("amount, left", [(1, 6), (7, 0)])
    def test_take(self, own, amount, left):
        assert own.take(amount).total == left
"""


async def test_plain_data_is_all_that_most_tests_need() -> None:
    done = await apart({"bank.py": CODE, "test_bank.py": PLAIN})

    assert done.notes == ()
    assert {case.id: case.detail for case in done.run.cases if case.outcome is not Outcome.PASSED} == {}
    assert len(done.run.cases) == 9
    assert (done.run.judge, done.run.complete) == (JudgeKind.SEPARATE_PROCESS, True)


async def test_packages_are_found_where_they_lie() -> None:
    done = await apart(
        {
            "pyproject.toml": "[tool.pytest.ini_options]\npythonpath = ['lib', 'packages/two']\n",
            "src/one/__init__.py": "from one.core import *\n",
            "src/one/core.py": "__all__ = ['X']\nX = 1\nfrom one.deep import part\n",
            "src/one/deep/part.py": "Y = 2\n",
            "lib/three.py": "Z = 3\n",
            "packages/two/two/__init__.py": "V = 4\n",
            "packages/two/two/tests/__init__.py": "",
            "packages/two/two/tests/helper.py": "W = 5\n",
            "packages/two/two/tests/test_two.py": "import two\nfrom .helper import W\ndef test_two(): assert (two.V, W) == (4, 5)\n",
            "tests/test_one.py": (
                "import one.deep.part\nfrom one import *\nfrom one.deep import part\nimport three\n"
                "def test_one(): assert (X, part.Y, one.deep.part.Y, three.Z) == (1, 2, 2, 3)\n"
            ),
        }
    )

    assert {case.id: case.detail for case in done.run.cases if case.outcome is not Outcome.PASSED} == {}
    assert done.run.collection_errors == ()
    assert len(done.run.cases) == 2


POINT = "class Point:\n    def __init__(self, x): self.x = x\n    def __eq__(self, other): return self.x == other.x\n"
NEEDS_MORE = {
    "equality of objects": ("def f(n): return Point(n)\n", "assert calc.f(1) == calc.Point(1)"),
    "the truth of an object": ("def f(n): return Point(n)\n", "assert calc.f(1)"),
    "membership": ("class Bag:\n    def __contains__(self, n): return n == 1\ndef f(n): return Bag()\n", "assert 1 in calc.f(1)"),
    "the class of an object": ("def f(n): return Point(n)\n", "assert isinstance(calc.f(1), calc.Point)"),
    "a call back": ("def f(n): return n(1)\n", "assert calc.f(lambda n: n + 1) == 2"),
    "an object of the test": ("def f(n): return n.x\n", "assert calc.f(type('T', (), {'x': 1})()) == 1"),
    "a changed module": ("N = 1\ndef f(n): return N\n", "calc.N = 2\n    assert calc.f(0) == 2"),
    "a subclass": ("def f(n): return n\n", "class Mine(calc.Point): pass\n    assert Mine(1).x == 1"),
    "the environment": ("import os\ndef f(n): return os.environ.get('N')\n", "import os\n    os.environ['N'] = '1'\n    assert calc.f(0) == '1'"),
}  # fmt: skip


@pytest.mark.parametrize("name", NEEDS_MORE)
async def test_what_needs_more_than_data_is_judged_in_process_and_says_so(name: str) -> None:
    code, line = NEEDS_MORE[name]
    base = {
        "calc.py": POINT + "def f(n): raise NotImplementedError\n",
        "test_calc.py": f"import calc\n\ndef test_f():\n    {line}\n\ndef test_point():\n    assert calc.Point(1).x == 1\n",
    }

    _, verdict, strict = await judged(base, {"calc.py": POINT + code}, JudgeKind.SEPARATE_PROCESS)

    assert (verdict.certified, verdict.judge, verdict.findings) == (True, JudgeKind.IN_PROCESS, ())
    assert not strict.certified and "judge.minimum" in strict.findings[-1]


CALC = {
    "calc.py": "def add(a, b):\n    return a - b\n\n\ndef half(n):\n    return n / 2\n",
    "tests/test_calc.py": (
        "import calc\n\ndef test_add():\n    assert calc.add(2, 3) == 5\n\n"
        "def test_add_negative():\n    assert calc.add(-1, -1) == -2\n\n"
        "def test_half():\n    assert calc.half(4) == 2\n"
    ),
}
FIXED = CALC["calc.py"].replace("a - b", "a + b")


async def test_an_honest_fix_is_certified_by_the_strong_judge() -> None:
    shown, _, verdict = await judged(CALC, {"calc.py": FIXED}, JudgeKind.SEPARATE_PROCESS)

    assert shown.profile.judge is JudgeKind.SEPARATE_PROCESS
    assert (verdict.certified, verdict.judge, verdict.findings) == (True, JudgeKind.SEPARATE_PROCESS, ())


@pytest.mark.slow
async def test_no_cheat_is_green_when_it_cannot_reach_the_judge() -> None:
    gate = asyncio.Semaphore(2)

    async def green(code: str) -> bool:
        async with gate:
            done = await apart({**CALC, "calc.py": code}, timeout_s=10)
        told = done.run.outcomes
        return done.run.complete and len(told) == 3 and set(told.values()) == {Outcome.PASSED}

    cheats = {**REACHING, **FLATTERING}
    shown = await asyncio.gather(*(green(code) for code in cheats.values()))

    assert [name for name, fooled in zip(cheats, shown, strict=True) if fooled] == []


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("import os\nos._exit(0)\n", RunEnd.EXITED),
        ("while True: pass\n", RunEnd.TIMEOUT),
        ("import os, struct\nfor fd in range(3, 9):\n    try: os.write(fd, b'\\xff' * 64)\n    except OSError: pass\n", RunEnd.EXITED),
        ("def add(a, b): return 'x' * (1 << 26)\ndef half(n): return 0\n", RunEnd.EXITED),
        ("def add(a, b):\n    r = []\n    for _ in range(9999): r = [r]\n    return r\ndef half(n): return 0\n", RunEnd.EXITED),
    ],
)  # fmt: skip
async def test_a_process_that_misbehaves_fails_its_tests(code: str, end: RunEnd) -> None:
    done = await apart({**CALC, "calc.py": code}, timeout_s=5)

    assert done.run.end is end
    assert Outcome.PASSED not in done.run.outcomes.values()


async def test_two_judges_that_differ_raise_an_alarm() -> None:
    shown = await Runner(SETTINGS).profile(ProfileRequest(tree=tree(CALC)))
    sneaky = (
        "import sys\n"
        "def add(a, b):\n    return a + b if 'te' + 'st_calc' in sys.modules else a - b\n"
        "def half(n):\n    return n / 2\n"
    )
    request = TestRequest(
        base=tree(CALC),
        candidate=tree({**CALC, "calc.py": sneaky.replace("sys.modules", "vars(sys)['mod' + 'ules']")}),
        profile=shown.profile,
    )

    run = await Runner(SETTINGS).test(request)
    verdict = judge(shown.profile, [run, run])

    assert verdict.green and verdict.alarm and not verdict.certified
    assert any("in a process of its own" in finding for finding in verdict.findings)


SERVICE = {
    "app.py": (
        "from contextlib import asynccontextmanager\nfrom fastapi import FastAPI, HTTPException\n\nREADY = []\n"
        "@asynccontextmanager\nasync def life(app):\n    READY.append(1)\n    yield\n    READY.clear()\n\n"
        "app = FastAPI(lifespan=life)\nITEMS = {}\n\n"
        "@app.get('/items/{name}')\ndef read(name: str):\n    if name in ITEMS:\n        raise HTTPException(404)\n"
        "    return {'name': name, 'ready': bool(READY)}\n"
        "@app.put('/items/{name}')\nasync def write(name: str, body: dict):\n    ITEMS[name] = body\n    return body\n"
    ),
    "test_app.py": (
        "import pytest\nfrom fastapi.testclient import TestClient\nfrom app import app\n\n"
        "@pytest.fixture\ndef client():\n    with TestClient(app) as client:\n        yield client\n\n"
        "def test_missing(client):\n    assert client.get('/items/none').status_code == 404\n\n"
        "def test_there(client):\n    client.put('/items/a', json={'n': 1})\n    answer = client.get('/items/a')\n"
        "    assert answer.status_code == 200\n    assert answer.json() == {'name': 'a', 'ready': True}\n"
        "    assert answer.headers['content-type'] == 'application/json'\n"
    ),
}


async def test_a_service_is_probed_from_outside() -> None:
    fixed = SERVICE["app.py"].replace("if name in ITEMS", "if name not in ITEMS")

    shown, _, verdict = await judged(SERVICE, {"app.py": fixed}, JudgeKind.BLACK_BOX)

    assert len(shown.profile.failing) == 2
    assert (verdict.certified, verdict.judge, verdict.findings) == (True, JudgeKind.BLACK_BOX, ())


TALKING = {
    "app.py": (
        "import asyncio\nfrom contextlib import asynccontextmanager\n"
        "from starlette.applications import Starlette\nfrom starlette.responses import JSONResponse\n"
        "from starlette.routing import Route, WebSocketRoute\nfrom starlette.websockets import WebSocketDisconnect\n\n"
        "@asynccontextmanager\nasync def life(app):\n    yield {'greeting': 'hi'}\n\n"
        "async def echo(socket):\n    await socket.accept(subprotocol='v1')\n    try:\n        while True:\n"
        "            told = await socket.receive_json()\n            await socket.send_json({'sum': told['a'] - told['b']})\n"
        "    except WebSocketDisconnect:\n        pass\n\n"
        "async def ticks(socket):\n    await socket.accept()\n\n    async def hear():\n        await socket.receive_text()\n\n"
        "    hearing = asyncio.create_task(hear())\n    for n in range(3):\n        await asyncio.sleep(0.05)\n"
        "        await socket.send_text(str(n))\n    hearing.cancel()\n    await socket.close(4001)\n\n"
        "async def refused(socket):\n    await socket.close(4003)\n\n"
        "async def state(request):\n    return JSONResponse(request.state.greeting)\n\n"
        "app = Starlette(lifespan=life, routes=[WebSocketRoute('/echo', echo), WebSocketRoute('/ticks', ticks),\n"
        "    WebSocketRoute('/refused', refused), Route('/state', state)])\n"
    ),
    "test_app.py": (
        "import pytest\nfrom starlette.testclient import TestClient\nfrom starlette.websockets import WebSocketDisconnect\n"
        "from app import app\n\n@pytest.fixture\ndef client():\n    with TestClient(app) as client:\n        yield client\n\n"
        "def test_talk(client):\n    with client.websocket_connect('/echo', subprotocols=['v1']) as one:\n"
        "        assert one.accepted_subprotocol == 'v1'\n        with client.websocket_connect('/echo') as other:\n"
        "            for a in (1, 2):\n                one.send_json({'a': a, 'b': 5})\n                assert one.receive_json() == {'sum': a + 5}\n"
        "            other.send_json({'a': 1, 'b': 1})\n            assert other.receive_json() == {'sum': 2}\n\n"
        "def test_ticks(client):\n    with client.websocket_connect('/ticks') as socket:\n"
        "        assert [socket.receive_text() for _ in range(3)] == ['0', '1', '2']\n"
        "        with pytest.raises(WebSocketDisconnect) as raised:\n            socket.receive_text()\n    assert raised.value.code == 4001\n\n"
        "def test_refused(client):\n    with pytest.raises(WebSocketDisconnect):\n        with client.websocket_connect('/refused'):\n            pass\n\n"
        "def test_state(client):\n    assert client.get('/state').json() == 'hi'\n"
    ),
}  # fmt: skip


@pytest.mark.slow
async def test_websockets_are_spoken_to_from_outside() -> None:
    fixed = TALKING["app.py"].replace("told['a'] - told['b']", "told['a'] + told['b']")

    shown, _, verdict = await judged(TALKING, {"app.py": fixed}, JudgeKind.BLACK_BOX)

    assert shown.profile.failing == ("test_app.py::test_talk",)
    assert (verdict.certified, verdict.judge, verdict.findings) == (True, JudgeKind.BLACK_BOX, ())


GATEWAY = {
    "shop.py": (
        "def plain(environ, start_response):\n    body = environ['wsgi.input'].read().decode()\n"
        "    start_response('200 OK', [('X-Path', environ['PATH_INFO'])])\n    return [body.upper().encode()]\n\n"
        "class Counter:\n    def __init__(self):\n        self.seen = 0\n\n"
        "    def __call__(self, environ, start_response):\n        self.seen -= 1\n"
        "        write = start_response('201 CREATED', [('Content-Type', 'text/plain')])\n        write(b'seen ')\n"
        "        yield str(self.seen).encode()\n\ncounter = Counter()\n"
    ),
    "test_shop.py": (
        "from werkzeug.test import Client\nimport shop\n\n"
        "def test_plain():\n    answer = Client(shop.plain).post('/a/b', data='hello')\n"
        "    assert (answer.status_code, answer.text, answer.headers['X-Path']) == (200, 'HELLO', '/a/b')\n\n"
        "def test_counter():\n    answer = Client(shop.counter).get('/')\n"
        "    assert (answer.status, answer.text) == ('201 CREATED', 'seen 1')\n"
    ),
}  # fmt: skip


async def test_a_wsgi_application_is_probed_from_outside() -> None:
    pytest.importorskip("werkzeug")
    fixed = GATEWAY["shop.py"].replace("self.seen -= 1", "self.seen += 1")

    shown, _, verdict = await judged(GATEWAY, {"shop.py": fixed}, JudgeKind.BLACK_BOX)

    assert shown.profile.failing == ("test_shop.py::test_counter",)
    assert (verdict.certified, verdict.judge, verdict.findings) == (True, JudgeKind.BLACK_BOX, ())


@pytest.mark.parametrize(
    "code",
    ["import os\ndef parse(text):\n    os._exit(0)\n", "def parse(text):\n    return 'x' * (1 << 25)\n"],
)
async def test_a_process_that_ends_is_not_taken_for_the_exception_that_a_test_expects(code: str) -> None:
    base = {
        "calc.py": "def parse(text):\n    return text\n",
        "test_calc.py": "import pytest, calc\n\ndef test_rejects():\n    with pytest.raises(Exception):\n        calc.parse('x')\n",
    }

    _, _, verdict = await judged(base, {"calc.py": code}, JudgeKind.IN_PROCESS)

    assert not verdict.certified


@pytest.mark.slow
async def test_the_strength_of_tests_is_measured_on_a_stub_and_on_mutants() -> None:
    code = "def clamp(n, low, high):\n    if n < low:\n        return low\n    if n > high:\n        return high\n    return n\n"
    strong = (
        "import pytest\nfrom clamp import clamp\n\n"
        "@pytest.mark.parametrize('n, wanted', [(0, 1), (1, 1), (2, 2), (3, 3), (4, 3)])\n"
        "def test_clamp(n, wanted):\n    assert clamp(n, 1, 3) == wanted\n"
    )
    weak = "from clamp import clamp\n\ndef test_clamp():\n    assert clamp(2, 1, 3) is not False\n"
    runner = Runner(SETTINGS)

    async def strength(tests: str) -> Strength:
        whole = tree({"clamp.py": code, "test_clamp.py": tests})
        shown = await runner.profile(ProfileRequest(tree=whole))
        request = StrengthRequest(tree=whole, profile=shown.profile, code=("clamp.py",), mutants=4)
        return await runner.strength(request)

    good, poor = await strength(strong), await strength(weak)

    assert good.idle == () and good.tests == 5
    assert poor.idle == ("test_clamp.py::test_clamp",) and poor.score == 0
    assert len(poor.survivors) > len(good.survivors)
