"""A plan: what a repository is made of before anybody writes it. A planner agent makes it from a goal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

# What a hosting service runs on a push; written for a new repository only, never changed by a patch.
CI_FILE = ".github/workflows/ci.yml"

# What every repository of more than one source file gets, whether or not the planner thought of it.
STANDARD = {
    "README.md": "What it is, how to install, run and test it",
    ".gitignore": "Caches, environments and build results of this stack",
    "Dockerfile": "A small image that runs it as an unprivileged user",
    CI_FILE: "GitHub Actions: install the dependencies and run the tests on every push",
}
_SOURCE = re.compile(r"(?<![\w./-])[\w./-]*\w\.(?:py|pyi|js|ts|go|rs|java|c|cpp|sh|rb)\b")


# What a program is made of; everything else of a plan stands beside it.
_CODE = frozenset((".py", ".pyi", ".js", ".mjs", ".cjs", ".ts", ".html", ".css", ".sql", ".go", ".rs", ".sh"))


class Part(StrEnum):
    """Which of a plan's files are meant."""

    SOURCES = "sources"
    EXTRAS = "extras"
    TESTS = "tests"
    ALL = "all"


class PlanWhen(StrEnum):
    """Which goals are planned before they are written."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """A file to be written. `needs` are other files of the plan that it imports or describes."""

    path: str
    purpose: str = ""
    needs: tuple[str, ...] = ()

    @property
    def is_test(self) -> bool:
        """Whether the test agent writes it."""
        return is_test_path(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be built.

    Attributes:
        project: Its type in a few words, such as "HTTP service".
        stack: Language and libraries that it is built with.
        files: Each once, those that others need first.
        dependencies: Packages that have to be installed to run it.
    """

    project: str
    stack: tuple[str, ...] = ()
    files: tuple[PlannedFile, ...] = ()
    dependencies: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[PlannedFile, ...]:
        """What the code agent writes."""
        return tuple(file for file in self.files if not file.is_test)

    @property
    def tests(self) -> tuple[PlannedFile, ...]:
        """What the test agent writes."""
        return tuple(file for file in self.files if file.is_test)


def part_of(plan: Plan, part: Part) -> tuple[PlannedFile, ...]:
    """The plan's files of one part: `all` are those that no test agent writes."""
    if part is Part.TESTS:
        return plan.tests
    if part is Part.ALL:
        return plan.sources
    is_code = part is Part.SOURCES
    return tuple(file for file in plan.sources if (PurePosixPath(file.path).suffix in _CODE) is is_code)


def is_test_path(path: str) -> bool:
    """Whether pytest takes `path` for a test and our test agent may write it."""
    name = PurePosixPath(path).name
    return name.startswith("test_") and name.endswith(".py")


def is_worth_planning(goal: str, when: PlanWhen, *, starts_empty: bool) -> bool:
    """Whether a planner is asked: not for a goal that names its one source file, nor on top of a folder.

    Args:
        goal: What to build.
        when: What the caller wants; `always` still needs an empty start.
        starts_empty: Nothing is there yet.
    """
    if when is PlanWhen.NEVER or not starts_empty:
        return False
    named = {name for name in _SOURCE.findall(goal) if not is_test_path(name)}
    return when is PlanWhen.ALWAYS or len(named) != 1


def in_order(files: Iterable[PlannedFile]) -> tuple[PlannedFile, ...]:
    """`files` with those that others need first, else as given.

    Raises:
        ValueError: They need each other in a circle; the message names it.
    """
    by_path = {file.path: file for file in files}
    done: dict[str, PlannedFile] = {}
    for path in by_path:
        _visit(path, by_path, done, [])
    return tuple(done.values())


def _visit(
    path: str, by_path: dict[str, PlannedFile], done: dict[str, PlannedFile], above: Sequence[str]
) -> None:
    if path in done:
        return
    if path in above:
        raise ValueError(" -> ".join([*above[above.index(path) :], path]))
    for need in by_path[path].needs:
        if need in by_path:
            _visit(need, by_path, done, [*above, path])
    done[path] = by_path[path]


def completed(files: Sequence[PlannedFile]) -> tuple[PlannedFile, ...]:
    """`files` with the standard ones where there are several source files."""
    sources = [file for file in files if file.path.endswith(".py") and not file.is_test]
    if len(sources) < 2:
        return tuple(files)
    known = {file.path.casefold() for file in files}
    missing = {
        path: purpose
        for path, purpose in STANDARD.items()
        if path.casefold() not in known and not (path == CI_FILE and any(map(_is_ci, known)))
    }
    return (*files, *(PlannedFile(path=path, purpose=purpose) for path, purpose in missing.items()))


def _is_ci(path: str) -> bool:
    return path.startswith((".ci/", ".circleci/", "ci/")) or path == "jenkinsfile"
