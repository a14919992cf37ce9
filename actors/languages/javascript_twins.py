"""Twins of JavaScript's tests: they expect other values, and every one of them fails at its end.

Only where the test files take `node:test` and `node:assert` from changes, never their other text, so a
twin needs no parser. Which tests have one is seen on the base, whose code has nothing to hide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orchestrator.tree import File, Tree
from orchestrator.verdict import Outcome, TestRun

_HERE = Path(__file__).parent
_TAKEN = re.compile(
    rb"(?P<how>\bfrom\s*|\brequire\s*\(\s*|\bimport\s*\(\s*|\bimport\s+)(?P<quote>['\"])"
    rb"(?P<what>node:test|(?:node:)?assert(?:/strict)?)(?P=quote)"
)
# Written out, because node reads the names that a CommonJS module gives from its text.
_NAMES = (
    *("ok", "equal", "notEqual", "deepEqual", "notDeepEqual", "deepStrictEqual", "notDeepStrictEqual"),
    *("strictEqual", "notStrictEqual", "throws", "doesNotThrow", "rejects", "doesNotReject", "ifError"),
    *("match", "doesNotMatch", "fail", "AssertionError", "strict"),
)
_PASSED = (Outcome.PASSED, Outcome.XPASSED)
_MOST_TOLD = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """The modules that a twin takes in place of node's, in a folder that nobody can name before."""

    token: str
    number: int

    @property
    def folder(self) -> str:
        """Where they lie in the tree."""
        return f".{self.token}"

    def of(self, tree: Tree, tests: Iterable[str]) -> Tree:
        """`tree` with a twin in the place of each of the test files."""
        modules = {name: File(content=text.encode()) for name, text in self._modules().items()}
        changed: dict[str, File | None] = {}
        for place, path in self.places(tests).items():
            if file := tree.files.get(path):
                folder = place.rpartition("/")[0]
                changed |= {f"{folder}/{name}": module for name, module in modules.items()}
                changed[path] = File(content=self._taking(path, folder, file.content), mode=file.mode)
        return tree.with_files(changed)

    def places(self, tests: Iterable[str]) -> dict[str, str]:
        """Which test file speaks from where: node takes who calls `test` for the file that it is in."""
        return {f"{self.folder}/{number}/test.cjs": path for number, path in enumerate(tests)}

    def taken(self, tree: Tree, tests: Iterable[str]) -> frozenset[str]:
        """The test files that take `node:test` from the twin."""
        return frozenset(path for path in tests if b"node:test" in tree.files[path].content)

    def _taking(self, path: str, folder: str, content: bytes) -> bytes:
        up = "../" * (len(PurePosixPath(path).parts) - 1) or "./"

        def instead(found: re.Match[bytes]) -> bytes:
            name = found["what"].decode().removeprefix("node:").replace("/", "-")
            place = f"{up}{folder}/{name}.cjs".encode()
            return found["how"] + found["quote"] + place + found["quote"]

        return _TAKEN.sub(instead, content)

    def _modules(self) -> dict[str, str]:
        state = (
            f'"use strict";\nmodule.exports = {{ token: "{self.token}", number: {self.number}, held: 0 }};\n'
        )
        return {
            "state.cjs": state,
            "wrapped.cjs": (_HERE / "twin_assert.cjs").read_text(),
            "test.cjs": (_HERE / "twin_test.cjs").read_text(),
            "assert.cjs": _asserting("node:assert"),
            "assert-strict.cjs": _asserting("node:assert/strict"),
        }

    def tests(self, base: TestRun) -> frozenset[str]:
        """Ids that have a twin, as the run of the base's twins shows."""
        return frozenset(case.id for case in base.cases if self.token in case.detail)

    def contradictions(self, tests: frozenset[str], real: TestRun, other: TestRun) -> tuple[str, ...]:
        """In words, the tests that passed although their twin did, or although what it altered held."""
        cases = {case.id: case for case in other.cases}
        found = []
        for test, outcome in real.outcomes.items():
            twin = cases.get(test)
            if outcome not in _PASSED or twin is None or test not in tests:
                continue
            if twin.outcome in _PASSED or f"{self.token} held" in twin.detail:
                found.append(f"{test} passes whatever it expects: its twin contradicts it")
        return tuple(found[:_MOST_TOLD])


def _asserting(module: str) -> str:
    given = "".join(f"module.exports.{name} = made.{name};\n" for name in _NAMES)
    return (
        f'"use strict";\nconst {{ wrapped }} = require("./wrapped.cjs");\nconst real = require("{module}");\n'
        f"const made = wrapped(real);\nmodule.exports = made;\n{given}"
        "module.exports.strict = wrapped(real.strict);\n"
    )
