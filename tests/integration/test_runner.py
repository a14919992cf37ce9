"""The run agent end to end: profiles, tests, warm sessions, cancellation, another interpreter."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import actors.runner
from actors.runner import Runner
from actors.sandbox.layer import build_layer
from actors.sandbox.port import Job
from actors.sandbox.probe import ProbeReport, probe
from actors.sandbox.settings import ACCEPT, SandboxSettings
from actors.sandbox.unsandboxed import Unsandboxed
from orchestrator.errors import MachineError, SandboxError, SandboxTimeout, TaskError
from orchestrator.ports import SessionSpec
from orchestrator.steps import ProfileRequest, TestRequest
from orchestrator.tree import File, Tree
from orchestrator.verdict import JudgeKind, Level, RunEnd, judge

SETTINGS = SandboxSettings(timeout_s=30)
_REPORT = probe(SETTINGS)
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(_REPORT.level is Level.NONE, reason=f"bubblewrap cannot run here: {_REPORT.error}"),
]


def tree(files: Mapping[str, str]) -> Tree:
    return Tree(files={path: File(content=text.encode()) for path, text in files.items()})


BASE = tree(
    {
        "calc.py": "def add(a, b):\n    return a - b\n",
        "tests/test_calc.py": "from calc import add\ndef test_add(): assert add(1, 2) == 3\ndef test_zero(): assert add(0, 0) == 0\n",  # noqa: E501 - one line of a small file
    }
)
FIXED = BASE.with_files({"calc.py": File(content=b"def add(a, b):\n    return a + b\n")})


async def test_a_fix_is_certified_by_two_runs_at_once() -> None:
    runner = Runner(SETTINGS)

    shown = await runner.profile(ProfileRequest(tree=BASE))
    runs = await asyncio.gather(
        *(
            runner.test(TestRequest(base=BASE, candidate=FIXED, profile=shown.profile, seed=seed))
            for seed in (0, 5)
        )
    )

    assert shown.profile.failing == ("tests/test_calc.py::test_add",)
    assert judge(shown.profile, runs).certified
    assert all(run.level is Level.NAMESPACE and run.cpu_s > 0 and run.wall_s > 0 for run in runs)
    assert [run.seed for run in runs] == [0, 5]


async def test_a_run_tells_what_it_dropped_and_found() -> None:
    runner = Runner(SETTINGS)
    shown = await runner.profile(ProfileRequest(tree=BASE))
    candidate = FIXED.with_files(
        {"conftest.py": File(content=b""), "hook.py": File(content=b"import sys\nsys.settrace(print)\n")}
    )

    weakest = replace(shown.profile, judge=JudgeKind.IN_PROCESS)
    run = await runner.test(TestRequest(base=BASE, candidate=candidate, profile=weakest))
    apart = await runner.test(TestRequest(base=BASE, candidate=candidate, profile=shown.profile))

    assert run.dropped == apart.dropped == ("conftest.py",)
    # Added code that cannot reach the judge is nobody's alarm.
    assert (apart.judge, apart.findings) == (JudgeKind.SEPARATE_PROCESS, ())
    assert run.findings == ("hook.py:2: the added code uses sys.settrace",)
    assert not judge(shown.profile, [run, run]).certified


async def test_a_runner_stays_responsive_and_cancel_all_ends_everything() -> None:
    runner = Runner(SETTINGS)
    slow = BASE.with_files(
        {"tests/test_calc.py": File(content=b"import time\ndef test_slow(): time.sleep(60)\n")}
    )
    running = asyncio.ensure_future(runner.profile(ProfileRequest(tree=slow)))
    await asyncio.sleep(0.7)
    begin = time.monotonic()

    await runner.cancel_all()

    assert time.monotonic() - begin < 3
    with pytest.raises(asyncio.CancelledError):
        await running


# ---- warm sessions

WORKER = """
import json, os, socket, sys, time
channel = socket.socket(fileno=int(os.environ["RAYSMITH_CHANNEL_FD"]))
def read(count):
    data = b""
    while len(data) < count:
        part = channel.recv(count - len(data))
        if not part: sys.exit(0)
        data += part
    return data
