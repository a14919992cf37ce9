"""What the base's own pytest configuration says, read as pytest would choose it."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from actors.judge.text import words
from actors.sandbox.layer import Plugin
from orchestrator.errors import TaskError
from orchestrator.tree import Tree

CONFIG_FILES = (
    "pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg",
)  # fmt: skip
_SECTIONS = {"tox.ini": "pytest", "setup.cfg": "tool:pytest"}

_DISRUPTIVE = words(
    """
    xdist xdist.looponfail pytest_cov randomly random_order random-order rerunfailures sugar html metadata
    forked instafail testmon picked profiling pudb benchmark json-report jsonreport reportlog split
    flakefinder repeat pytest-profiling monitor watch rich emoji clarity tldr progress report_parser
    memray codspeed
    """
)
_ON_REQUEST = {
    "schemathesis": "schemathesis",
    "langsmith_plugin": "langsmith",
    "playwright": "playwright",
    "hypothesispytest": "hypothesis",
    "anyio": "anyio",
    "asyncio": "asyncio",
    "aiohttp": "aiohttp|aiohttp_client",
    "typeguard": "typeguard",
    "benchmark": r"\bbenchmark\b",
    "django": "django",
    "Faker": r"\bfaker\b",
    "respx": "respx",
    "logfire": "logfire",
    "platformdirs": "platformdirs",
    "syrupy": r"\bsnapshot\b",
    "jaxtyping": "jaxtyping",
}
# Options that change how a run is reported, repeated or stopped, never which tests there are.
_DROP = re.compile(
    r"--(cov($|[-=])|no-cov|numprocesses|maxprocesses|dist($|=)|tx($|=)|looponfail|exitfirst|maxfail|lf$|last-failed"
    r"|ff$|failed-first|nf$|new-first|sw$|sw-|stepwise|junit|html|self-contained-html|css|pdb|trace$|durations|color"
    r"|code-highlight|verbose|quiet|verbosity|reruns|only-rerun|randomly|random-order|forked|boxed|benchmark|cache-"
    r"|collect-only|co$|setup-only|setup-plan|setup-show|showlocals|no-showlocals|tb($|=)|no-header|no-summary"
    r"|disable-warnings|basetemp|strict-config|pastebin|report-log|json-report|show-capture|full-trace|debug"
    r"|rootdir|profile|memray|instafail|testmon|picked|splits|group($|=)|force-sugar|old-summary|help|version|fixtures"
    r"|markers$|xfail-tb|force-short-summary|no-fold-skipped)"
)
_DROP_WITH_VALUE = words(
    """
    -n --numprocesses --maxprocesses --dist --tx --maxfail --cov --cov-report --cov-config
    --cov-fail-under --cov-context --junitxml --junit-xml --junit-prefix --html --css --durations
    --durations-min --color -r --tb --basetemp --reruns --reruns-delay --only-rerun --randomly-seed
    --pdbcls --pastebin --report-log --show-capture --rootdir --json-report-file --verbosity --splits
    --group --code-highlight --lfnf --last-failed-no-failures --random-order-bucket --random-order-seed
    """
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The settings of the one file that pytest would read, and where it is."""

    path: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def words(self, name: str) -> list[str]:
        """A setting as pytest splits it: a list stays one, a string is split like a command line."""
        value = self.values.get(name, "")
        if isinstance(value, list):
            return [str(word) for word in value]
        return shlex.split(str(value), comments=name == "addopts" and "\n" in str(value))


def find(tree: Tree, tests: Sequence[str] = ()) -> Configuration:
    """The configuration that pytest picks for `tests`: the nearest above them all.

    Raises:
        TaskError: The file it would pick cannot be parsed.
    """
    for folder in _folders(tests):
        for name in CONFIG_FILES:
            path = str(PurePosixPath(folder, name)) if folder else name
            if path in tree.files:
                values = _parse(path, tree.files[path].content)
                if values is not None:
                    return Configuration(path=path, values=values)
    return Configuration()


