"""Graphs by name or file: those that ship with Raysmith, and those that a person wrote."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path

import yaml

from cluster.strict_yaml import NoAliases
from orchestrator.declaration import MOST_BYTES, Declaration, declared
from orchestrator.errors import TaskError
from orchestrator.graph_check import checked

_SUFFIXES = (".yaml", ".yml", ".json")


def shipped_names() -> tuple[str, ...]:
    """The graphs that ship, sorted."""
    folder = resources.files("configs").joinpath("graphs")
    return tuple(sorted(each.name.removesuffix(".yaml") for each in folder.iterdir() if _is_graph(each.name)))


def _is_graph(name: str) -> bool:
    return name.endswith(".yaml")


@cache
def shipped(name: str) -> Declaration:
    """The graph that ships as `name`.

    Raises:
        TaskError: There is none.
    """
    if name not in shipped_names():
        raise TaskError(f"no graph is called {name!r}", f"choose one of {', '.join(shipped_names())}")
    text = resources.files("configs").joinpath("graphs", f"{name}.yaml").read_text()
    return parsed(text, f"configs/graphs/{name}.yaml")


def is_file(given: str) -> bool:
    """Whether `given` means a file and no name."""
    return "/" in given or given.endswith(_SUFFIXES)


def graph_of(given: str) -> Declaration:
    """The graph of a file, or the one that ships under a name.

    Raises:
        TaskError: There is none, or it cannot run.
    """
    return from_file(Path(given)) if is_file(given) else shipped(given)


def from_file(path: Path) -> Declaration:
    """The graph that the YAML or JSON file `path` declares.

    Raises:
        TaskError: It cannot be read, or what it declares cannot run.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise TaskError(f"graph file {path} cannot be read: {reason}", "check the path") from error
    if len(content) > MOST_BYTES:
        raise TaskError(f"graph file {path} is larger than {MOST_BYTES // 1024} KiB", "name a graph file")
    return parsed(text, str(path))


def parsed(text: str, source: str) -> Declaration:
    """The graph that YAML or JSON `text` declares.

    Raises:
        TaskError: It is neither, an unknown key or wrong value, or a graph that cannot run.
    """
    try:
        values = yaml.load(text, Loader=NoAliases)  # noqa: S506  # a SafeLoader, stricter
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")
        raise TaskError(f"{source} is not YAML: {reason}", "mend the line it names") from error
    return checked(declared(values, source), source)


def stored(content: bytes) -> Declaration:
    """The graph that a run keeps.

    Raises:
        TaskError: Only a newer Raysmith can read it.
    """
    return declared(json.loads(content), "the run's graph")