while True:
    request = json.loads(read(int.from_bytes(read(4), "big")))
    method, arguments, reply = request["method"], request["arguments"], {"id": request["id"]}
    if method == "start" and arguments["options"] == ["refuse"]: reply["error"] = "no such option"
    elif method == "start": reply["result"] = sorted(os.listdir("."))
    elif method == "die": os._exit(3)
    elif method == "hang": time.sleep(60)
    elif method == "lie": reply["id"] = -1; reply["result"] = None
    elif method == "junk": channel.sendall(b"\\0\\0\\0\\4junk"); continue
    elif method == "huge": channel.sendall(b"\\xff\\xff\\xff\\xff"); continue
    elif method == "spin":
        while time.process_time() < 0.3: pass
        reply["result"] = "spun"
    else: reply["result"] = arguments
    text = json.dumps(reply).encode()
    channel.sendall(len(text).to_bytes(4, "big") + text)
"""


def spec() -> SessionSpec:
    return SessionSpec(tree=BASE, arguments=(), options=(), plugins=(), python=None, timeout_s=20)


@pytest.fixture
async def runner(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runner]:
    monkeypatch.setattr(actors.runner, "worker_files", lambda: {"worker.py": WORKER})
    made = Runner(SETTINGS)
    yield made
    await made.cancel_all()


async def test_a_session_answers_and_tells_its_cpu(runner: Runner) -> None:
    session = await runner.open_session(spec())

    echoed, _ = await runner.call_session(session, "echo", {"ü": [1, None, "x" * 300_000]}, 10)
    spun, cpu_s = await runner.call_session(session, "spin", {}, 10)
    await runner.close_session(session)
    await runner.close_session(session)

    assert echoed == {"ü": [1, None, "x" * 300_000]}
    assert spun == "spun"
    assert 0.25 <= cpu_s < 5
    with pytest.raises(SandboxError, match="no session"):
        await runner.call_session(session, "echo", {}, 1)


async def test_calls_at_once_take_turns(runner: Runner) -> None:
    session = await runner.open_session(spec())

    answers = await asyncio.gather(*(runner.call_session(session, "echo", {"n": n}, 10) for n in range(8)))

    assert [answer["n"] for answer, _ in answers] == list(range(8))


async def test_a_worker_that_refuses_is_an_error_in_its_words_and_stays(runner: Runner) -> None:
    session = await runner.open_session(spec())

    with pytest.raises(SandboxError, match="no such option"):
        await runner.call_session(session, "start", {"options": ["refuse"]}, 10)

    assert (await runner.call_session(session, "start", {"options": []}, 10))[0] == ["calc.py", "tests"]


@pytest.mark.parametrize("method", ["die", "lie", "junk", "huge"])
async def test_a_worker_that_breaks_off_or_breaks_the_protocol_ends_its_session(
    runner: Runner, method: str
) -> None:
    session = await runner.open_session(spec())

    with pytest.raises(SandboxError):
        await runner.call_session(session, method, {}, 10)

    with pytest.raises(SandboxError):
        await runner.call_session(session, "echo", {}, 10)


async def test_a_call_that_takes_too_long_closes_its_session(runner: Runner) -> None:
    session = await runner.open_session(spec())

    with pytest.raises(SandboxTimeout):
        await runner.call_session(session, "hang", {}, 0.3)

    with pytest.raises(SandboxError, match="no session"):
        await runner.call_session(session, "echo", {}, 10)


async def test_cancelling_a_call_kills_its_sandbox(runner: Runner) -> None:
    session = await runner.open_session(spec())
    calling = asyncio.ensure_future(runner.call_session(session, "hang", {}, 60))
    await asyncio.sleep(0.3)
    begin = time.monotonic()

    calling.cancel()

    with pytest.raises(asyncio.CancelledError):
        await calling
    assert time.monotonic() - begin < 3


# ---- other interpreters


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A virtual environment with pytest and one package of its own, made without a network."""
    home = tmp_path_factory.mktemp("other") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    site = next(home.glob("lib/python*/site-packages"))
    ours = Path(pytest.__file__).parent.parent
    for name in ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        shutil.copytree(ours / name, site / name)
    for metadata in ours.glob("pluggy-*.dist-info"):
        shutil.copytree(metadata, site / metadata.name)
    shutil.copy(ours / "py.py", site / "py.py")
    (site / "onlyhere.py").write_text("X = 1\n")
    (site / "calc.py").write_text("raise RuntimeError('the installed one won')\n")
    return str(home / "bin" / "python")


