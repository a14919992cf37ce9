"""Freezes how the protected base is tested, before any candidate is seen.

Two runs in fresh sandboxes, the second in another order; where they differ both are repeated: what differs
between two runs in one order is flaky, what differs only between the orders depends on the order.

Where files of the base cannot be collected because the code under repair is broken, pytest collects
them once more with stand-ins for that code (`stubs.py`): the ids are pytest's own, the outcome is
ERROR. A file that not even this collects is read by `ast`. An id that neither way can name exactly
(parameters made by the code under repair) is expected without its parameters. No run will ever report
that id, so such a base can be repaired but not certified: unsound is never the answer.
"""

from __future__ import annotations

import ast
import asyncio
import difflib
import os
import posixpath
import re
from collections.abc import Iterable

from actors.judge.assemble import is_test, protected_paths
from actors.judge.config import Configuration, find, options, plugins
from actors.judge.records import Cause
from actors.judge.separate import Apart, may_be_apart, run_apart
from actors.judge.suite import Shown, Suite, run_suite, source_roots
from actors.sandbox.layer import Layer, importable_names
from actors.sandbox.port import Sandbox
from orchestrator.errors import MachineError, TaskError
from orchestrator.steps import Profiled, ProfileRequest
from orchestrator.tree import FileMode, Tree
from orchestrator.verdict import JudgeKind, Outcome, RunEnd, TestProfile, TestRun

_SHUFFLE = 1
_NOTHING_COLLECTED, _USAGE, _INTERNAL = 5, 4, 3


class MissingDependency(MachineError):
    """A file of the task imports `module`, which its environment does not have."""

    code = "missing_dependency"

    def __init__(self, path: str, module: str, python: str) -> None:
        top = module.partition(".")[0]
        super().__init__(
            f"{path} needs {module!r}, which {python} does not have",
            f"install what provides it (`{python} -m pip install {top}`) "
            "or name an interpreter that has it with --python",
        )
        self.args = (path, module, python)
        self.path = path
        self.module = module


async def profile_base(sandbox: Sandbox, layer: Layer, request: ProfileRequest) -> Profiled:
    """Test the base and freeze what it shows.

    Raises:
        TaskError: There are no tests, or a protected file is broken.
        MissingDependency: A package is not installed for the task's interpreter.
        SandboxError: Nothing can be run here.
    """
    suite = read_suite(request, layer)
    own, other, apart = await asyncio.gather(
        run_suite(sandbox, layer, request.tree, suite, timeout_s=request.timeout_s, learn=True),
        run_suite(sandbox, layer, request.tree, suite, seed=_SHUFFLE, timeout_s=request.timeout_s),
        _apart(sandbox, layer, request, suite),
    )
    _refuse_broken(own, request, layer, suite)
    unread = await _unread(sandbox, layer, request, suite, own)
    differing = _differ(own.run, other.run)
    flaky = await _flaky(sandbox, layer, request, suite, (own.run, other.run)) if differing else frozenset()
    expected = {**_outcomes(own.run), **dict.fromkeys(unread, Outcome.ERROR)}
    if not expected and own.run.exit_code == _INTERNAL:
        raise _unable(own.run)
    if not expected:
        raise TaskError("pytest found no tests", "name the folder or file that holds them with --tests")
    profile = TestProfile(
        expected=expected,
        arguments=suite.arguments,
        options=suite.options,
        plugins=suite.plugins,
        protected=suite.protected,
        fixed_order=bool(differing - flaky),
        flaky=flaky,
        judge=_strongest(own.run, apart, flaky),
        preload=own.modules,
    )
    return Profiled(profile=profile, run=own.run)


async def _apart(sandbox: Sandbox, layer: Layer, request: ProfileRequest, suite: Suite) -> Apart | None:
    """What the base shows with its code in a process of its own; None when its tests rule that out."""
    if not may_be_apart(request.tree, suite):
        return None
    return await run_apart(sandbox, layer, request.tree, suite, timeout_s=request.timeout_s)


def _strongest(beside: TestRun, apart: Apart | None, flaky: frozenset[str]) -> JudgeKind:
    """The judge that candidates get: apart where that shows of the base what one process shows."""
    if apart is None or apart.notes or not apart.calls:
        return JudgeKind.IN_PROCESS
    same = not _differ(beside, apart.run) - flaky and beside.collected == apart.run.collected
    return apart.run.judge if same and apart.run.complete and beside.complete else JudgeKind.IN_PROCESS


