"""A forked run looks at pytest's functions by what the interpreter counts, and misses no change of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from local_runners import tree_of

from actors.judge.suite import Suite, reporter_files, run_suite
from actors.sandbox.bubblewrap import Bubblewrap
from actors.sandbox.layer import build_layer
from actors.sandbox.probe import probe
from actors.sandbox.settings import SandboxSettings
from actors.warm.inside import before
from actors.warm.sandbox import WarmSandbox
from orchestrator.verdict import Level

SETTINGS = SandboxSettings(memory_mib=512, timeout_s=30)
_REPORT = probe(SETTINGS)
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(_REPORT.level is Level.NONE, reason=f"bubblewrap cannot run here: {_REPORT.error}"),
]
PATCHES = {
    "a function": ("import _pytest.python as m", "m.pytest_pyfunc_call = lambda pyfuncitem: True"),
    "a method": ("from _pytest.reports import TestReport", "TestReport.from_item_and_call = print"),
    "a property": (
        "from _pytest.reports import BaseReport",
        "BaseReport.passed = property(lambda self: True)",
    ),
    "code": (
        "from _pytest import skipping as m",
        "m.evaluate_skip_marks.__code__ = (lambda item: None).__code__",
    ),
    "a class": ("import _pytest.outcomes as m", "m.Exit = type('Exit', (Exception,), {})"),
    "a module": ("import sys, types", "sys.modules['_pytest.reports'] = types.ModuleType('_pytest.reports')"),
    "what is built in": ("import builtins", "builtins.isinstance = lambda *_: True"),
    "a key of a class": (
        "from _pytest.runner import CallInfo",
        "type.__setattr__(CallInfo, 'from_call', print)",
    ),
    "what json is": ("import json", "json.dumps = lambda value: '{}'"),
}


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmSandbox]:
    made = WarmSandbox(Bubblewrap(SETTINGS), reporter_files, most=1)
    yield made
    made.kill_all()


@pytest.mark.parametrize("patch", PATCHES)
async def test_a_replaced_part_of_pytest_is_told(patch: str, warm: WarmSandbox) -> None:
    first, change = PATCHES[patch]
    test = f"{first}\n\ndef test_it():\n    {change}\n"

    shown = await run_suite(
        warm, build_layer(), tree_of({"test_it.py": test}), Suite(), timeout_s=20, preload=()
    )

    assert shown.run.warm, warm.why
    assert shown.run.irregular or not shown.run.complete


async def test_what_pytest_and_its_plugins_patch_themselves_is_not_told(warm: WarmSandbox) -> None:
    test = (
        "import sys\n\ndef test_it(monkeypatch, capsys, tmp_path, caplog, recwarn):\n"
        "    monkeypatch.setattr('json.dumps', lambda value: 'x')\n    import json\n"
        "    assert json.dumps(1) == 'x'\n    print(1)\n    assert capsys.readouterr().out == '1\\n'\n"
    )

    shown = await run_suite(
        warm, build_layer(), tree_of({"test_it.py": test}), Suite(), timeout_s=20, preload=()
    )

    assert (shown.run.warm, shown.run.exit_code, shown.run.irregular) == (True, 0, ())


def test_this_interpreter_counts_or_everything_is_looked_at() -> None:

    assert before.counts_changes() is (sys.version_info < (3, 13))