async def test_another_interpreter_brings_its_own_packages(other_python: str) -> None:
    files = {
        "calc.py": "Y = 2\n",
        "test_it.py": "import calc, onlyhere\ndef test_x(): assert onlyhere.X + calc.Y == 3\n"
        "def test_numpy():\n    try: import numpy\n    except ImportError: return\n    assert False\n",
    }

    shown = await Runner(SETTINGS).profile(ProfileRequest(tree=tree(files), python=other_python))

    assert shown.profile.failing == ()
    assert len(shown.profile.expected) == 2


def test_an_interpreter_without_pytest_is_told_how_to_get_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    python = str(tmp_path / "bare/bin/python")

    with pytest.raises(MachineError, match=r"-m pip install pytest"):
        asyncio.run(Runner(SETTINGS).profile(ProfileRequest(tree=BASE, python=python)))


async def test_a_path_that_is_no_interpreter_is_a_wrong_option() -> None:
    with pytest.raises(TaskError, match="--python"):
        await Runner(SETTINGS).profile(ProfileRequest(tree=BASE, python="/bin/false"))


# ---- the self-test and what happens without a sandbox


def test_the_self_test_is_quick_and_kept() -> None:
    settings = SandboxSettings(timeout_s=31)
    begin = time.monotonic()
    first = probe(settings)
    took = time.monotonic() - begin

    again = probe(settings)

    assert first is again
    assert first.level is Level.NAMESPACE
    assert took < 1.5 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


async def test_below_the_minimum_nothing_runs() -> None:
    with pytest.raises(SandboxError, match="kernel"):
        await Runner(SandboxSettings(minimum=Level.KERNEL)).profile(ProfileRequest(tree=BASE))


async def test_without_bubblewrap_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(
        SandboxError, match=r"level weak.*apt-get install bubblewrap.*sandbox.minimum=weak.*I-accept-that"
    ):
        await Runner(SandboxSettings(timeout_s=32, docker_host="unix:///nowhere")).profile(
            ProfileRequest(tree=BASE)
        )


def test_a_plain_process_needs_the_accept_string() -> None:
    with pytest.raises(SandboxError):
        Unsandboxed(SandboxSettings())
    with pytest.raises(ValueError, match="I-accept"):
        SandboxSettings(allow_unsandboxed="yes")


async def test_with_the_accept_string_runs_say_that_nothing_confined_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = SandboxSettings(allow_unsandboxed=ACCEPT)
    box = Unsandboxed(settings)
    monkeypatch.setattr(
        actors.runner, "choose", lambda _: (box, ProbeReport(level=Level.NONE, provider="unsandboxed"))
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runner = Runner(settings)

    shown = await runner.profile(ProfileRequest(tree=BASE))
    run = await runner.test(TestRequest(base=BASE, candidate=FIXED, profile=shown.profile))
    daemon = box.start(
        Job(
            layer=build_layer(),
            argv=("-c", "import os, time\nif os.fork() == 0: os.setsid(); time.sleep(60)\nprint('left')"),
            timeout_s=10,
        )
    ).wait()

    assert run.level is Level.NONE
    assert run.end is RunEnd.EXITED
    assert {str(outcome) for outcome in run.outcomes.values()} == {"passed"}
    assert daemon.output == b"left\n"
    assert daemon.wall_s < 5
    assert os.listdir(tmp_path) == []
