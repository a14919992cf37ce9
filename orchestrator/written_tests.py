"""Works `write` and `admit`: tests written beside a repair, and taken in where the repaired code passes them.

What was written never decides about the patch: the base's own tests do. It joins the patch when it passes
on it, fails on stubs and notices small changes to what the patch changed.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from orchestrator import loop
from orchestrator.errors import AgentError, TaskError
from orchestrator.events import Status
from orchestrator.graph_run import Given
from orchestrator.graph_select import profiled
from orchestrator.loop import Outcome
from orchestrator.patch import outside
from orchestrator.ports import Call
from orchestrator.steps import (
    Observed,
    ObserveRequest,
    Proposed,
    ProposedCall,
    ProposeRequest,
    Role,
    StrengthRequest,
    WriteRequest,
    Written,
)
from orchestrator.tree import File, Tree
from orchestrator.verdict import Outcome as TestOutcome
from orchestrator.verdict import Strength, TestProfile

Done = tuple[Outcome, Mapping[str, Any]]

# How much tests that are taken in have to notice where nobody says.
STRENGTH = 0.5
MUTANTS = 8
FAILING_TOLD = 20


async def write(given: Given) -> Done:
    """Tests for code that is being repaired: a model's, and calls next to those that its tests make."""
    found = await profiled(given, "python")
    profile = found.profile
    written, told = await _by_model(given, profile) if given.run.task.model else ({}, "no model writes tests")
    calls = await _proposed(given, profile)
    told = f"{told}; {len(calls)} calls next to those of the tests there are"
    data = {
        "tests": {path: file.content.decode(errors="replace") for path, file in written.items()},
        "calls": [asdict(call) for call in calls],
        "metrics": {"tests": len(written), "calls": len(calls)},
    }
    return Outcome(status=Status.SUCCEEDED, reason="written", explanation=told), data


async def _by_model(given: Given, profile: TestProfile) -> tuple[Mapping[str, File], str]:
    task = given.run.task
    failing = "\n".join(f"- {test}" for test in profile.failing[:FAILING_TOLD])
    goal = (
        "Add tests to this project, in new files beside the tests that it has. It is being repaired: "
        f"these tests fail now and will pass.\n{failing}\nTest what the code is meant to do once they pass: "
        "the ends of ranges, empty values, errors, whatever the tests that are there leave out. "
        "Change no file that is there."
    )
    request = WriteRequest(goal=goal, tree=given.base, model=task.model or "", name=task.id)
    try:
        written = await given.run.call(
            Call(step="write", role=Role.TEST, method="write", request=request, returns=Written)
        )
    except AgentError as error:
        return {}, f"the model wrote none: {error.message[:200]}"
    left = outside(written.files, given.run.policy.allowed_paths)
    kept = {
        path: file for path, file in written.files.items() if _is_new(given.base, path) and path not in left
    }
    return kept, f"{len(kept)} files of tests by {written.engine}"


async def _proposed(given: Given, profile: TestProfile) -> Sequence[ProposedCall]:
    tests = sorted(path for path in profile.protected if path.endswith(".py") and _is_test(path))
    failing = {test.partition("::")[0] for test in profile.failing}
    request = ProposeRequest(
        tree=given.base, tests=tuple(tests), first=tuple(path for path in tests if path in failing)
    )
    proposed = await given.run.call(
        Call(step="propose", role=Role.RUN, method="propose", request=request, returns=Proposed)
    )
    return proposed.calls


async def admit(given: Given) -> Done:
    """The patch with those of the written tests that hold on it and notice enough; what it had stays."""
    assert given.on is not None and given.on.outcome is not None
    patch = replace(given.on.outcome, changes={})
    code = tuple(path for path in given.on.outcome.changes if path.endswith(".py") and not _is_test(path))
    if not any(path in given.run.tree.files for path in code):
        return _without(patch, "the patch changes no Python")
    files = await _files(given)
    if not files:
        return _without(patch, "nothing that its tests call takes a value that could be moved")
    try:
        kept = await _admitted(given, files, code)
    except TaskError as error:
        return _refused(f"they cannot be run: {error.message[:300]}")
    if kept is None:
        return _refused("none of them passes on the patch and fails on stubs")
    minimum = given.run.policy.test_strength
    minimum = STRENGTH if minimum is None else minimum
    told = f"strength {kept.strength.score:.2f}"
    if kept.strength.score < minimum:
        return _refused(f"they notice too little: {told} of {minimum:g}")
    number = len(kept.profile.expected)
    note = f"{number} test{'s' if number > 1 else ''} added in {', '.join(sorted(kept.files))}"
    explanation = "; ".join(filter(None, (patch.explanation, note)))
    data = {
        "added": list(kept.profile.expected),
        "strength": round(kept.strength.score, 3),
        "metrics": {"added": number, "strength": round(kept.strength.score, 3)},
    }
    return replace(patch, changes=kept.files, reason="admitted", explanation=explanation), data


