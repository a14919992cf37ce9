"""Awkward but honest suites are profiled as plain pytest shows them; broken bases are told apart."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from actors.judge.profile import MissingDependency
from actors.runner import Runner
from actors.sandbox.probe import probe
from actors.sandbox.settings import SandboxSettings
from orchestrator.errors import TaskError
from orchestrator.steps import Profiled, ProfileRequest, TestRequest
from orchestrator.tree import File, Tree
from orchestrator.verdict import Level, Outcome, RunEnd, Verdict, judge

SETTINGS = SandboxSettings(timeout_s=30)
_REPORT = probe(SETTINGS)
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(_REPORT.level is Level.NONE, reason=f"bubblewrap cannot run here: {_REPORT.error}"),
]


def tree(files: Mapping[str, str]) -> Tree:
    return Tree(files={path: File(content=text.encode()) for path, text in files.items()})


async def profiled(files: Mapping[str, str], *tests: str, timeout_s: float = 30) -> Profiled:
    return await Runner(SETTINGS).profile(ProfileRequest(tree=tree(files), tests=tests, timeout_s=timeout_s))


async def judged(base: Mapping[str, str], profile: Profiled, changes: Mapping[str, str]) -> Verdict:
    start = tree(base)
    candidate = start.with_files({path: File(content=text.encode()) for path, text in changes.items()})
    runner = Runner(SETTINGS)
    runs = [
        await runner.test(
            TestRequest(base=start, candidate=candidate, profile=profile.profile, seed=seed, timeout_s=30)
        )
        for seed in (0, 3)
    ]
    return judge(profile.profile, runs)


SUITES: dict[str, dict[str, str]] = {
    "hooks and fixtures of conftest": {
        "conftest.py": (
            "import pytest\n"
            "def pytest_addoption(parser): parser.addoption('--slow', action='store_true')\n"
            "def pytest_configure(config): config.addinivalue_line('markers', 'slow: slow')\n"
            "def pytest_collection_modifyitems(config, items):\n"
            "    for item in items:\n"
            "        if 'slow' in item.keywords and not config.getoption('--slow'):\n"
            "            item.add_marker(pytest.mark.skip(reason='slow'))\n"
            "@pytest.fixture(params=['a', 'b'])\ndef letter(request): return request.param\n"
        ),
        "test_it.py": (
            "import pytest\ndef test_letter(letter): assert letter in 'ab'\n"
            "@pytest.mark.slow\ndef test_slow(): assert False\n"
        ),
    },
    "src layout without configuration": {
        "pyproject.toml": "[project]\nname = 'thing'\n",
        "src/thing/__init__.py": "from thing.core import two\n",
        "src/thing/core.py": "def two(): return 2\n",
        "tests/test_thing.py": (
            "import subprocess, sys\nimport thing\n"
            "def test_two(): assert thing.two() == 2\n"
            "def test_in_a_process():\n"
            "    code = 'import thing; print(thing.two())'\n"
            "    assert subprocess.check_output([sys.executable, '-c', code], text=True) == '2\\n'\n"
        ),
    },
    "processes that import the project from elsewhere": {
        "pyproject.toml": "[project]\nname = 'thing'\n",
        "thing/__init__.py": "X = 1\n",
        "tests/child.py": "import thing\nprint(thing.X)\n",
        "tests/test_thing.py": (
            "import subprocess, sys\n"
            "def test_child(tmp_path):\n"
            "    run = subprocess.run([sys.executable, 'tests/child.py'], capture_output=True, text=True)\n"
            "    assert run.stdout == '1\\n', run.stderr\n"
        ),
    },
    "pythonpath and testpaths of its own": {
        "pytest.ini": "[pytest]\npythonpath = lib\ntestpaths = checks\npython_files = check_*.py\naddopts = -q --maxfail=1\n",  # noqa: E501 - one line of a small file
        "lib/thing.py": "X = 1\n",
        "checks/check_it.py": "import thing\ndef test_x(): assert thing.X == 1\ndef test_y(): assert False\ndef test_z(): pass\n",  # noqa: E501 - one line of a small file
    },
    "namespace packages": {
        "space/one/core.py": "X = 1\n",
        "space/two/core.py": "X = 2\n",
        "tests/test_space.py": "from space.one import core\nfrom space.two.core import X\ndef test_x(): assert (core.X, X) == (1, 2)\n",  # noqa: E501 - one line of a small file
    },
    "odd parameters": {
        "test_odd.py": (
            "import pytest\n"
            "@pytest.mark.parametrize('text', ['a b', 'ü', 'x\\ny', '[z]', '', 'a::b', '\\x1b[31m', 'nul\\0', 'a/b'])\n"  # noqa: E501 - one line of a small file
            "def test_text(text): assert isinstance(text, str)\n"
            "@pytest.mark.parametrize('n', [1, 1, 1.5, None, True, b'\\xff', object], ids=str)\n"
            "def test_value(n): pass\n"
        )
    },
    "unittest with class and module fixtures": {
        "test_unit.py": (
            "import unittest\nSEEN = []\n"
            "def setUpModule(): SEEN.append(1)\n"
            "class TestA(unittest.TestCase):\n"
            "    @classmethod\n    def setUpClass(cls): cls.n = 3\n"
            "    def test_n(self): self.assertEqual(self.n, 3)\n"
            "    @unittest.skip('no')\n    def test_skipped(self): pass\n"
            "    @unittest.expectedFailure\n    def test_expected(self): self.fail()\n"
            "    def test_sub(self):\n"
            "        for i in range(3):\n"
            "            with self.subTest(i=i): self.assertLess(i, 5)\n"
            "    def test_sub_fails(self):\n"
            "        for i in range(3):\n"
            "            with self.subTest(i=i): self.assertLess(i, 2)\n"
        )
    },
    "processes, tmp_path, capsys, monkeypatch": {
        "app.py": "import sys\nprint('app', *sys.argv[1:])\n",
        "test_app.py": (
            "import multiprocessing, os, subprocess, sys\n"
            "def double(n): return n * 2\n"
            "def test_script(tmp_path):\n"
            "    done = subprocess.run([sys.executable, 'app.py', 'x'], capture_output=True, text=True)\n"
            "    (tmp_path / 'out').write_text(done.stdout); assert done.stdout == 'app x\\n'\n"
            "def test_module(): assert subprocess.run([sys.executable, '-m', 'app']).returncode == 0\n"
            "def test_pytest(): assert subprocess.run([sys.executable, '-m', 'pytest', '--version']).returncode == 0\n"  # noqa: E501 - one line of a small file
            "def test_capsys(capsys): print('hi'); assert capsys.readouterr().out == 'hi\\n'\n"
            "def test_env(monkeypatch): monkeypatch.setenv('A', 'b'); assert os.environ['A'] == 'b'\n"
            "def test_fork():\n"
            "    pid = os.fork()\n"
            "    if pid == 0: os._exit(3)\n"
            "    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3\n"
            "def test_spawn():\n"
            "    with multiprocessing.get_context('spawn').Pool(1) as pool: assert pool.map(double, [2]) == [4]\n"  # noqa: E501 - one line of a small file
        ),
    },
    "folders named like ours": {
        "serve/__init__.py": "NAME = 'theirs'\n",
        "cluster/app.py": "NAME = 'theirs'\n",
        "orchestrator.py": "NAME = 'theirs'\n",
        "tests/__init__.py": "",
        "tests/test_names.py": (
            "import orchestrator, serve\nfrom cluster import app\n"
            "def test_names(): assert {orchestrator.NAME, serve.NAME, app.NAME} == {'theirs'}\n"
        ),
    },
    "doctests": {
        "pytest.ini": "[pytest]\naddopts = --doctest-modules\n",
        "calc.py": 'def one():\n    """\n    >>> one()\n    1\n    """\n    return 1\n',
        "test_calc.py": "import calc\ndef test_one(): assert calc.one() == 1\n",
    },
    "asyncio in auto mode": {
        "pyproject.toml": "[tool.pytest.ini_options]\nasyncio_mode = 'auto'\nfilterwarnings = ['error']\n"
        "asyncio_default_fixture_loop_scope = 'function'\n",
        "test_async.py": "import asyncio\nasync def test_sleep(): await asyncio.sleep(0)\n",
    },
    "anyio by mark": {
        "test_any.py": (
            "import anyio, pytest\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n"
            "@pytest.mark.anyio\nasync def test_sleep(): await anyio.sleep(0)\n"
        )
    },
    "hypothesis": {
        "test_hypo.py": (
            "from hypothesis import given, strategies as st\n@given(st.integers())\ndef test_n(n): assert n == n\n"  # noqa: E501 - one line of a small file
        )
    },
    "every kind of outcome": {
        "test_kinds.py": (
            "import pytest\n"
            "@pytest.fixture\ndef bad(): raise RuntimeError\n"
            "@pytest.fixture\ndef late():\n    yield\n    raise RuntimeError\n"
            "def test_pass(): pass\ndef test_fail(): assert 0\ndef test_setup(bad): pass\ndef test_teardown(late): pass\n"  # noqa: E501 - one line of a small file
            "def test_skip(): pytest.skip('x')\n"
            "@pytest.mark.xfail\ndef test_xfail(): assert 0\n@pytest.mark.xfail\ndef test_xpass(): pass\n"
            "@pytest.mark.xfail(strict=True)\ndef test_strict(): pass\n"
        )
    },
    "dropped options of absent plugins": {
        "setup.cfg": (
            "[tool:pytest]\naddopts = --cov=x --cov-report term -n auto --strict-markers -ra --durations=3 -x -p no:doctest\n"  # noqa: E501 - one line of a small file
            "required_plugins = pytest-cov\n"
        ),
        "test_x.py": "def test_a(): assert 0\ndef test_b(): pass\n",
    },
}


def plain(files: Mapping[str, str], folder: Path) -> set[str]:
    """Ids that `python -m pytest` collects from the same files outside."""
    for path, text in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=", "-o", "required_plugins="]
        + (["--doctest-modules"] if "--doctest-modules" in "".join(files.values()) else [])
        + (["-o", "pythonpath=src"] if any(path.startswith("src/") for path in files) else []),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return {line for line in told.stdout.splitlines() if "::" in line}


@pytest.mark.parametrize("name", SUITES)
async def test_a_suite_is_seen_as_plain_pytest_sees_it(name: str, tmp_path: Path) -> None:
    shown = await profiled(SUITES[name])

    expected = shown.profile.expected
    assert shown.run.irregular == ()
    assert shown.run.complete
    assert not shown.profile.flaky
    assert not shown.profile.fixed_order
    # -q prints ids as they are, but for control characters in one suite.
    if name not in ("odd parameters",):
        assert set(expected) == plain(SUITES[name], tmp_path)
    failing = {test.partition("::")[2] for test in shown.profile.failing}
    assert failing == {
        "unittest with class and module fixtures": {"TestA::test_sub_fails"},
        "every kind of outcome": {"test_fail", "test_setup", "test_teardown", "test_strict"},
        "dropped options of absent plugins": {"test_a"},
        "pythonpath and testpaths of its own": {"test_y"},
    }.get(name, set())


@pytest.mark.parametrize("name", SUITES)
async def test_no_twin_of_an_honest_suite_raises_an_alarm(name: str) -> None:
    start = tree(SUITES[name])
    shown = await profiled(SUITES[name])
    candidate = start.with_files({"unrelated.py": File(content=b"X = 1\n")})

    run = await Runner(SETTINGS).test(TestRequest(base=start, candidate=candidate, profile=shown.profile))

    assert run.findings == () and run.irregular == ()
    assert run.outcomes == shown.profile.expected


async def test_kinds_of_outcome_are_told_apart() -> None:
    shown = await profiled(SUITES["every kind of outcome"])

    assert {
        test.partition("::test_")[2]: str(outcome) for test, outcome in shown.profile.expected.items()
    } == {
        "pass": "passed",
        "fail": "failed",
        "setup": "error",
        "teardown": "error",
        "skip": "skipped",
        "xfail": "xfailed",
        "xpass": "xpassed",
        "strict": "failed",
    }


async def test_a_suite_that_depends_on_its_order_keeps_it() -> None:
    files = {
        "test_order.py": "S = []\n"
        + "".join(f"def test_{n}(): S.append({n}); assert S == list(range({n + 1}))\n" for n in range(6))
    }

    shown = await profiled(files)

    assert shown.profile.fixed_order
    assert not shown.profile.flaky
    assert set(shown.profile.expected.values()) == {Outcome.PASSED}


async def test_a_flaky_test_is_named() -> None:
    files = {
        "test_flaky.py": "import os\ndef test_luck(): assert os.urandom(1)[0] % 2\ndef test_firm(): pass\n"
    }
    named: frozenset[str] = frozenset()

    # One profile may see the same luck in all its runs; sixty in a row will not.
    for _ in range(60):
        if named := (await profiled(files)).profile.flaky:
            break

    assert named == {"test_flaky.py::test_luck"}


BROKEN_IMPORTS = {
    "a syntax error": "def add(a, b):\n    return a +\n\nLIMIT = 3\n",
    "a missing name": "LIMIT = 3\n",
    "an import of itself that fails": "from calc import nothing\ndef add(a, b): return a + b\nLIMIT = 3\n",
    "an exception": "raise RuntimeError('broken')\n",
    "a misspelt import": "import jsno\ndef add(a, b): return a + b\nLIMIT = 3\n",
    "an endless loop": "while True: pass\n",
    "an exit": "import sys\nsys.exit(3)\n",
}


@pytest.mark.parametrize("how", BROKEN_IMPORTS)
async def test_ids_of_a_base_that_cannot_be_imported_are_known(how: str) -> None:
    fixed = "def add(a, b): return a + b\nLIMIT = 3\n"
    base = {
        "calc.py": BROKEN_IMPORTS[how],
        "tests/test_calc.py": (
            "import pytest\nfrom calc import add, LIMIT\nCASES = [(1, 2, 3), (0, 0, 0)]\n"
            "@pytest.mark.parametrize('a, b, c', CASES)\ndef test_add(a, b, c): assert add(a, b) == c\n"
            "class TestMore:\n    def test_limit(self): assert LIMIT == 3\n"
        ),
        "tests/test_other.py": "def test_other(): pass\n",
    }

    shown = await profiled(base, timeout_s=3)
    verdict = await judged(base, shown, {"calc.py": fixed})

    assert set(shown.profile.failing) >= {
        "tests/test_calc.py::test_add[1-2-3]",
        "tests/test_calc.py::test_add[0-0-0]",
        "tests/test_calc.py::TestMore::test_limit",
    }
    assert verdict.certified, verdict


async def test_a_conftest_that_imports_broken_code_is_no_dead_end() -> None:
    base = {
        "calc.py": "def add(a, b)\n",
        "tests/conftest.py": "import calc\n",
        "tests/test_calc.py": "import calc\ndef test_add(): assert calc.add(1, 1) == 2\n",
    }

    shown = await profiled(base)
    verdict = await judged(base, shown, {"calc.py": "def add(a, b): return a + b\n"})

    assert shown.profile.failing == ("tests/test_calc.py::test_add",)
    assert verdict.certified, verdict


async def test_a_hang_keeps_what_was_collected() -> None:
    base = {
        "calc.py": "def spin():\n    while True: pass\n",
        "test_calc.py": "import calc\ndef test_first(): pass\ndef test_spin(): calc.spin()\ndef test_last(): pass\n",  # noqa: E501 - one line of a small file
    }

    shown = await profiled(base, timeout_s=2)

    assert shown.run.end is RunEnd.TIMEOUT
    assert shown.profile.expected["test_calc.py::test_first"] is Outcome.PASSED
    assert set(shown.profile.failing) == {"test_calc.py::test_spin", "test_calc.py::test_last"}


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        ({"test_a.py": "def test_a(:\n"}, TaskError, "test_a.py"),
        (
            {"tests/helper.py": "x = (\n", "tests/test_a.py": "import helper\ndef test_a(): pass\n"},
            TaskError,
            "helper.py",
        ),
        ({"calc.py": "x = 1\n"}, TaskError, "no tests"),
        ({}, TaskError, "no tests"),
        ({"test_a.py": "import nosuchpackage\ndef test_a(): pass\n"}, MissingDependency, "nosuchpackage"),
        (
            {"calc.py": "import nosuchpackage.deep\n", "test_a.py": "import calc\ndef test_a(): pass\n"},
            MissingDependency,
            "nosuchpackage",
        ),
        (
            {"conftest.py": "import nosuchpackage\n", "test_a.py": "def test_a(): pass\n"},
            MissingDependency,
            "nosuchpackage",
        ),
        (
            {"pytest.ini": "[pytest]\naddopts = --nonsense\n", "test_a.py": "def test_a(): pass\n"},
            TaskError,
            "nonsense",
        ),
        ({"pyproject.toml": "[[[", "test_a.py": "def test_a(): pass\n"}, TaskError, "pyproject.toml"),
    ],
)
async def test_what_no_repair_can_mend_is_refused(
    files: dict[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await profiled(files)


async def test_paths_and_ids_select_and_a_wrong_one_is_told() -> None:
    files = {
        "tests/test_a.py": "def test_a(): pass\ndef test_b(): pass\n",
        "tests/test_c.py": "def test_c(): pass\n",
    }

    by_file = await profiled(files, "tests/test_a.py")
    by_id = await profiled(files, "tests/test_a.py::test_b")

    assert set(by_file.profile.expected) == {"tests/test_a.py::test_a", "tests/test_a.py::test_b"}
    assert set(by_id.profile.expected) == {"tests/test_a.py::test_b"}
    with pytest.raises(TaskError, match="nowhere"):
        await profiled(files, "tests/nowhere.py")


async def test_output_that_lies_about_terminals_is_cleaned() -> None:
    files = {
        "test_a.py": "def test_a():\n    print('\\x1b]52;c;aGk=\\x07\\u202eevil\\u200b\\x1b[2J')\n    assert 0, 'a\\x1b[31mb\\u202e'\n"  # noqa: E501 - one line of a small file
    }

    shown = await profiled(files)

    text = shown.run.output + shown.run.cases[0].detail
    assert "evil" in text
    assert not set(text) & {"\x1b", "\x07", "\u202e", "\u200b"}
