"""What a task's own files say it needs. They are data: no option, URL or path in them is followed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from actors.sandbox.layer import Layer
from orchestrator.tree import Tree

_FURTHER = re.compile(r"(requirements[-_.][\w-]+|(dev|test|tests)[-_]requirements|requirements/[\w-]+)\.txt")
_MOST = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """Requirements of a task.

    Attributes:
        needed: To run it: `requirements.txt` and `[project] dependencies`.
        further: For its tests and extras; they give versions, and are installed where a module is missing.
    """

    needed: tuple[Requirement, ...] = ()
    further: tuple[Requirement, ...] = ()

    def about(self, name: str) -> list[Requirement]:
        """What is said about one distribution."""
        return [each for each in (*self.needed, *self.further) if canonicalize_name(each.name) == name]


def declared(tree: Tree, layer: Layer) -> Declared:
    """Requirements that hold for the layer's interpreter; the task's own package is none of them."""
    project = _project(tree)
    own = canonicalize_name(str(project.get("name", "")))
    needed = [*_lines(tree, "requirements.txt"), *_strings(project.get("dependencies"))]
    further: list[str] = []
    for path in sorted(tree.files):
        if _FURTHER.fullmatch(path):
            further += _lines(tree, path)
    for group in _tables(project.get("optional-dependencies"), _pyproject(tree).get("dependency-groups")):
        further += _strings(group)
    return Declared(needed=tuple(_parsed(needed, own, layer)), further=tuple(_parsed(further, own, layer)))


def unmet(requirements: Iterable[Requirement], layer: Layer) -> list[Requirement]:
    """Requirements that no distribution of the layer meets."""
    installed = layer.distributions
    return [
        each
        for each in requirements
        if (version := installed.get(canonicalize_name(each.name))) is None
        or not each.specifier.contains(version, prereleases=True)
    ]


def _parsed(lines: Iterable[str], own: str, layer: Layer) -> Iterator[Requirement]:
    environment = {"python_version": "{}.{}".format(*layer.version), "extra": ""}
    environment["python_full_version"] = ".".join(map(str, layer.version))
    for line in [*lines][:_MOST]:
        try:
            each = Requirement(line)
        except InvalidRequirement:
            continue
        if each.url or canonicalize_name(each.name) == own:
            continue
        if each.marker is None or each.marker.evaluate(environment):
            yield each


def _lines(tree: Tree, path: str) -> list[str]:
    file = tree.files.get(path)
    text = file.content.decode(errors="replace") if file else ""
    bare = (re.sub(r"(^|\s)#.*|\s--hash=\S+|\\$", "", line).strip() for line in text.splitlines())
    return [line for line in bare if line and not line.startswith("-")]


def _pyproject(tree: Tree) -> Mapping[str, Any]:
    file = tree.files.get("pyproject.toml")
    try:
        return tomllib.loads(file.content.decode(errors="replace")) if file else {}
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}


def _project(tree: Tree) -> Mapping[str, Any]:
    project = _pyproject(tree).get("project")
    return project if isinstance(project, dict) else {}


def _strings(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _tables(*tables: object) -> Iterator[object]:
    for table in tables:
        if isinstance(table, dict):
            yield from table.values()