def _without(patch: Outcome, why: str) -> Done:
    return replace(patch, reason="nothing_to_add"), {"added": [], "strength": None, "metrics": {"why": why}}


def _refused(why: str) -> Done:
    """The node fails; who needs the patch takes it from where it was."""
    told = Outcome(status=Status.FAILED, reason="tests_refused", explanation=why)
    return told, {"added": [], "strength": None, "metrics": {"why": why}}


async def _files(given: Given) -> dict[str, File]:
    """What was written, none of it in the place of a file that is there."""
    tree = given.run.tree
    texts = given.inputs.get("tests") or {}
    files = {
        path: File(content=text.encode())
        for path, text in texts.items()
        if _is_new(given.base, path) and _is_new(tree, path)
    }
    calls = tuple(ProposedCall(**call) for call in given.inputs.get("calls") or ())
    if calls:
        found = await profiled(given, "python")
        request = ObserveRequest(
            tree=tree.with_files(files), profile=found.profile, calls=calls, python=given.run.task.python
        )
        observed = await given.run.call(
            Call(step="observe", role=Role.RUN, method="observe", request=request, returns=Observed)
        )
        files |= {path: file for path, file in observed.files.items() if _is_new(tree, path)}
    left = set(outside(files, given.run.policy.allowed_paths))
    return {path: file for path, file in files.items() if path not in left}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    files: dict[str, File]
    profile: TestProfile
    strength: Strength


async def _admitted(given: Given, files: Mapping[str, File], code: tuple[str, ...]) -> _Kept | None:
    """The tests that pass on the patch and fail on a stub of what it changed; None where none is left."""
    held = await _profile(given, files, "hold")
    files = without_tests(files, [test for test in held.expected if not _holds(held, test)])
    if not files:
        return None
    profile = replace(
        held, expected={test: held.expected[test] for test in held.expected if _holds(held, test)}
    )
    strength = await _strength(given, files, profile, code)
    files = without_tests(files, strength.idle)
    if not files:
        return None
    # What is taken in is tested as it is taken in: a test may have leaned on one that is gone.
    last = await _profile(given, files, "admit")
    if not all(_holds(last, test) for test in last.expected):
        return None
    noticed = replace(strength, tests=len(last.expected), idle=())
    return _Kept(files=files, profile=last, strength=noticed)


def _holds(profile: TestProfile, test: str) -> bool:
    return profile.expected[test] is TestOutcome.PASSED and test not in profile.flaky


async def _profile(given: Given, files: Mapping[str, File], step: str) -> TestProfile:
    tree = given.run.tree.with_files(files)
    found = await loop.profile_of(given.run, tree, tuple(sorted(files)), (), step=step, language="python")
    return found.profile


async def _strength(
    given: Given, files: Mapping[str, File], profile: TestProfile, code: tuple[str, ...]
) -> Strength:
    request = StrengthRequest(
        tree=given.run.tree.with_files(files),
        profile=replace(profile, arguments=tuple(sorted(files))),
        code=code,
        mutants=MUTANTS,
        names=frozenset(name for file in files.values() for name in _names(file)),
        python=given.run.task.python,
    )
    return await given.run.call(
        Call(step="strength", role=Role.RUN, method="strength", request=request, returns=Strength)
    )


def _names(file: File) -> set[str]:
    """What a test file names: the functions and classes it may try."""
    nodes = list(ast.walk(ast.parse(file.content)))
    found = {node.id for node in nodes if isinstance(node, ast.Name)}
    return found | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def without_tests(files: Mapping[str, File], tests: Sequence[str]) -> dict[str, File]:
    """`files` without the functions and classes that hold one of `tests`, and without files of no other."""
    kept: dict[str, File] = {}
    for path, file in files.items():
        bad = {test.split("::")[1].partition("[")[0] for test in tests if test.startswith(f"{path}::")}
        text = file.content.decode()
        module = ast.parse(text)
        found = [node for node in module.body if isinstance(node, _Test) and _is_collected(node)]
        gone = [node for node in found if node.name in bad]
        if path in tests or len(gone) == len(found):
            continue
        lines = text.splitlines(keepends=True)
        for node in reversed(gone):
            first = min(each.lineno for each in (node, *node.decorator_list))
            lines[first - 1 : node.end_lineno] = []
        kept[path] = File(content=f"{''.join(lines).rstrip()}\n".encode())
    return kept


_Test = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _is_collected(node: _Test) -> bool:
    return node.name.lower().startswith("test")


def _is_new(tree: Tree, path: str) -> bool:
    return path not in tree.files


def _is_test(path: str) -> bool:
    name = PurePosixPath(path).name
    return name.startswith("test_") or name.endswith("_test.py")
