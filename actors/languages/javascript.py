"""JavaScript's tests: found by their names, run by node's own test runner in a sandbox, told as a `TestRun`.

The process that reports is not the one that runs the code under test, but it believes what that one says
on its output: the judge is `in_process`, and a patch that could speak there raises an alarm.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from actors.judge.text import clean
from actors.languages.javascript_twins import Twin
from actors.sandbox.layer import Layer
from actors.sandbox.port import Completed, Job, Sandbox
from orchestrator.errors import MachineError, TaskError
from orchestrator.languages import is_foreign, is_javascript_test, javascript_tests
from orchestrator.steps import Profiled, ProfileRequest, TestRequest
from orchestrator.tree import File, FileMode, Tree
from orchestrator.verdict import JudgeKind, Outcome, TestCase, TestProfile, TestRun

SUFFIXES = (".js", ".mjs", ".cjs")
_CONTROL = frozenset({"package.json", "package-lock.json"})
_BROUGHT = "node_modules"
_LEFT_OUT = frozenset({_BROUGHT, ".git", ".github", ".hg"})
_TEST_FOLDERS = frozenset({"test", "tests", "__tests__", "__mocks__", "spec"})
_NO_NODE = 127
# What code under test could speak to the reporter with, or end it by.
_SPEAKS = re.compile(
    r"process\s*(\?\.|\.|\[)\s*['\"]?(exit|abort|kill|stdout|stderr|send|binding|reallyExit)\b"
    r"|node:test|child_process|writeSync|worker_threads|node:vm|node:v8|\beval\b|\bFunction\s*\("
    r"|_stdout\b|_stderr\b|getBuiltinModule|createRequire|prepareStackTrace|node:inspector|\bfd\s*:\s*[12]\b"
    r"|/dev/(std|fd)|/proc/|\.(test|spec)\.|__tests__"
)
_REPORTER = """\
export default async function* report(source) {
  for await (const { type, data } of source) {
    if (type !== "test:start" && type !== "test:pass" && type !== "test:fail") continue;
    const error = data.details?.error;
    yield JSON.stringify({
      type, name: data.name, nesting: data.nesting, file: data.file, skip: data.skip !== undefined,
      todo: data.todo !== undefined, suite: data.details?.type === "suite", ms: data.details?.duration_ms,
      detail: String(error?.cause?.message ?? error?.message ?? ""),
    }) + "\\n";
  }
  yield JSON.stringify({ type: "end" }) + "\\n";
}
"""


def sources(tree: Tree) -> tuple[str, ...]:
    """The files of `tree` with code that is not a test, sorted."""
    tests = javascript_tests(tree)
    ours = (path for path in tree.files if path.endswith(SUFFIXES) and not is_foreign(path))
    return tuple(sorted(path for path in ours if path not in tests))


async def profile(sandbox: Sandbox, layer: Layer, request: ProfileRequest) -> Profiled:
    """Test the base and freeze how it is tested.

    Raises:
        TaskError: It holds no test.
        MachineError: There is no node in the sandbox.
    """
    files = _selected(javascript_tests(request.tree), request.tests)
    if not files:
        raise TaskError(
            "the folder holds no JavaScript test (*.test.js, *.spec.js)", "add one, or leave it out"
        )
    done = await _done(sandbox, layer, request.tree, files, timeout_s=request.timeout_s)
    run = _told(done, {path: path for path in files})
    found = TestProfile(
        expected=run.outcomes,
        arguments=files,
        protected=_protected(request.tree),
        fixed_order=True,
        language="javascript",
    )
    return Profiled(profile=found, run=run)


def _selected(files: tuple[str, ...], tests: Sequence[str]) -> tuple[str, ...]:
    """Those of `files` that `tests` name or that lie below a folder they name; all where they name none."""
    named = [word.partition("::")[0].strip("/").removeprefix("./") for word in tests]
    chosen = [path for path in files if any(path == name or path.startswith(f"{name}/") for name in named)]
    return tuple(chosen) or files


async def test(sandbox: Sandbox, layer: Layer, request: TestRequest) -> TestRun:
    """Run the base's tests, restored, on a candidate.

    Raises:
        MachineError: There is no node in the sandbox.
    """
    profile = request.profile
    tree, dropped = _assembled(request)
    whole = frozenset(profile.arguments) & profile.expected.keys()
    findings = tuple(_findings(request.base, tree))

    async def run_of(tried: Tree, twin: Twin | None = None) -> TestRun:
        files, places = profile.arguments, {}
        if twin is not None:
            tried, places = twin.of(tried, files), twin.places(files)
        done = await _done(sandbox, layer, tried, files, timeout_s=request.timeout_s)
        return _told(done, {**{path: path for path in files}, **places}, whole)

    if request.quick or tree == request.base:
        return replace(await run_of(tree), findings=findings, dropped=dropped)
    twin = Twin(token=f"twin{secrets.token_hex(8)}", number=1009 + secrets.randbelow(90_000))
    shown, other, base = await asyncio.gather(run_of(tree), run_of(tree, twin), run_of(request.base, twin))
    # A file that cannot be loaded on the base tells nothing there.
    twinned = twin.tests(base) | (whole & twin.taken(request.base, whole))
    against = twin.contradictions(twinned, shown, other)
    cpu_s = shown.cpu_s + other.cpu_s + base.cpu_s
    return replace(shown, findings=(*findings, *against), dropped=dropped, cpu_s=cpu_s)


def _protected(tree: Tree) -> frozenset[str]:
    """What decides: tests and all that lies with them, packages that are brought along, and their lists."""
    tests = javascript_tests(tree)
    homes = {home for path in tests for home in _homes(path)}
    return frozenset(
        path
        for path in tree.files
        if path in tests
        or PurePosixPath(path).name in _CONTROL
        or _BROUGHT in PurePosixPath(path).parts
        or not homes.isdisjoint(map(str, PurePosixPath(path).parents))
    )


def _homes(path: str) -> set[str]:
    return {str(parent) for parent in PurePosixPath(path).parents if parent.name in _TEST_FOLDERS}


def _assembled(request: TestRequest) -> tuple[Tree, tuple[str, ...]]:
    """The candidate's code over the base's protected files, and what of it was left out or put back."""
    base, protected = request.base, request.profile.protected
    homes = {home for path in request.profile.arguments for home in _homes(path)}
    dropped = {
        path
        for path, file in request.candidate.files.items()
        if base.files.get(path) != file and (path in protected or _steers(path, file, homes))
    } | {path for path in protected if path not in request.candidate.files}
    changes = {path: base.files.get(path) for path in dropped}
    return request.candidate.with_files(changes), tuple(sorted(dropped))


def _steers(path: str, file: File, homes: set[str]) -> bool:
    """Whether an added or changed file could steer the tests."""
    place = PurePosixPath(path)
    return (
        file.mode is FileMode.LINK
        or not _LEFT_OUT.isdisjoint(place.parts)
        or not homes.isdisjoint(map(str, place.parents))
        or is_javascript_test(path)
    )


def _findings(base: Tree, tree: Tree) -> Iterable[str]:
    """Lines that a candidate adds and that could speak for the tests."""
    for path, file in base.changes_to(tree).items():
        if file is None or not path.endswith(SUFFIXES):
            continue
        known = set(_lines(base, path))
        for number, line in enumerate(_lines(tree, path), 1):
            if line not in known and (found := _SPEAKS.search(line)):
                yield f"{path}:{number} uses {found[0]!r}, which could speak for the tests"


def _lines(tree: Tree, path: str) -> list[str]:
    return tree.files[path].content.decode("utf-8", "replace").splitlines() if path in tree.files else []


async def _done(
    sandbox: Sandbox, layer: Layer, tree: Tree, files: tuple[str, ...], *, timeout_s: float
) -> Completed:
    """One run of `files` in a fresh sandbox."""
    job = Job(
        layer=layer,
        argv=("-I", "-B", "{trusted}/node_suite.py", "{trusted}/report.mjs", "{trusted}/guard.cjs", *files),
        tree=tree,
        trusted={
            "node_suite.py": (Path(__file__).parent / "node_suite.py").read_text(),
            "report.mjs": _REPORTER,
            "guard.cjs": (Path(__file__).parent / "guard.cjs").read_text(),
        },
        timeout_s=timeout_s,
    )
    done = await sandbox.run(job)
    if done.exit_code == _NO_NODE:
        raise MachineError("there is no `node` to run JavaScript tests with", "run `apt-get install nodejs`")
    return done


def _told(done: Completed, places: Mapping[str, str], whole: frozenset[str] = frozenset()) -> TestRun:
    """What a run showed.

    Args:
        places: Each test file by the places that speak for it.
        whole: Files that count as one test each.
    """
    records = list(_records(done.records))
    cases = _cases(records, places, whole)
    return TestRun(
        cases=tuple(cases),
        collected=tuple(case.id for case in cases),
        complete=bool(records) and records[-1].get("type") == "end",
        exit_code=done.exit_code,
        end=done.end,
        output=clean(done.output.decode(errors="replace"), 20_000),
        wall_s=done.wall_s,
        cpu_s=done.cpu_s,
        level=done.level,
        judge=JudgeKind.IN_PROCESS,
    )


def _records(data: bytes) -> Iterable[Mapping[str, Any]]:
    for line in data.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(record, dict):
            return
        yield record


def _cases(
    records: list[Mapping[str, Any]], places: Mapping[str, str], whole: frozenset[str]
) -> list[TestCase]:
    found: dict[str, list[TestCase]] = {}
    names: list[str] = []
    for record in records:
        if record.get("type") == "end":
            continue
        level, name = int(record.get("nesting") or 0), str(record.get("name"))
        names[level:] = [name]
        path = _relative(str(record.get("file") or ""), places)
        if record["type"] == "test:start" or path is None or record.get("suite"):
            continue
        # A file that cannot be loaded is told as one test that is called like it.
        is_file = level == 0 and _relative(name, places) is not None
        test = path if is_file else f"{path}::{' > '.join(names[: level + 1])}"
        found.setdefault(path, []).append(_case(test, record, is_file=is_file))
    files = dict.fromkeys(places.values())
    cases = [case for path in files for case in _of_file(path, found.get(path, []), path in whole)]
    return _numbered(cases)


def _of_file(path: str, cases: list[TestCase], is_whole: bool) -> list[TestCase]:
    if not is_whole or not cases:
        return cases
    bad = next((case for case in cases if case.outcome in (Outcome.FAILED, Outcome.ERROR)), None)
    return [
        TestCase(id=path, outcome=bad.outcome if bad else Outcome.PASSED, detail=bad.detail if bad else "")
    ]


def _case(test: str, record: Mapping[str, Any], *, is_file: bool) -> TestCase:
    passed = record["type"] == "test:pass"
    outcome = Outcome.PASSED if passed else Outcome.ERROR if is_file else Outcome.FAILED
    if record.get("skip"):
        outcome = Outcome.SKIPPED
    elif record.get("todo"):
        outcome = Outcome.XPASSED if passed else Outcome.XFAILED
    return TestCase(
        id=clean(test, 500),
        outcome=outcome,
        duration_s=float(record.get("ms") or 0.0) / 1000,
        detail="" if passed else clean(str(record.get("detail") or ""), 4000),
    )


def _numbered(cases: list[TestCase]) -> list[TestCase]:
    """Two tests of one name are told apart by their order."""
    seen: dict[str, int] = {}
    found = []
    for case in cases:
        seen[case.id] = number = seen.get(case.id, 0) + 1
        found.append(case if number == 1 else replace(case, id=f"{case.id} #{number}"))
    return found


def _relative(file: str, places: Mapping[str, str]) -> str | None:
    return next((path for place, path in places.items() if file == place or file.endswith(f"/{place}")), None)
