"""The out-of-process judge: tests in one sandbox, the code under test in another, plain data between them.

The sandbox with the tests holds none of the candidate's code, so everything in it may be believed; the
sandbox with the code holds no test, no expected value and no key. This module carries messages between
the two and reads none but the last. What cannot be judged so is told in `Apart.notes`.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.judge import apart
from actors.judge.assemble import is_test
from actors.judge.config import CONFIG_FILES, find
from actors.judge.suite import Suite, process_environment, shown, source_roots, suite_job
from actors.sandbox.layer import Layer, importable_names
from actors.sandbox.port import Channel, Job, Sandbox
from orchestrator.errors import SandboxError, SandboxTimeout
from orchestrator.tree import Tree
from orchestrator.verdict import JudgeKind, RunEnd, TestRun

_HERE = Path(apart.__file__).parent
_MOST_BYTES = 16 << 20
_BYE = b'{"do": "bye"'
_GONE = b'{"gone": true}'
_THREADS = ThreadPoolExecutor(max_workers=64, thread_name_prefix="judge")
# What no test can do to code in another process, told by its text to save a run that would find it out.
_NEVER = re.compile(
    rb"\b(monkeypatch|mock|mocker|subprocess|multiprocessing|caplog|warns|recwarn|freeze\w*|tmp_path\w*|tmpdir"
    rb"|tempfile|importlib|capfd|doctest|runpy|pkgutil|random\.seed|sys\.modules|hypothesis)\b"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """A run apart.

    Attributes:
        notes: What in it could not be judged apart.
        doubts: Why a test that failed may have failed only because it ran apart.
        calls: How often the tests asked the code.
    """

    run: TestRun
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    calls: int = 0


def code_names(tree: Tree, suite: Suite) -> frozenset[str]:
    """Top-level names that the code under test can be imported by, from the root and every other root."""
    code = {
        path: file
        for path, file in tree.files.items()
        if path not in suite.protected and path.endswith(".py")
    }
    names = importable_names(Tree(files=code))
    for root in _roots(tree, suite):
        below = {
            path.removeprefix(f"{root}/"): file for path, file in code.items() if path.startswith(f"{root}/")
        }
        names |= importable_names(Tree(files=below))
    return names


def _roots(tree: Tree, suite: Suite) -> tuple[str, ...]:
    """Folders besides the root that modules are found in."""
    configured = find(tree, suite.arguments)
    above = Path(configured.path or "").parent
    given = (str(above / word) for word in configured.words("pythonpath"))
    return tuple(dict.fromkeys([*source_roots(tree), *given]))


def may_be_apart(tree: Tree, suite: Suite) -> bool:
    """Whether the tests' text leaves it possible that they need no more than plain data."""
    if any("doctest" in option for option in suite.options) or not code_names(tree, suite):
        return False
    return not any(
        _NEVER.search(tree.files[path].content)
        for path in suite.protected & tree.files.keys()
        if path.endswith(".py")
    )