def read_suite(request: ProfileRequest, layer: Layer) -> Suite:
    """What the base's files alone decide: protection, options, plugins."""
    configuration = find(request.tree, request.tests)
    patterns = configuration.words("python_files")
    protected = protected_paths(request.tree, patterns=patterns, protect=request.protect)
    kept = options(configuration)
    if (roots := source_roots(request.tree)) and "pythonpath" not in configuration.values:
        kept = (*kept, "-o", f"pythonpath={' '.join(_from_config(configuration, roots))}")
    kept = (*kept, *(f"--ignore={path}" for path in _round_trips(request.tree)))
    mentions = "\n".join(
        request.tree.files[path].content.decode(errors="replace")
        for path in sorted(protected)
        if path.endswith((".py", ".toml", ".ini", ".cfg"))
    )
    return Suite(
        arguments=tuple(request.tests),
        options=kept,
        plugins=plugins(layer.plugins, mentions, kept),
        protected=protected,
    )


def _round_trips(tree: Tree) -> list[str]:
    """Links to a folder that they lie in: pytest would walk through them again and again."""
    found = []
    for path, file in sorted(tree.files.items()):
        if file.mode is FileMode.LINK:
            home = posixpath.dirname(path)
            target = posixpath.normpath(posixpath.join(home or ".", os.fsdecode(file.content)))
            if target == "." or f"{home}/".startswith(f"{target}/"):
                found.append(path)
    return found


def _from_config(configuration: Configuration, roots: Iterable[str]) -> list[str]:
    """Roots relative to the configuration file's folder, as pytest resolves `pythonpath`."""
    depth = (configuration.path or "").count("/")
    return ["../" * depth + root for root in roots]


async def _flaky(
    sandbox: Sandbox, layer: Layer, request: ProfileRequest, suite: Suite, seen: tuple[TestRun, TestRun]
) -> frozenset[str]:
    """Ids that differ between two runs in the same order, for both orders seen."""
    again = await asyncio.gather(
        *(
            run_suite(sandbox, layer, request.tree, suite, seed=run.seed, timeout_s=request.timeout_s)
            for run in seen
        )
    )
    return frozenset[str]().union(*(_differ(one, two.run) for one, two in zip(seen, again, strict=True)))


def _outcomes(run: TestRun) -> dict[str, Outcome]:
    """Outcome per collected id; one that never reported (a hang, a crash) is an ERROR."""
    return {test: run.outcomes.get(test, Outcome.ERROR) for test in run.collected}


def _differ(one: TestRun, other: TestRun) -> frozenset[str]:
    """Ids with different outcomes in two runs; what a run never reached tells nothing."""
    ours, theirs = one.outcomes, other.outcomes
    both_ended = one.complete and other.complete
    tests = ours.keys() | theirs.keys() if both_ended else ours.keys() & theirs.keys()
    return frozenset(test for test in tests if ours.get(test) != theirs.get(test))


# ---- bases that cannot be collected


def _own_words(detail: str) -> str:
    """The lines that pytest marks as the error, without the frames of pytest and importlib above them."""
    marked = [line.removeprefix("E").strip("\n") for line in detail.splitlines() if line.startswith("E ")]
    return "\n".join(line.removeprefix("   ") for line in marked) or detail


def _refuse_broken(shown: Shown, request: ProfileRequest, layer: Layer, suite: Suite) -> None:
    """Raise for what no repair of the code can mend."""
    run = shown.run
    for error, cause in zip(run.collection_errors, shown.causes, strict=True):
        if cause.syntax and cause.culprit in suite.protected:
            raise TaskError(
                f"{cause.culprit} is protected and cannot be parsed:\n{_own_words(error.detail)}",
                "mend that file first",
            )
        if error.missing_module and _is_foreign(error.missing_module, cause, request.tree, layer, suite):
            raise MissingDependency(error.path, error.missing_module, str(layer.host_python))
    if run.collected or run.collection_errors:
        return
    if run.end is not RunEnd.EXITED and run.end is not RunEnd.KILLED:
        return
    if run.exit_code == _NOTHING_COLLECTED:
        raise TaskError("pytest found no tests", "name the folder or file that holds them with --tests")
    if run.exit_code == _USAGE or (run.exit_code == _INTERNAL and not _in_workspace(run.output)):
        raise _unable(run)


def _in_workspace(output: str) -> bool:
    """Whether an internal error of pytest went through the task's own code."""
    return bool(re.search(r'(?m)^INTERNALERROR>.*"/work/', output))


def _unable(run: TestRun) -> TaskError:
    return TaskError(f"pytest could not start on this folder:\n{run.output[-3000:]}", "mend what it names")


