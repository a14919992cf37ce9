"""Reads the corpus of repairs: programs and packages with bugs, their tests, and what the reference says."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DEVELOPMENT = Path(__file__).resolve().parent / "development"
MEASURING = Path(__file__).resolve().parent / "measuring"
_TIMEOUT_S = 60

#: Prints the value of each expression; every expression sees the program as freshly imported.
_EVALUATOR = """
import contextlib, io, json, os, sys
sys.path.insert(0, os.getcwd())
header, expressions = json.loads(sys.stdin.read())
known, values = set(sys.modules), []
here = os.getcwd()
for expression in expressions:
    for name in set(sys.modules) - known:
        if (getattr(sys.modules[name], "__file__", None) or here).startswith(here):
            del sys.modules[name]
    names = {}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(header, names)
            values.append(["value", repr(eval(expression, names))])
    except Exception as error:
        values.append(["raises", type(error).__name__])
print(json.dumps(values))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One program with bugs; `buggy` and `reference` are its files, `tests` and `held` expressions over it.

    Attributes:
        kind: The class of its bugs: the name of the corpus file.
        header: Import statements that the expressions need.
        pytest: Test functions as people write them, instead of one per expression of `tests`.
    """

    kind: str
    name: str
    header: str
    buggy: Mapping[str, str]
    reference: Mapping[str, str]
    tests: tuple[str, ...]
    held: tuple[str, ...]
    pytest: str = ""

    def test_file(self, expected: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
        """A pytest module: a test per expression of `numbers`, with the values that the reference gives."""
        lines = ["import pytest", "", *self.header.splitlines(), ""]
        if self.pytest:
            return "\n".join([*lines, "", self.pytest])
        for number in numbers:
            kind, value = expected[number]
            lines += ["", f"def test_{number + 1}():"]
            if kind == "raises":
                lines += [
                    f"    with pytest.raises({_exception(value)}):",
                    f"        {self.tests[number]}",
                    "",
                ]
            else:
                lines += [f"    assert {self.tests[number]} == {value}", ""]
        return "\n".join(lines)


def evaluate(
    files: Mapping[str, str], header: str, expressions: Sequence[str]
) -> list[tuple[str, str]] | None:
    """Per expression ("value", repr) or ("raises", type name); None for a program that does not end."""
    with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
        _write(Path(folder), files)
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-B", "-W", "ignore", "-c", _EVALUATOR],
                input=json.dumps([header, list(expressions)]),
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            return None
    if done.returncode:
        return None
    return [(kind, value) for kind, value in json.loads(done.stdout.splitlines()[-1])]


def cases(folder: Path = DEVELOPMENT) -> Iterator[Case]:
    """Every case of a folder, files and cases in order."""
    for path in sorted(folder.glob("*.txt")):
        for block in path.read_text().split("=== ")[1:]:
            yield _parse(path.stem, block)


def complaints(case: Case) -> list[str]:
    """What is wrong with the case itself; empty for a sound one."""
    every = [*case.tests, *case.held]
    expected = evaluate(case.reference, case.header, every)
    if expected is None or expected != evaluate(case.reference, case.header, every):
        return [f"{case.kind} {case.name}: the reference gives no stable values"]
    if any(" at 0x" in value for _, value in expected):
        return [f"{case.kind} {case.name}: a value has no text of its own"]
    if case.pytest and (not _passes(case, case.reference) or _passes(case, case.buggy)):
        return [f"{case.kind} {case.name}: its test functions do not tell the reference from the bug"]
    if not case.pytest and evaluate(case.buggy, case.header, case.tests) == expected[: len(case.tests)]:
        return [f"{case.kind} {case.name}: no test shows the bug"]
    return []


def _passes(case: Case, files: Mapping[str, str]) -> bool:
    """Whether the case's own test functions pass on `files`."""
    with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
        _write(Path(folder), {**files, "test_program.py": case.test_file((), ())})
        line = [
            sys.executable,
            "-B",
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            folder,
        ]
        try:
            done = subprocess.run(line, cwd=folder, capture_output=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def _parse(kind: str, block: str) -> Case:
    name, *lines = block.splitlines()
    sections: dict[str, list[str]] = {}
    section = "file program.py"
    for line in lines:
        if line.startswith("--- "):
            section = line.removeprefix("--- ").strip()
            sections.setdefault(section, [])
        else:
            sections.setdefault(section, []).append(line)
    files = {
        title.removeprefix("file "): some for title, some in sections.items() if title.startswith("file ")
    }
    return Case(
        kind=kind,
        name=name,
        header="\n".join(sections.get("import", ["from program import *"])),
        buggy={path: _version(some, "-") for path, some in files.items()},
        reference={path: _version(some, "+") for path, some in files.items()},
        tests=tuple(line for line in sections["tests"] if line.strip()),
        held=tuple(line for line in sections["held"] if line.strip()),
        pytest="".join(f"{line}\n" for line in sections.get("pytest", ())),
    )


def _version(lines: Sequence[str], mark: str) -> str:
    return "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", mark, ""))


def _exception(name: str) -> str:
    """The exception as the test can name it; one of a library is only known to be an exception."""
    return name if name in __builtins__ else "Exception"  # type: ignore[operator]