async def run_apart(
    sandbox: Sandbox, layer: Layer, tree: Tree, suite: Suite, *, seed: int = 0, timeout_s: float
) -> Apart:
    """Run `suite` in one fresh sandbox on the code of `tree` in another.

    Raises:
        SandboxError: A sandbox could not be started.
    """
    key = secrets.token_bytes(32)
    suite = replace(suite, apart=code_names(tree, suite), added=frozenset())
    tests_job = suite_job(layer, _of_tests(tree, suite), suite, key, seed=seed, timeout_s=timeout_s)
    begin = time.monotonic()
    tests, code = await _open(sandbox, tests_job, _code_job(layer, tree, suite, timeout_s))
    carrying = asyncio.get_running_loop().run_in_executor(_THREADS, _carry, tests, code, begin + timeout_s)
    try:
        bye, end = await asyncio.shield(carrying)
    finally:
        left, behind = await asyncio.gather(
            *(asyncio.to_thread(each.close) for each in (tests, code)), return_exceptions=True
        )
        if not carrying.done():
            await asyncio.wait([carrying])
    if isinstance(left, BaseException):
        raise left
    end = end or left.end
    if bye is not None:
        left, end = replace(left, exit_code=int(bye["exit"])), RunEnd.EXITED
    run = shown(replace(left, end=end), key, seed=seed).run
    cpu_s = left.cpu_s + (0.0 if isinstance(behind, BaseException) else behind.cpu_s)
    told: dict[str, Any] = bye or {}
    kind = JudgeKind.BLACK_BOX if told.get("requests") else JudgeKind.SEPARATE_PROCESS
    return Apart(
        run=replace(run, judge=kind, wall_s=time.monotonic() - begin, cpu_s=cpu_s),
        notes=tuple(str(note) for note in told.get("notes", ())),
        doubts=tuple(str(doubt) for doubt in told.get("doubts", ())),
        calls=int(told.get("calls", 0)),
    )


async def _open(sandbox: Sandbox, tests: Job, code: Job) -> tuple[Channel, Channel]:
    opened = await asyncio.gather(sandbox.open(tests), sandbox.open(code), return_exceptions=True)
    broken = [each for each in opened if isinstance(each, BaseException)]
    if not broken:
        return opened[0], opened[1]  # type: ignore[return-value]
    for each in opened:
        if not isinstance(each, BaseException):
            await asyncio.to_thread(each.close)
    raise broken[0]


def _of_tests(tree: Tree, suite: Suite) -> Tree:
    """What decides, and data that may be read; no code of the candidate."""
    return Tree(
        files={
            path: file
            for path, file in tree.files.items()
            if path in suite.protected or not path.endswith((".py", ".pyi", ".so", ".pyc", ".pth"))
        }
    )


def _of_code(tree: Tree, suite: Suite) -> Tree:
    """What is under test, with the project's configuration; nothing that lies among the tests."""
    return Tree(
        files={
            path: file
            for path, file in tree.files.items()
            if (path not in suite.protected or Path(path).name in CONFIG_FILES) and not is_test(path)
        }
    )


def _code_job(layer: Layer, tree: Tree, suite: Suite, timeout_s: float) -> Job:
    paths = ["{work}", *(f"{{work}}/{root}" for root in _roots(tree, suite))]
    asked = {"trusted": "{trusted}", "paths": list(dict.fromkeys(paths))}
    return Job(
        layer=layer,
        argv=("-I", "-B", "{trusted}/server.py"),
        tree=_of_code(tree, suite),
        trusted={name: (_HERE / name).read_text() for name in ("server.py", "wire.py", "applications.py")},
        stdin=json.dumps(asked).encode() + b"\n",
        environment=process_environment(tree, layer),
        timeout_s=timeout_s,
    )


def _carry(tests: Channel, code: Channel, deadline: float) -> tuple[dict[str, Any] | None, RunEnd | None]:
    """Take questions over and answers back until the tests say good-bye, are gone, or time is up."""
    here = True
    try:
        while True:
            question = _frame(tests, deadline)
            if question.startswith(_BYE):
                return json.loads(question), None
            answer = _GONE
            if here:
                try:
                    code.send(len(question).to_bytes(4, "big") + question)
                    answer = _frame(code, deadline)
                except SandboxTimeout:
                    raise
                except SandboxError:
                    here = False
            tests.send(len(answer).to_bytes(4, "big") + answer)
    except SandboxTimeout:
        return None, RunEnd.TIMEOUT
    except SandboxError:
        return None, None


def _frame(channel: Channel, deadline: float) -> bytes:
    def left() -> float:
        return max(0.001, deadline - time.monotonic())

    size = int.from_bytes(channel.receive(4, left()), "big")
    if size > _MOST_BYTES:
        raise SandboxError(f"a message of {size} bytes", f"{_MOST_BYTES} may cross")
    return channel.receive(size, left())
