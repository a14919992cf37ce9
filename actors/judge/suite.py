"""One run of a suite in one fresh sandbox: what goes in, and what is read of what comes out."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from actors.judge.records import Cause, read
from actors.judge.text import clean
from actors.sandbox.layer import Layer
from actors.sandbox.port import Completed, Job, Sandbox
from orchestrator.tree import Tree
from orchestrator.verdict import CollectionError, JudgeKind, TestRun

_HERE = Path(__file__).parent
_CONFTEST = re.compile(r"ImportError while loading conftest '(?P<path>[^']+)'")
_MISSING = re.compile(r"ModuleNotFoundError: No module named '(?P<name>[^']+)'")
_CURRENT = b"PYTEST_CURRENT_TEST"
_APART = ("wire", "remote", "raised", "service")
_SHIPPED = ("reporter.py", "stubs.py", "watch.py", *(f"apart/{name}.py" for name in _APART))
_USAGE = 4
_INSTALLABLE = frozenset({"pyproject.toml", "setup.py", "setup.cfg"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """What pytest is asked for, apart from the order.

    Attributes:
        added: Files that the candidate added or changed.
        data: Files of the base, no code, that the candidate changed.
        tests: Protected files with tests that decide.
        apart: Top-level names of code that runs in a process of its own; empty when none does.
    """

    arguments: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    protected: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    data: frozenset[str] = frozenset()
    tests: frozenset[str] = frozenset()
    apart: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A run, and what only the profile wants to know of it."""

    run: TestRun
    causes: tuple[Cause, ...] = ()
    inexact: frozenset[str] = field(default_factory=frozenset)
    modules: tuple[str, ...] = ()


async def run_suite(
    sandbox: Sandbox,
    layer: Layer,
    tree: Tree,
    suite: Suite,
    *,
    seed: int = 0,
    timeout_s: float,
    stubs: Sequence[str] = (),
    blind: bool = False,
    learn: bool = False,
    preload: tuple[str, ...] | None = None,
) -> Shown:
    """Run `suite` on `tree` in a fresh sandbox.

    Args:
        seed: 0 for the suite's own order.
        stubs: Top-level names that stand-ins may replace; then tests are only collected.
        blind: Stand-ins replace everything under those names, without trying it.
        learn: Have the run tell what it imported from outside of the workspace.
        preload: Modules that may be loaded before the run starts; None asks for a fresh process.

    Raises:
        SandboxError: The sandbox could not be started or broke.
    """
    key = secrets.token_bytes(32)
    job = suite_job(
        layer,
        tree,
        suite,
        key,
        seed=seed,
        timeout_s=timeout_s,
        stubs=stubs,
        blind=blind,
        learn=learn,
        preload=preload,
    )
    return shown(await sandbox.run(job), key, seed=seed)


def shown(done: Completed, key: bytes, *, seed: int) -> Shown:
    """Read what a process that ran a suite left."""
    told = read(done.records, key)
    output = clean(done.output.decode(errors="replace"), 20_000)
    errors, causes = told.collection_errors, told.causes
    if not told.started and done.exit_code == _USAGE and (found := _conftest_error(output)):
        errors, causes = (found[0],), (found[1],)
    run = TestRun(
        cases=told.cases,
        collected=told.collected,
        collection_errors=errors,
        complete=told.complete,
        irregular=told.irregular,
        exit_code=done.exit_code,
        end=done.end,
        output=output,
        wall_s=done.wall_s,
        cpu_s=done.cpu_s,
        seed=seed,
        level=done.level,
        judge=JudgeKind.IN_PROCESS,
        warm=done.warm,
    )
    return Shown(run=run, causes=causes, inexact=told.inexact, modules=told.modules)


def source_roots(tree: Tree) -> tuple[str, ...]:
    """Folders that an editable install of the tree would put on sys.path: `src`, where it holds modules."""
    if any(path.startswith("src/") and path.endswith(".py") for path in tree.files):
        return () if "src/__init__.py" in tree.files else ("src",)
    return ()


def _asked(suite: Suite, tree: Tree) -> dict[str, Any]:
    """The part of what `reporter.py` reads that is the same for every run."""
    return {
        "work": "{work}",
        "trusted": "{trusted}",
        "paths": _paths(tree),
        "arguments": suite.arguments,
        "options": suite.options,
        "plugins": suite.plugins,
        "protected": sorted(suite.protected),
        "added": sorted(suite.added),
        "data": sorted(suite.data),
        "tests": sorted(suite.tests),
        "apart": sorted(suite.apart),
        "nameless": not any(
            _CURRENT in tree.files[path].content for path in suite.protected & tree.files.keys()
        ),
    }


def process_environment(tree: Tree, layer: Layer) -> dict[str, str]:
    """PYTHONPATH for processes that tests start, in place of the editable install that developers have.

    The root counts only where the tree can be installed and nothing at its top hides an installed
    module: PYTHONPATH comes before the standard library, an editable install after it.
    """
    paths = _paths(tree)
    tops = {path.partition("/")[0].removesuffix(".py") for path in tree.files if path.endswith(".py")}
    if _INSTALLABLE & tree.files.keys() and not tops & layer.modules:
        paths.append("{work}")
    return {"PYTHONPATH": ":".join(paths)} if paths else {}


def _paths(tree: Tree) -> list[str]:
    return [f"{{work}}/{root}" for root in source_roots(tree)]


def reporter_files() -> dict[str, str]:
    """The files that a reporter beside the code needs, as they are laid into the trusted folder."""
    return {name: (_HERE / name).read_text() for name in ("reporter.py", "stubs.py", "watch.py")}


def suite_job(
    layer: Layer,
    tree: Tree,
    suite: Suite,
    key: bytes,
    *,
    seed: int,
    timeout_s: float,
    stubs: Sequence[str] = (),
    blind: bool = False,
    learn: bool = False,
    preload: tuple[str, ...] | None = None,
) -> Job:
    """The process that runs a suite and reports; its arguments are those of `run_suite`."""
    asked = {
        **_asked(suite, tree),
        "key": key.hex(),
        "seed": seed,
        "stubs": list(stubs),
        "blind": blind,
        "learn": learn,
    }
    return Job(
        layer=layer,
        argv=("-I", "-B", "{trusted}/reporter.py"),
        tree=tree,
        trusted=_shipped(),
        stdin=json.dumps(asked).encode(),
        environment=process_environment(tree, layer),
        timeout_s=timeout_s,
        preload=preload,
    )


@cache
def _shipped() -> dict[str, str]:
    return {Path(name).name: (_HERE / name).read_text() for name in _SHIPPED}


def _conftest_error(output: str) -> tuple[CollectionError, Cause] | None:
    """A conftest that cannot be imported ends pytest before a plugin may speak: read its words."""
    found = _CONFTEST.search(output)
    if found is None:
        return None
    missing = _MISSING.search(output)
    path = found["path"].removeprefix("/work/")
    error = CollectionError(path=path, detail=output, missing_module=missing["name"] if missing else None)
    culprits = re.findall(r'(?m)^(?:E\s+File "/work/|/work/|)([\w./-]+\.py)(?:", line \d+|:\d+: in )', output)
    syntax = bool(re.search(r"(?m)^E\s+(?:Syntax|Indentation|Tab)Error", output))
    return error, Cause(culprit=culprits[-1] if culprits else path, syntax=syntax)
