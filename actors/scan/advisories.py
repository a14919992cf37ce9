"""Known faults of packages, from files in the OSV format that an operator keeps; nothing is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from actors.scan.requirements import PYPI, Required
from orchestrator.errors import MachineError
from orchestrator.steps import Severity

_NEXT = "name a file or folder of OSV advisories under `dependencies.advisories`, as osv.dev gives them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advisory:
    """One fault of one package.

    Attributes:
        events: Per range, in order, versions at which it comes and goes: (version, is it there after).
        ends: Versions that are the last with it.
    """

    id: str
    summary: str
    versions: frozenset[str]
    events: tuple[tuple[tuple[Version, bool], ...], ...]
    ends: tuple[Version, ...]

    def affects(self, version: Version) -> bool:
        """Whether the version has the fault."""
        if str(version) in self.versions:
            return True
        return any(self._is_within(events, version) for events in self.events)

    def _is_within(self, events: Sequence[tuple[Version, bool]], version: Version) -> bool:
        there = False
        for at, comes in events:
            if version > at or (version == at and (comes or at not in self.ends)):
                there = comes
        return there

    @property
    def fixed(self) -> str:
        """The last version that was told to be without it, empty where none was."""
        gone = [at for events in self.events for at, comes in events if not comes and at not in self.ends]
        return str(max(gone)) if gone else ""

    def told(self) -> set[Version]:
        """Every version that it speaks of."""
        found = {at for events in self.events for at, _ in events}
        return found | {each for text in self.versions if (each := _version(text)) is not None}


Book = Mapping[tuple[str, str], Sequence[Advisory]]


def faults(book: Book, each: Required) -> Iterator[tuple[Severity, str]]:
    """How grave it is to require a package, and why: high where all versions that may be are affected."""
    for advisory in book.get((each.ecosystem, each.name), ()):
        if not each.versions:
            continue
        asked = {v for s in each.versions for part in s if (v := _version(part.version.removesuffix(".*")))}
        may_be = [
            version
            for version in advisory.told() | asked
            if any(one.contains(version, prereleases=True) for one in each.versions)
        ]
        affected = [version for version in may_be if advisory.affects(version)]
        if not affected:
            continue
        fixed = f", fixed in {advisory.fixed}" if advisory.fixed else ""
        summary = f": {advisory.summary}" if advisory.summary else ""
        if len(affected) == len(may_be):
            yield Severity.HIGH, f"has {advisory.id}{summary}{fixed}"
        else:
            yield Severity.LOW, f"may be a version with {advisory.id}{summary}{fixed}"


def book_of(place: str) -> Book:
    """The advisories of a file (one, a list, or one a line) or of the `.json` files below a folder.

    Raises:
        MachineError: It cannot be read, or holds something else.
    """
    if not place:
        return {}
    path = Path(place)
    try:
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        return _read(tuple((str(each), each.stat().st_mtime_ns) for each in files))
    except OSError as error:
        raise MachineError(f"advisories {place} cannot be read: {error.strerror}", _NEXT) from error


@lru_cache(maxsize=4)
def _read(files: tuple[tuple[str, int], ...]) -> Book:
    found: dict[tuple[str, str], list[Advisory]] = {}
    for name, _ in files:
        try:
            for record in _records(Path(name).read_text("utf-8")):
                for key, advisory in _advisories(record):
                    found.setdefault(key, []).append(advisory)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MachineError(f"advisories {name} cannot be read: {error!r:.200}", _NEXT) from error
    return found


def _records(text: str) -> Iterable[Mapping[str, Any]]:
    try:
        data = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return data if isinstance(data, list) else [data]


def _advisories(record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Advisory]]:
    if record.get("withdrawn"):
        return
    for each in record["affected"]:
        package = each.get("package")
        if package is None:
            continue
        ecosystem, name = str(package["ecosystem"]), str(package["name"])
        ranges = [part for part in each.get("ranges", []) if part.get("type") in ("ECOSYSTEM", "SEMVER")]
        events = tuple(tuple(_events(part["events"])) for part in ranges)
        ends = [
            _version(event["last_affected"])
            for part in ranges
            for event in part["events"]
            if "last_affected" in event
        ]
        yield (
            (ecosystem, canonicalize_name(name) if ecosystem == PYPI else name),
            Advisory(
                id=str(record["id"]),
                summary=" ".join(str(record.get("summary", "")).split())[:160],
                versions=frozenset(map(str, each.get("versions", []))),
                events=events,
                ends=tuple(end for end in ends if end is not None),
            ),
        )


def _events(events: Iterable[Mapping[str, str]]) -> Iterator[tuple[Version, bool]]:
    told = []
    for event in events:
        for kind, comes in (("introduced", True), ("fixed", False), ("last_affected", False)):
            if kind in event and (version := _version(event[kind])) is not None:
                told.append((version, comes))
    yield from sorted(told, key=lambda each: (each[0], not each[1]))


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
