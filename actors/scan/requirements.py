"""Which packages a tree's files ask for, in the words of PyPI and npm. Nothing of them is executed."""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from actors.scan.secrets import lines_of
from orchestrator.tree import Tree

PYPI, NPM = "PyPI", "npm"
_REQUIREMENTS = re.compile(
    r"(^|/)(([\w.-]*requirements|[\w.-]*constraints)[^/]*\.(txt|in)|requirements/[^/]+\.txt)$"
)
_NUMBER = r"v?(\d+)(?:\.(\d+|[xX*]))?(?:\.(\d+|[xX*]))?([-+.][\w.+-]*)?"
_PART = re.compile(rf"(\^|~>|~=|~|>=|<=|==|>|<|=)?\s*{_NUMBER}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Required:
    """One package that a file asks for.

    Attributes:
        text: As the file says it.
        versions: Sets of which it has to be in one; none for a text that names no versions we can read.
    """

    ecosystem: str
    name: str
    text: str
    versions: tuple[SpecifierSet, ...] = ()


def required(tree: Tree, path: str) -> list[Required]:
    """What the file at `path` asks for; nothing where it is no such file or cannot be read as one."""
    text = "\n".join(lines_of(tree, path))
    name = path.rpartition("/")[2]
    try:
        if _REQUIREMENTS.search(path):
            return [_python(line) for line in _lines(text)]
        if name in _READERS:
            return list(_READERS[name](text))
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError, configparser.Error):
        # No file of its kind; the tests tell of it.
        return []
    return []


def _lines(text: str) -> list[str]:
    joined = re.sub(r"\\\n", " ", text)
    found = (re.sub(r"(^|\s)#.*|\s--hash=\S+", "", line).strip() for line in joined.splitlines())
    return [line for line in found if line]


def _python(text: str) -> Required:
    try:
        found = Requirement(text.partition(" --")[0])
    except InvalidRequirement:
        return Required(ecosystem=PYPI, name="", text=text)
    sets = () if found.url else (found.specifier,)
    return Required(ecosystem=PYPI, name=canonicalize_name(found.name), text=text, versions=sets)


def _pyproject(text: str) -> Iterator[Required]:
    data = tomllib.loads(text)
    project = data.get("project", {})
    extras = [*project.get("optional-dependencies", {}).values(), *data.get("dependency-groups", {}).values()]
    for part in (project.get("dependencies", []), *extras, data.get("build-system", {}).get("requires", [])):
        yield from (_python(each) for each in part if isinstance(each, str))
    poetry = data.get("tool", {}).get("poetry", {})
    groups = [group.get("dependencies", {}) for group in poetry.get("group", {}).values()]
    for part in (poetry.get("dependencies", {}), poetry.get("dev-dependencies", {}), *groups):
        yield from _named(PYPI, {name: each for name, each in part.items() if name != "python"})


def _package_json(text: str) -> Iterator[Required]:
    package = json.loads(text)
    for key in ("dependencies", "devDependencies", "optionalDependencies", "peerDependencies"):
        yield from _named(NPM, package.get(key) or {})


def _package_lock(text: str) -> Iterator[Required]:
    for path, each in (json.loads(text).get("packages") or {}).items():
        if path and "version" in each:
            yield _exact(NPM, each.get("name") or path.rpartition("node_modules/")[2], str(each["version"]))


def _lock(text: str) -> Iterator[Required]:
    for each in tomllib.loads(text).get("package", []):
        if "version" in each:
            yield _exact(PYPI, str(each["name"]), str(each["version"]))


def _setup_cfg(text: str) -> Iterator[Required]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read_string(text)
    texts = [parser.get("options", "install_requires", fallback="")]
    if parser.has_section("options.extras_require"):
        texts += [value for _, value in parser.items("options.extras_require")]
    yield from (_python(line) for each in texts for line in _lines(each))


def _pipfile(text: str) -> Iterator[Required]:
    data = tomllib.loads(text)
    for key in ("packages", "dev-packages"):
        yield from _named(PYPI, data.get(key, {}))


_READERS = {
    "pyproject.toml": _pyproject,
    "setup.cfg": _setup_cfg,
    "Pipfile": _pipfile,
    "poetry.lock": _lock,
    "uv.lock": _lock,
    "pdm.lock": _lock,
    "package.json": _package_json,
    "package-lock.json": _package_lock,
}


def _named(ecosystem: str, table: Mapping[str, Any]) -> Iterator[Required]:
    for name, value in table.items():
        text = _range(value) if isinstance(value, Mapping) else str(value)
        plain = canonicalize_name(name) if ecosystem == PYPI else name
        yield Required(ecosystem=ecosystem, name=plain, text=f"{name}@{text}", versions=ranges(text))


def _range(table: Mapping[str, Any]) -> str:
    """What a table of Poetry or Pipenv asks for; a place that is no address is a file."""
    place = next((str(table[key]) for key in ("git", "url", "path", "file") if key in table), None)
    if place is None:
        return str(table.get("version", "*"))
    return place if "://" in place else f"file:{place}"


def _exact(ecosystem: str, name: str, version: str) -> Required:
    plain = canonicalize_name(name) if ecosystem == PYPI else name
    try:
        sets: tuple[SpecifierSet, ...] = (SpecifierSet(f"=={version}"),)
    except InvalidSpecifier:
        sets = ()
    return Required(ecosystem=ecosystem, name=plain, text=f"{name}@{version}", versions=sets)


def ranges(text: str) -> tuple[SpecifierSet, ...]:
    """The sets that a range of npm or Poetry means; none where it cannot be read."""
    try:
        return tuple(SpecifierSet(",".join(_set(part))) for part in text.split("||"))
    except (ValueError, InvalidSpecifier):
        return ()


def _set(text: str) -> Iterator[str]:
    text = text.strip()
    if text in ("", "*", "x", "latest"):
        return
    if " - " in text:
        low, _, high = text.partition(" - ")
        yield f">={low.strip()}"
        yield f"<={high.strip()}"
        return
    for part in filter(None, re.split(r",\s*|(?<=[\w*])\s+(?=[\^~<>=\d])", text)):
        found = _PART.match(part.strip())
        if not found:
            raise ValueError(part)
        yield from _bounds(found)


def _bounds(found: re.Match[str]) -> Iterator[str]:
    operator, *numbers, rest = found.groups()
    given = [int(each) for each in numbers if each and each.isdigit()]
    version = ".".join(map(str, given))
    if operator in (">=", "<=", ">", "<"):
        yield f"{operator}{version}{_suffix(rest)}"
    elif operator == "^":
        first = next((at for at, each in enumerate(given) if each), len(given) - 1)
        yield f">={version}{_suffix(rest)}"
        yield f"<{'.'.join(map(str, [*given[:first], given[first] + 1]))}"
    elif operator in ("~", "~>", "~=") or len(given) < len(numbers):
        at = min(1, len(given) - 1)
        yield f">={version}{_suffix(rest)}"
        yield f"<{'.'.join(map(str, [*given[:at], given[at] + 1]))}"
    else:
        yield f"=={version}{_suffix(rest)}"


def _suffix(rest: str | None) -> str:
    """What of a pre-release Python's versions can say."""
    found = re.match(r"-?(a|b|rc|alpha|beta)[.-]?(\d+)", rest or "")
    return f"{found[1]}{found[2]}" if found else ""
