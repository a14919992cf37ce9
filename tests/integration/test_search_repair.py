"""The search repairer end to end: a real worker process, real pytest, small programs with real bugs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_runners import LocalRunners, LocalSession, Told, profile_of, tree_of

from actors.repairer import SearchRepairer
from actors.search.settings import SearchSettings
from orchestrator.ports import SessionSpec
from orchestrator.steps import Repaired, RepairRequest
from orchestrator.tree import Tree

SHOP = Path(__file__).resolve().parents[2] / "examples" / "buggy_shop"
QUICK = SearchSettings(window=60, partial_window=120)


async def repaired(
    files: dict[str, str],
    *,
    cpu_s: float = 20.0,
    plugins: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
    missing: tuple[str, ...] = (),
    runners: LocalRunners | None = None,
    settings: SearchSettings = QUICK,
) -> tuple[Repaired, Told, Tree]:
    tree = tree_of(files)
    profile = await profile_of(tree, plugins=plugins, options=options, missing=missing)
    assert profile.failing, "the example has no failing test"
    told = Told()
    request = RepairRequest(
        base=tree, tree=tree, profile=profile, failing=profile.failing, cpu_s=cpu_s, wall_s=120
    )
    result = await SearchRepairer(settings).repair(request, runners or LocalRunners(), told)
    return result, told, tree


def text_after(result: Repaired, path: str) -> str:
    assert result.best is not None
    file = result.best.changes[path]
    assert file is not None
    return file.content.decode()


def assert_complete(result: Repaired) -> None:
    assert result.best is not None, result
    assert result.best.failing == ()


async def test_repairs_a_single_bug_and_tells_at_once() -> None:
    result, told, _ = await repaired(
        {
            "calc.py": "def add(a, b):\n    return a - b  # sum\n",
            "test_calc.py": "from calc import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n",
        }
    )

    assert_complete(result)
    assert text_after(result, "calc.py") == "def add(a, b):\n    return a + b  # sum\n"
    assert told.improvements[-1].changes == result.best.changes  # type: ignore[union-attr]
    assert "calc.py:2" in told.improvements[-1].explanation
    assert result.candidates > 0
    assert 0 < result.cpu_s < 20


@pytest.mark.slow
async def test_repairs_three_bugs_in_three_files() -> None:
    result, told, _ = await repaired(
        {
            "pkg/__init__.py": "",
            "pkg/a.py": "def adult(age):\n    return age > 18\n",
            "pkg/b.py": "def last(items):\n    return items[len(items)]\n",
            "pkg/c.py": (
                "def total(prices):\n    result = 1\n    for p in prices:\n        result += p\n"
                "    return result\n"
            ),
            "test_pkg.py": (
                "from pkg import a, b, c\n\n\n"
                "def test_a():\n    assert a.adult(18)\n    assert not a.adult(17)\n\n\n"
                "def test_b():\n    assert b.last([1, 2]) == 2\n\n\n"
                "def test_c():\n    assert c.total([1, 2]) == 3\n    assert c.total([]) == 0\n"
            ),
        }
    )

    assert_complete(result)
    assert set(result.best.changes) == {"pkg/a.py", "pkg/b.py", "pkg/c.py"}  # type: ignore[union-attr]
    assert told.improvements[0].failing, "partial progress is told before the end"


@pytest.mark.slow
async def test_repairs_a_fastapi_handler_with_an_unused_parameter() -> None:
    result, _, _ = await repaired(
        {
            "app.py": (
                "from fastapi import FastAPI\n\napp = FastAPI()\n\n\n"
                '@app.get("/add")\n'
                "def add(a: float, b: float, do_round: bool = False) -> dict:\n"
                '    return {"result": a + b}\n'
            ),
            "test_app.py": (
                "import pytest\nfrom fastapi.testclient import TestClient\n\nfrom app import app\n\n"
                "client = TestClient(app)\n\n\n"
                "def test_plain():\n"
                '    assert client.get("/add", params={"a": 1.2, "b": 1.2}).json() == {"result": 2.4}\n\n\n'
                "def test_rounded():\n"
                '    reply = client.get("/add", params={"a": 1.4, "b": 1.4, "do_round": True})\n'
                '    assert reply.json() == {"result": 3}\n\n\n'
                "def test_missing():\n"
                '    assert client.get("/add").status_code == 422\n'
            ),
        },
        cpu_s=30,
    )

    assert_complete(result)
    assert "round(a + b) if do_round else a + b" in text_after(result, "app.py")


async def test_repairs_methods_and_decorated_functions() -> None:
    result, _, _ = await repaired(
        {
            "shapes.py": (
                "import functools\n\n\n"
                "def logged(function):\n"
                "    @functools.wraps(function)\n"
                "    def inner(*args):\n"
                "        return function(*args)\n"
                "    return inner\n\n\n"
                "class Square:\n"
                "    def __init__(self, side):\n"
                "        self.side = side\n\n"
                "    @property\n"
                "    def area(self):\n"
                "        return self.side + self.side\n\n\n"
                "@logged\n"
                "def double(x):\n"
                "    return x * 3\n"
            ),
            "test_shapes.py": (
                "from shapes import Square, double\n\n\n"
                "def test_area():\n    assert Square(3).area == 9\n    assert Square(5).area == 25\n\n\n"
                "def test_double():\n    assert double(2) == 4\n    assert double(5) == 10\n"
            ),
        }
    )

    assert_complete(result)
    assert "self.side * self.side" in text_after(result, "shapes.py")


async def test_repairs_a_closure_inside_a_decorator() -> None:
    result, _, _ = await repaired(
        {
            "retry.py": (
                "def twice(function):\n"
                "    def inner(value):\n"
                "        return function(value) + function(value) + 1\n"
                "    return inner\n\n\n"
                "@twice\n"
                "def same(value):\n"
                "    return value\n"
            ),
            "test_retry.py": (
                "from retry import same\n\n\n"
                "def test_same():\n    assert same(2) == 4\n    assert same(0) == 0\n"
            ),
        }
    )

    assert_complete(result)


@pytest.mark.slow
async def test_repairs_a_dataclass_default_and_a_module_constant() -> None:
    result, _, _ = await repaired(
        {
            "conf.py": (
                "from dataclasses import dataclass\n\nLIMIT = 9\n\n\n"
                "@dataclass\nclass Settings:\n    retries: int = 2\n    name: str = 'x'\n\n\n"
                "def fits(n):\n    return n <= LIMIT\n"
            ),
            "test_conf.py": (
                "from conf import Settings, fits\n\n\n"
                "def test_default():\n    assert Settings().retries == 3\n"
                "    assert Settings().name == 'x'\n\n\n"
                "def test_limit():\n    assert fits(10)\n    assert not fits(11)\n"
            ),
        }
    )

    assert_complete(result)
    assert "retries: int = 3" in text_after(result, "conf.py")


@pytest.mark.slow
async def test_repairs_generators_and_async_functions() -> None:
    result, _, _ = await repaired(
        {
            "flow.py": (
                "import asyncio\n\n\n"
                "def evens(limit):\n"
                "    for n in range(limit):\n"
                "        if n % 2 == 1:\n"
                "            yield n\n\n\n"
                "async def half(n):\n"
                "    await asyncio.sleep(0)\n"
                "    return n * 2\n"
            ),
            "test_flow.py": (
                "import asyncio\n\nfrom flow import evens, half\n\n\n"
                "def test_evens():\n    assert list(evens(5)) == [0, 2, 4]\n\n\n"
                "def test_half():\n    assert asyncio.run(half(8)) == 4\n"
                "    assert asyncio.run(half(10)) == 5\n"
            ),
        }
    )

    assert_complete(result)


@pytest.mark.slow
async def test_repairs_a_bug_that_breaks_the_import() -> None:
    result, _, _ = await repaired(
        {
            "words.py": "def shout(text):\n    return text.upper()\n\n\nGREETING = shuot('hi')\n",
            "test_words.py": (
                "from words import GREETING\n\n\ndef test_greeting():\n    assert GREETING == 'HI'\n"
            ),
        },
        missing=("test_words.py::test_greeting",),
    )

    assert_complete(result)
    assert "GREETING = shout('hi')" in text_after(result, "words.py")


async def test_repairs_a_missing_colon() -> None:
    result, _, _ = await repaired(
        {
            "sizes.py": "def size(items)\n    return len(items)\n",
            "test_sizes.py": "from sizes import size\n\n\ndef test_size():\n    assert size([1]) == 1\n",
        },
        missing=("test_sizes.py::test_size",),
    )

    assert_complete(result)
    assert text_after(result, "sizes.py") == "def size(items):\n    return len(items)\n"


@pytest.mark.slow
async def test_repairs_a_loop_that_never_ends() -> None:
    result, _, _ = await repaired(
        {
            "steps.py": (
                "def countdown(n):\n    out = []\n    while n > 0:\n        out.append(n)\n"
                "        n += 1\n    return out\n"
            ),
            "test_steps.py": (
                "from steps import countdown\n\n\n"
                "def test_three():\n    assert countdown(3) == [3, 2, 1]\n\n\n"
                "def test_none():\n    assert countdown(0) == []\n"
            ),
        }
    )

    assert_complete(result)
    assert "n -= 1" in text_after(result, "steps.py")


async def test_keeps_the_order_of_a_suite_that_depends_on_it() -> None:
    result, _, _ = await repaired(
        {
            "log.py": (
                "LINES = []\n\n\ndef note(x):\n    LINES.append(x)\n\n\ndef count():\n"
                "    return len(LINES) + 1\n"
            ),
            "test_log.py": (
                "import log\n\n\n"
                "def test_first():\n    log.note('a')\n    assert log.LINES == ['a']\n\n\n"
                "def test_second():\n    log.note('b')\n    assert log.count() == 2\n\n\n"
                "def test_third():\n    assert log.count() == 2\n    assert log.LINES == ['a', 'b']\n"
            ),
        }
    )

    assert_complete(result)
    assert "return len(LINES)\n" in text_after(result, "log.py")


async def test_undoes_what_a_suite_writes_between_candidates() -> None:
    result, _, _ = await repaired(
        {
            "store.py": "def save(path, n):\n    path.write_text(str(n + 1))\n",
            "test_store.py": (
                "from pathlib import Path\n\nfrom store import save\n\n\n"
                "def test_save():\n"
                "    assert not Path('out.txt').exists()\n"
                "    save(Path('out.txt'), 4)\n"
                "    assert Path('out.txt').read_text() == '4'\n"
            ),
        }
    )

    assert_complete(result)


async def test_sees_changes_through_a_process_that_the_test_starts() -> None:
    result, _, _ = await repaired(
        {
            "tool.py": (
                "import sys\n\n\ndef main():\n    print(int(sys.argv[1]) - 1)\n\n\n"
                "if __name__ == '__main__':\n    main()\n"
            ),
            "test_tool.py": (
                "import subprocess\nimport sys\n\n\n"
                "def test_tool():\n"
                "    out = subprocess.check_output([sys.executable, 'tool.py', '2'])\n"
                "    assert out.strip() == b'3'\n"
            ),
        },
        cpu_s=40,
        settings=SearchSettings(window=4, max_kept=1, request_size=16),
    )

    assert_complete(result)


async def test_survives_candidates_that_kill_hang_and_flood() -> None:
    result, _, _ = await repaired(
        {
            "rude.py": (
                "import os\nimport signal\nimport sys\n\n\n"
                "def behave(mode):\n"
                "    if mode == 1:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
                "    if mode == 2:\n        os.closerange(3, 100)\n"
                "    if mode == 3:\n        sys.stdout.write('x' * 1000000)\n"
                "    if mode == 4:\n        os._exit(0)\n"
                "    return mode + 1\n"
            ),
            "test_rude.py": "from rude import behave\n\n\ndef test_zero():\n    assert behave(0) == 0\n",
        }
    )

    assert_complete(result)


async def test_repairs_unittest_classes_and_fixtures() -> None:
    result, _, _ = await repaired(
        {
            "bank.py": (
                "class Bank:\n    def __init__(self):\n        self.money = 0\n\n"
                "    def put(self, n):\n        self.money -= n\n"
            ),
            "conftest.py": (
                "import pytest\n\nfrom bank import Bank\n\n\n@pytest.fixture\ndef bank():\n"
                "    return Bank()\n"
            ),
            "test_bank.py": (
                "import unittest\n\nfrom bank import Bank\n\n\n"
                "def test_put(bank):\n    bank.put(3)\n    assert bank.money == 3\n\n\n"
                "class TestBank(unittest.TestCase):\n"
                "    def test_twice(self):\n"
                "        b = Bank()\n        b.put(1)\n        b.put(1)\n"
                "        self.assertEqual(b.money, 2)\n"
            ),
        }
    )

    assert_complete(result)
    assert "self.money += n" in text_after(result, "bank.py")


async def test_uses_a_named_plugin() -> None:
    result, _, _ = await repaired(
        {
            "wait.py": "async def plus(n):\n    return n - 1\n",
            "test_wait.py": (
                "import pytest\n\nfrom wait import plus\n\n\n"
                "@pytest.mark.asyncio\nasync def test_plus():\n    assert await plus(1) == 2\n"
            ),
        },
        plugins=("pytest_asyncio.plugin",),
    )

    assert_complete(result)


async def test_never_edits_tests_or_protected_files() -> None:
    files = {
        "tests/helper.py": "def offset():\n    return 2\n",
        "tests/test_it.py": "from helper import offset\n\n\ndef test_it():\n    assert offset() == 1\n",
        "tests/conftest.py": "import sys\n\nsys.path.insert(0, 'tests')\n",
    }

    result, told, _ = await repaired(files, cpu_s=2)

    assert result.best is None
    assert told.improvements == []


@pytest.mark.slow
async def test_partial_progress_is_kept_when_nothing_more_is_found() -> None:
    result, _, _ = await repaired(
        {
            "m.py": "def one():\n    return 2\n\n\ndef other(x):\n    return hash(str(x) + 'salt')\n",
            "test_m.py": (
                "from m import one, other\n\n\n"
                "def test_one():\n    assert one() == 1\n\n\n"
                "def test_other():\n"
                "    assert other(3) == 'fifty' and other(4) == 'sixty' and other(5) == 'x'\n"
            ),
        },
        cpu_s=4,
    )

    assert result.best is not None
    assert result.best.failing == ("test_m.py::test_other",)


async def test_cancelling_leaves_what_was_told_and_ends_the_worker() -> None:
    tree = tree_of(
        {
            "m.py": "def one():\n    return 2\n\n\ndef never(x):\n    while True:\n        x += 1\n",
            "test_m.py": (
                "from m import one, never\n\n\n"
                "def test_one():\n    assert one() == 1\n\n\n"
                "def test_never():\n    assert never(3) != never(3)\n"
            ),
        }
    )
    profile = await profile_of(tree)
    told, runners = Told(), LocalRunners()
    request = RepairRequest(
        base=tree, tree=tree, profile=profile, failing=profile.failing, cpu_s=100, wall_s=100
    )
    task = asyncio.create_task(SearchRepairer(QUICK).repair(request, runners, told))
    await asyncio.wait_for(told.first.wait(), 60)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert told.improvements[0].failing == ("test_m.py::test_never",)
    assert runners.sessions[0].process.returncode is not None


@pytest.mark.slow
async def test_the_budget_holds_where_every_candidate_hangs() -> None:
    result, _, _ = await repaired(
        {
            "busy.py": (
                "import time\n\n\ndef wait(n):\n    end = time.process_time() + n\n"
                "    while time.process_time() < end:\n        sum(range(10000))\n    return n\n"
            ),
            "test_busy.py": "from busy import wait\n\n\ndef test_wait():\n    assert wait(9) == 'done'\n",
        },
        cpu_s=3,
    )

    assert result.cpu_s < 4.5


async def test_the_same_seed_gives_the_same_repair() -> None:
    files = {
        "calc.py": "def clamp(x, lo, hi):\n    if x < lo:\n        return hi\n    return min(x, hi)\n",
        "test_calc.py": (
            "from calc import clamp\n\n\ndef test_low():\n    assert clamp(0, 1, 3) == 1\n\n\n"
            "def test_mid():\n    assert clamp(2, 1, 3) == 2\n"
        ),
    }

    one, _, _ = await repaired(files)
    two, _, _ = await repaired(files)

    assert one.best is not None and two.best is not None
    assert one.best.changes == two.best.changes
    assert one.candidates == two.candidates


async def test_a_file_in_another_encoding_keeps_its_bytes() -> None:
    source = (
        "# -*- coding: latin-1 -*-\r\ndef name():\r\n"
        "\treturn 'caf\xe9' + 'x'   # \xfc\r\n\r\ndef one():\r\n\treturn 2"
    ).encode("latin-1")
    tree = tree_of(
        {
            "m.py": source,
            "test_m.py": (
                "import m\n\n\ndef test_one():\n    assert m.one() == 1\n\n\ndef test_name():\n"
                "    assert m.name() == 'caf\\xe9x'\n"
            ),
        }
    )
    profile = await profile_of(tree)
    request = RepairRequest(base=tree, tree=tree, profile=profile, failing=profile.failing, cpu_s=20)

    result = await SearchRepairer(QUICK).repair(request, LocalRunners(), Told())

    assert result.best is not None
    assert result.best.changes["m.py"].content == source.replace(b"return 2", b"return 1")  # type: ignore[union-attr]


def files_below(root: Path) -> dict[str, str]:
    paths = [path for path in sorted(root.rglob("*.py")) if "__pycache__" not in path.parts]
    return {str(path.relative_to(root)): path.read_text() for path in paths}


@pytest.mark.slow
async def test_repairs_the_example_shop() -> None:
    files = files_below(SHOP)

    result, _, _ = await repaired(files, cpu_s=20, settings=SearchSettings())

    assert_complete(result)
    assert len(result.best.changes) >= 4  # type: ignore[union-attr]


async def test_a_sandbox_that_dies_is_replaced_and_the_guilty_candidate_dropped() -> None:
    files = {
        "m.py": "import os\n\n\ndef f(n, kill=False):\n    if n > 100:\n        return 0\n    return n - 1\n",
        "test_m.py": "from m import f\n\n\ndef test_f():\n    assert f(3) == 4\n    assert f(5) == 6\n",
    }
    runners = DyingRunners(deaths=2)

    result, _, _ = await repaired(files, runners=runners, settings=replace(QUICK, runners=1))

    assert_complete(result)
    assert runners.opened == 3


class DyingRunners(LocalRunners):
    """Kills the worker under the first `deaths` requests to evaluate."""

    def __init__(self, deaths: int) -> None:
        super().__init__()
        self.deaths = deaths

    @asynccontextmanager
    async def session(self, spec: SessionSpec) -> AsyncIterator[LocalSession]:
        async with super().session(spec) as session:
            call = session.call

            async def dying(method: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
                if method == "evaluate" and self.deaths:
                    self.deaths -= 1
                    session.kill()
                return await call(method, arguments, timeout_s)

            session.call = dying  # type: ignore[method-assign]
            yield session
