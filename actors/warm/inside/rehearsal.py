"""A suite of nothing, run by pytest before any run is forked: what it leaves warm is not made again in each.

Interpreters specialise code that was called a few times, keep methods in caches and compile patterns when
they are first asked for. After a fork every run would do that again, and copy each page of it first.
Trusted; nothing of a task is near. Whatever pytest leaves behind besides is put back.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_FOLDER = Path("/tmp/raysmith-rehearsal")  # noqa: S108 - inside a sandbox, before anything else is there
_NAME = "test_raysmith_rehearsal"
_TIMES = 2
_SUITE = '''
"""Passes; one of each of the things that suites are made of."""

import pytest


@pytest.fixture
def number():
    yield 2


@pytest.fixture(params=["a", "b"])
def letter(request):
    return request.param


@pytest.mark.parametrize("other", [1, 2, 3])
def test_adds(number, other):
    assert number + other == other + number


def test_refuses():
    with pytest.raises(ValueError, match="word"):
        int("a word".replace("a ", "")) if number else None
    assert "x" not in {"y": [1, 2]}


class TestLetters:
    def test_is_one(self, letter):
        print(letter)
        assert len(letter) == 1 and letter.isalpha(), letter
'''


def rehearse(reporter: types.ModuleType) -> None:
    """Run the suite under the reporter, as every run is.

    Raises:
        RuntimeError: It did not pass.
    """
    (_FOLDER / "tests").mkdir(parents=True)
    (_FOLDER / "tests" / f"{_NAME}.py").write_text(_SUITE)
    asked = {
        **{"work": str(_FOLDER), "plugins": [], "stubs": [], "options": [], "arguments": [], "protected": []},
        **{"seed": 0, "learn": False},
    }
    for _ in range(_TIMES):
        with _put_back(), Path(os.devnull).open("wb") as nowhere:
            sys.path.insert(0, str(_FOLDER))
            os.chdir(_FOLDER)
            plugin = reporter.Reporter(reporter.sender(nowhere.fileno(), bytes(32)), asked, [])
            code = pytest.main(reporter.arguments(asked), plugins=[plugin])
        if code != 0:
            raise RuntimeError(f"pytest ends with {code} on a suite of nothing")
    shutil.rmtree(_FOLDER)


@contextmanager
def _put_back() -> Iterator[None]:
    """What a session of pytest changes in its process, as it was before; its output goes nowhere."""
    path, folder, environment = list(sys.path), Path.cwd(), dict(os.environ)
    streams = {number: os.dup(number) for number in (1, 2)}
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in streams:
            os.dup2(null, number)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, kept in streams.items():
            os.dup2(kept, number)
            os.close(kept)
        os.close(null)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[:] = path
        sys.modules.pop(_NAME, None)
        for known in [place for place in sys.path_importer_cache if place.startswith(str(_FOLDER))]:
            del sys.path_importer_cache[known]
        # A run asks for its folder when it first needs one, and draws names of its own.
        tempfile.tempdir = None
        vars(tempfile)["_name_sequence"] = None
