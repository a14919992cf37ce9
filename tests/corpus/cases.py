"""Reads the development corpus: programs with a bug, their tests, and what the reference says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One buggy program; `tests` and `held` are expressions over its names."""

    kind: str
    name: str
    buggy: str
    reference: str
    tests: tuple[str, ...]
    held: tuple[str, ...]

    @property
    def test_file(self) -> str:
        """A pytest module: one test per expression, its value as the reference gives it."""
        lines = ["import pytest", "", "from program import *", ""]
        for number, expression in enumerate(self.tests, 1):
            value = evaluate(self.reference, expression)
            lines += ["", f"def test_{number}():"]
            if value[0] == "raises":
                lines += [f"    with pytest.raises({value[1]}):", f"        {expression}", ""]
            else:
                lines += [f"    assert {expression} == {value[1]}", ""]
        return "\n".join(lines)


def evaluate(program: str, expression: str) -> tuple[str, str]:
    """What `expression` gives in `program`: ("value", repr) or ("raises", type name)."""
    names: dict[str, Any] = {}
    exec(compile(program, "program.py", "exec"), names)
    try:
        return "value", repr(eval(expression, names))
    except Exception as error:
        return "raises", type(error).__name__


def cases(folder: Path | None = None) -> Iterator[Case]:
    """Every case of the corpus, files and cases in order."""
    folder = folder or Path(__file__).resolve().parent / "small"
    for path in sorted(folder.glob("*.txt")):
        for block in path.read_text().split("=== ")[1:]:
            yield _parse(path.stem, block)


def _parse(kind: str, block: str) -> Case:
    head, held = block.split("--- held\n")
    head, tests = head.split("--- tests\n")
    name, *lines = head.splitlines()
    return Case(
        kind=kind,
        name=name,
        buggy="".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "-", "")),
        reference="".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "+", "")),
        tests=tuple(line for line in tests.splitlines() if line.strip()),
        held=tuple(line for line in held.splitlines() if line.strip()),
    )
