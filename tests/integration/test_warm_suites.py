"""A quick run shows what a fresh pytest shows on suites that are honest and awkward."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import outcomes_plugin
import pytest
from corpus.awkward_suites import AwkwardSuite, suites
from local_runners import lay_out, tree_of

from actors.judge.profile import read_suite
from actors.judge.suite import reporter_files, run_suite
from actors.sandbox.bubblewrap import Bubblewrap
from actors.sandbox.layer import build_layer, importable_names
from actors.sandbox.probe import probe
from actors.sandbox.settings import SandboxSettings
from actors.warm.sandbox import WarmSandbox
from orchestrator.steps import ProfileRequest
from orchestrator.verdict import Level, TestRun

SETTINGS = SandboxSettings(timeout_s=30)
_REPORT = probe(SETTINGS)
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.skipif(_REPORT.level is Level.NONE, reason=f"bubblewrap cannot run here: {_REPORT.error}"),
]
# More than any suite would load: what a warm process should not do shows best where it does most.
PRELOAD = (
    *("asyncio", "concurrent.futures", "multiprocessing", "multiprocessing.pool", "multiprocessing.queues"),
    *("sqlite3", "http.server", "urllib.request", "unittest.mock", "decimal", "zoneinfo", "uuid", "secrets"),
    *("colorsys", "fastapi", "fastapi.testclient", "pydantic", "pydantic.networks", "anyio", "hypothesis"),
)
ALL = list(suites())


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmSandbox]:
    made = WarmSandbox(Bubblewrap(SETTINGS), reporter_files, most=3)
    yield made
    made.kill_all()


async def quick(sandbox: WarmSandbox, suite: AwkwardSuite) -> tuple[TestRun, tuple[str, ...]]:
    tree = tree_of(suite.files)
    # One layer for all, so that one process serves them all, but where a name in it is the suite's own.
    hidden = importable_names(tree) & {"pydantic", "email_validator"}
    layer = build_layer(without=hidden)
    asked = read_suite(ProfileRequest(tree=tree), layer)
    shown = await run_suite(sandbox, layer, tree, asked, timeout_s=20, preload=PRELOAD)
    return shown.run, asked.plugins


def fresh(suite: AwkwardSuite, plugins: tuple[str, ...], folder: Path) -> tuple[dict[str, str], int]:
    """Outcomes and exit code of `python -m pytest` in a folder with the same files."""
    work, told = folder / "work", folder / "outcomes.json"
    work.mkdir()
    lay_out(tree_of(suite.files), work)
    (folder / "beside").mkdir()
    (folder / "beside" / "outcomes_plugin.py").write_text(Path(outcomes_plugin.__file__).read_text())
    command = [sys.executable, "-B", "-m", "pytest", "-p", "outcomes_plugin", f"--rootdir={work}"]
    for plugin in plugins:
        command += ["-p", plugin]
    roots = [str(folder / "beside"), *([str(work / "src")] if (work / "src").is_dir() else [])]
    done = subprocess.run(
        [*command, *(["-o", "pythonpath=src"] if (work / "src").is_dir() else [])],
        cwd=work,
        env={
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "LANG": "C.UTF-8",
            "TMPDIR": str(folder),
            "OUTCOMES": str(told),
            "PYTHONPATH": ":".join(roots),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return json.loads(told.read_text()) if told.exists() else {}, done.returncode


@pytest.mark.parametrize("suite", ALL, ids=[suite.name for suite in ALL])
async def test_a_quick_run_shows_what_a_fresh_pytest_shows(
    suite: AwkwardSuite, warm: WarmSandbox, tmp_path: Path
) -> None:
    run, plugins = await quick(warm, suite)

    assert run.warm == (suite.way == "warm"), warm.why
    if not run.warm:
        return
    outcomes, code = fresh(suite, plugins, tmp_path)
    assert ({test: str(outcome) for test, outcome in run.outcomes.items()}, run.exit_code) == (
        outcomes,
        code,
    ), run.output
    # pytest.exit() leaves a test without its end.
    assert all("did not report every phase" in what for what in run.irregular)


def test_there_are_enough_of_them() -> None:
    assert len(ALL) >= 60
    assert len({suite.name for suite in ALL}) == len(ALL)
    assert {suite.way for suite in ALL} == {"warm", "fresh"}