def _folders(tests: Sequence[str]) -> Iterator[str]:
    paths = [test.partition("::")[0] for test in tests if not test.startswith("-")]
    folders = [path if not path.endswith(".py") else str(PurePosixPath(path).parent) for path in paths]
    common = os.path.commonpath(folders) if folders else ""
    place = PurePosixPath(common)
    while str(place) not in (".", "/"):
        yield str(place)
        place = place.parent
    yield ""


def _parse(path: str, content: bytes) -> Mapping[str, Any] | None:
    """Settings in a file, or None when pytest would look on."""
    name = PurePosixPath(path).name
    try:
        text = content.decode()
        if name.endswith(".toml"):
            return _from_toml(name, tomllib.loads(text))
        return _from_ini(name, text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, configparser.Error) as error:
        raise TaskError(f"{path} cannot be parsed: {error}", "mend it; pytest would refuse it too") from error


def _from_toml(name: str, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if name != "pyproject.toml":
        return _table(data, "pytest", name)
    tool = _table(_table(data, "tool", name), "pytest", name)
    if "ini_options" in tool:
        return _table(tool, "ini_options", name)
    return tool or None


def _table(data: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    found = data.get(key, {})
    if not isinstance(found, dict):
        raise TaskError(f"`{key}` in {name} is {str(found)[:80]!r} and holds no settings", "make it a table")
    return found


def _from_ini(name: str, text: str) -> Mapping[str, Any] | None:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    section = _SECTIONS.get(name, "pytest")
    if section in parser:
        return dict(parser[section])
    return None if name in _SECTIONS else {}


def options(configuration: Configuration) -> tuple[str, ...]:
    """`addopts` without what reports, repeats, stops or parallelises."""
    try:
        words = configuration.words("addopts")
    except ValueError as error:
        raise TaskError(
            f"addopts in {configuration.path} cannot be split: {error}", "mend its quotes"
        ) from error
    kept = list(_kept(words))
    if "required_plugins" in configuration.values:
        kept += ["-o", "required_plugins="]
    return tuple(kept)


def _kept(words: Sequence[str]) -> Iterator[str]:
    left = list(words)
    while left:
        word = left.pop(0)
        if word in _DROP_WITH_VALUE:
            if left and not left[0].startswith("-"):
                left.pop(0)
        elif word == "-p":
            name = left.pop(0) if left else ""
            if name.startswith("no:") or not _is_disruptive(name):
                yield from ("-p", name)
        elif re.fullmatch(r"-[xvqsl]+", word):
            yield from ["-s"] if "s" in word else []
        elif not (_DROP.match(word) or re.match(r"-[rn].", word)):
            yield word


def _is_disruptive(name: str) -> bool:
    top = name.partition(".")[0]
    return bool({name, top, top.removeprefix("pytest_"), top.removeprefix("pytest-")} & _DISRUPTIVE)


def plugins(available: Sequence[Plugin], mentions: str, kept: Sequence[str]) -> tuple[str, ...]:
    """Modules of the plugins to load.

    Args:
        available: Announced by the layer.
        mentions: Text of the base's tests and configuration: heavy plugins load only when named there.
        kept: Sanitised options; `-p no:NAME` in them keeps a plugin out.
    """
    refused = {word.removeprefix("no:") for word in kept if word.startswith("no:")}
    chosen = []
    for plugin in available:
        if plugin.name in refused or (_is_disruptive(plugin.name) and plugin.name not in _ON_REQUEST):
            continue
        wanted = _ON_REQUEST.get(plugin.name)
        if wanted is None and plugin.distribution in ("ray", "langsmith", "schemathesis"):
            wanted = plugin.distribution
        if wanted is None or re.search(wanted, mentions):
            chosen.append(plugin.module)
    return tuple(dict.fromkeys(chosen))
