"""Awkward but honest suites, and which way a runner that may be quick has to take with each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_TEXT = Path(__file__).with_name("awkward") / "suites.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class AwkwardSuite:
    """`way` is `warm`, or `fresh` where a fork could show something else."""

    name: str
    way: str
    files: Mapping[str, str]


def suites() -> Iterator[AwkwardSuite]:
    """All of them, read from `awkward/suites.txt`: `==== name | way`, then a `--- path` before each file."""
    for part in _TEXT.read_text().split("==== ")[1:]:
        head, _, body = part.partition("\n")
        name, _, way = head.partition(" | ")
        files = {}
        for file in ("\n" + body).split("\n--- ")[1:]:
            path, _, text = file.partition("\n")
            files[path] = text if text.endswith("\n") or not text else text + "\n"
        yield AwkwardSuite(name=name, way=way, files=files)