def _is_foreign(missing: str, cause: Cause, tree: Tree, layer: Layer, suite: Suite) -> bool:
    """Whether an absent module is an absent package, rather than a mistake in the code under repair."""
    top = missing.partition(".")[0]
    own = importable_names(tree)
    if top in own or top in layer.modules:
        return False
    if cause.culprit in suite.protected or _declared(top, tree):
        return True
    known = own | layer.modules
    slip = difflib.get_close_matches(top, known, n=1, cutoff=0.85) or any(
        sorted(top) == sorted(name) for name in known
    )
    return not slip


def _declared(name: str, tree: Tree) -> bool:
    """Whether the tree's metadata names a package; a rough look is enough for a message."""
    pattern = re.compile(rf"(?mi)(^|[\s\"'\[,]){re.escape(name).replace('_', '[-_]')}($|[\s\"'<>=!~;,\]\[])")
    return any(
        pattern.search(file.content.decode(errors="replace"))
        for path, file in tree.files.items()
        if re.fullmatch(r"(pyproject\.toml|setup\.(py|cfg)|requirements[\w./-]*\.(txt|in))", path)
    )


async def _unread(
    sandbox: Sandbox, layer: Layer, request: ProfileRequest, suite: Suite, own: Shown
) -> tuple[str, ...]:
    """Ids of the files that the own-order run could not collect."""
    stopped_early = not own.run.collected and own.run.exit_code != _NOTHING_COLLECTED
    if not own.run.collection_errors and not stopped_early:
        return ()
    stubbed = await run_suite(
        sandbox,
        layer,
        request.tree,
        suite,
        timeout_s=min(60.0, request.timeout_s),
        stubs=sorted(importable_names(request.tree)),
        blind=own.run.end is not RunEnd.EXITED or not own.run.complete,
    )
    known = set(own.run.collected)
    ids = [_exact(test, stubbed.inexact) for test in stubbed.run.collected]
    broken = [error.path for error in stubbed.run.collection_errors]
    if not stubbed.run.collected and not broken:
        broken = _named(request.tree, suite)
    for path in broken:
        ids += _read_ids(request.tree, path)
    return tuple(dict.fromkeys(test for test in ids if test not in known))


def _exact(test: str, inexact: frozenset[str]) -> str:
    return test.partition("[")[0] if test in inexact else test


def _named(tree: Tree, suite: Suite) -> list[str]:
    """Test files that the arguments select, when nothing could be collected at all."""
    wanted = [argument.partition("::")[0] for argument in suite.arguments if not argument.startswith("-")]
    return [
        path
        for path in sorted(tree.files)
        if is_test(path)
        and (not wanted or any(path == item or path.startswith(item + "/") for item in wanted))
    ]


def _read_ids(tree: Tree, path: str) -> list[str]:
    """Ids of a test file by its text: functions, classes, and parameters that are plain literals."""
    file = tree.files.get(path)
    if file is None or not path.endswith(".py"):
        return []
    try:
        module = ast.parse(file.content)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise TaskError(
            f"{path} is protected and cannot be parsed: {error}", "mend that file first"
        ) from error
    return [f"{path}::{test}" for test in _tests_in(module.body)]


def _tests_in(body: Iterable[ast.stmt]) -> list[str]:
    found = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            found += [node.name + variant for variant in _variants(node)]
        elif isinstance(node, ast.ClassDef) and _is_suite(node):
            found += [f"{node.name}::{test}" for test in _tests_in(node.body)]
    return found


def _is_suite(node: ast.ClassDef) -> bool:
    return node.name.startswith("Test") or any("TestCase" in ast.unparse(base) for base in node.bases)


def _variants(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Suffixes of a parametrised test's ids; the bare name when they cannot be told from the text."""
    marks = [mark for mark in node.decorator_list if "parametrize" in ast.unparse(mark)]
    if not marks:
        return [""]
    if len(marks) > 1 or not isinstance(marks[0], ast.Call) or marks[0].keywords or len(marks[0].args) != 2:
        return [""]
    try:
        names, rows = ast.literal_eval(marks[0].args[0]), ast.literal_eval(marks[0].args[1])
    except (ValueError, TypeError, SyntaxError):
        return [""]
    several = not isinstance(names, str) or "," in names
    values = [[_value_id(value) for value in (row if several else [row])] for row in rows]
    if any(value is None for row in values for value in row):
        return [""]
    return [f"[{'-'.join(str(value) for value in row)}]" for row in values] or [""]


def _value_id(value: object) -> str | None:
    """How pytest writes a plain value in an id, or None for one it numbers instead."""
    if isinstance(value, str):
        return value if value.isascii() and value.isprintable() else None
    return str(value) if value is None or isinstance(value, bool | int | float | complex) else None
