"""Folders made to break the judge end in a clear refusal or in a verdict that is not green."""

from __future__ import annotations

# ruff: noqa: E501 - lines of small files
import asyncio
from collections.abc import Mapping

import pytest

from actors.runner import Runner
from actors.sandbox.probe import probe
from actors.sandbox.settings import SandboxSettings
from orchestrator.errors import RaysmithError
from orchestrator.steps import ProfileRequest, TestRequest
from orchestrator.tree import File, FileMode, Tree
from orchestrator.verdict import Level, Verdict, judge

SETTINGS = SandboxSettings(timeout_s=10)
_REPORT = probe(SETTINGS)
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.skipif(_REPORT.level is Level.NONE, reason=f"bubblewrap cannot run here: {_REPORT.error}"),
]
TEST = "def test_a():\n    assert 0\n"

FOLDERS: dict[str, dict[str, str | bytes | File]] = {
    "a test file of zeros": {"test_a.py": b"\0" * 4096},
    "a test file in no encoding": {"test_a.py": b"# coding: nothing\ndef test_a(): pass\n"},
    "a test file of invalid UTF-8": {"test_a.py": b"x = '\xff\xfe'\ndef test_a(): pass\n"},
    "a test nested beyond reading": {"test_a.py": "def test_a():\n    assert " + "(" * 3000 + "0" + ")" * 3000 + "\n"},
    "a link to itself": {"test_a.py": TEST, "loop": File(content=b"loop", mode=FileMode.LINK)},
    "a module called pytest": {"test_a.py": TEST, "pytest.py": "def main(*_): return 0\n"},
    "a link out of the folder": {"test_a.py": File(content=b"/etc/passwd", mode=FileMode.LINK)},
    "a folder of odd names": {"test_a.py": TEST, "a\nb.py": "x = 1\n", "-rf.py": "", "$(id).py": "", "ü\u202e.py": ""},
    "a conftest that leaves": {"conftest.py": "import os\nos._exit(0)\n", "test_a.py": TEST},
    "a conftest that exits": {"conftest.py": "import sys\nsys.exit(0)\n", "test_a.py": TEST},
    "a conftest that kills its group": {"conftest.py": "import os\nos.kill(0, 9)\n", "test_a.py": TEST},
    "a conftest with a hook that raises": {"conftest.py": "def pytest_runtest_setup(item): raise RuntimeError('\\x1b[2J')\n", "test_a.py": TEST},
    "a conftest that breaks collecting": {"conftest.py": "def pytest_collection_modifyitems(items): items[:] = [None]\n", "test_a.py": TEST},
    "a conftest that names all tests alike": {"conftest.py": "def pytest_collection_modifyitems(items):\n    for item in items: item._nodeid = 'same'\n", "test_a.py": TEST + "def test_b(): assert 0\n"},
    "a conftest that names tests with control characters": {"conftest.py": "def pytest_collection_modifyitems(items):\n    for n, item in enumerate(items): item._nodeid = f'\\x1b[31m\\n{n}' * 999\n", "test_a.py": TEST},
    "a conftest that forges records": {"conftest.py": "import os\nos.write(3, b'0' * 64 + b' {}\\n' * 9)\n", "test_a.py": TEST},
    "a plugin that is not there": {"conftest.py": "pytest_plugins = ['no.such.plugin']\n", "test_a.py": TEST},
    "a configuration of another kind": {"pyproject.toml": "[tool]\npytest = 3\n", "test_a.py": TEST},
    "options of another kind": {"pyproject.toml": "[tool.pytest.ini_options]\naddopts = {a = 1}\npythonpath = 3\ntestpaths = [[1]]\npython_files = 5\n", "test_a.py": TEST},
    "an ini file without a section": {"pytest.ini": "addopts = -q\n", "test_a.py": TEST},
    "options with an open quote": {"pytest.ini": "[pytest]\naddopts = -k 'x\n", "test_a.py": TEST},
    "a path that leads away": {"pytest.ini": "[pytest]\npythonpath = ../../../../etc /proc\ntestpaths = /etc\n", "test_a.py": TEST},
    "a test that floods": {"test_a.py": "def test_a():\n    while True: print('x' * 99999)\n\ndef test_b(): assert 0\n"},
    "a test that eats memory": {"test_a.py": "def test_a():\n    hoard = []\n    while True: hoard.append(bytearray(1 << 26))\n"},
    "a test that ends in an endless detail": {"test_a.py": "def test_a():\n    assert 'x' * (1 << 24) == 'y' * (1 << 24)\n"},
    "tests without end": {"test_a.py": "import pytest\n@pytest.mark.parametrize('n', range(10 ** 9))\ndef test_a(n): assert 0\n"},
    "tests of a module called pytest": {"pytest.py": "raise SystemExit(0)\n", "test_a.py": "import pytest\n" + TEST},
    "code that closes what the judge speaks on": {"calc.py": "import os\nos.closerange(0, 64)\n", "test_a.py": "import calc\n" + TEST},
}  # fmt: skip


def tree(files: Mapping[str, str | bytes | File]) -> Tree:
    return Tree(
        files={
            path: text
            if isinstance(text, File)
            else File(content=text if isinstance(text, bytes) else text.encode())
            for path, text in files.items()
        }
    )


async def concluded(base: Tree) -> Verdict | RaysmithError:
    """What `raysmith test` concludes of a folder."""
    runner = Runner(SETTINGS)
    try:
        shown = await runner.profile(ProfileRequest(tree=base, timeout_s=5))
        again = await runner.test(TestRequest(base=base, candidate=base, profile=shown.profile, timeout_s=5))
    except RaysmithError as error:
        return error
    return judge(shown.profile, [shown.run, again])


async def test_every_hostile_folder_is_refused_or_not_green() -> None:
    gate = asyncio.Semaphore(2)

    async def one(files: Mapping[str, str | bytes | File]) -> Verdict | RaysmithError:
        async with gate:
            return await concluded(tree(files))

    found = dict(zip(FOLDERS, await asyncio.gather(*map(one, FOLDERS.values())), strict=True))

    refused = {name: end for name, end in found.items() if isinstance(end, RaysmithError)}
    judged = {name: end for name, end in found.items() if isinstance(end, Verdict)}
    assert [name for name, verdict in judged.items() if verdict.green or verdict.certified] == []
    assert [name for name, error in refused.items() if not (error.message and error.next_move)] == []
    assert not [name for name, error in refused.items() if set(error.message) & {"\x1b", "\u202e", "\0"}]


async def test_a_link_back_into_the_folder_is_not_walked() -> None:
    base = tree({"test_a.py": TEST, "a/b/test_b.py": TEST}).with_files(
        {"again": File(content=b".", mode=FileMode.LINK), "a/b/up": File(content=b"..", mode=FileMode.LINK)}
    )

    shown = await Runner(SETTINGS).profile(ProfileRequest(tree=base, timeout_s=30))

    assert set(shown.profile.expected) == {"test_a.py::test_a", "a/b/test_b.py::test_a"}
