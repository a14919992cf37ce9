"""The base's pytest configuration, read as pytest chooses it and cleaned of what disturbs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from actors.judge.config import Configuration, find, options, plugins
from actors.sandbox.layer import Plugin
from orchestrator.errors import TaskError
from orchestrator.tree import File, Tree


def tree(files: Mapping[str, str]) -> Tree:
    return Tree(files={path: File(content=text.encode()) for path, text in files.items()})


def cleaned(addopts: str | list[str]) -> tuple[str, ...]:
    return options(Configuration(values={"addopts": addopts}))


@pytest.mark.parametrize(
    ("files", "tests", "path"),
    [
        ({"pytest.ini": "", "pyproject.toml": "[tool.pytest.ini_options]\n"}, (), "pytest.ini"),
        ({".pytest.ini": "[pytest]", "tox.ini": "[pytest]\n"}, (), ".pytest.ini"),
        ({"pyproject.toml": "[project]\n", "tox.ini": "[pytest]\n"}, (), "tox.ini"),
        ({"tox.ini": "[tox]\n", "setup.cfg": "[tool:pytest]\n"}, (), "setup.cfg"),
        ({"setup.cfg": "[metadata]\n"}, (), None),
        ({"pytest.ini": "[pytest]", "sub/pytest.ini": "[pytest]"}, ("sub/test_a.py",), "sub/pytest.ini"),
        (
            {"pytest.ini": "[pytest]", "sub/pytest.ini": "[pytest]"},
            ("sub/test_a.py", "test_b.py"),
            "pytest.ini",
        ),
        ({"pytest.ini": "[pytest]", "sub/pytest.ini": "[pytest]"}, (), "pytest.ini"),
        ({"pyproject.toml": "[tool.pytest]\naddopts = ['-s']\n"}, (), "pyproject.toml"),
        ({"pytest.toml": "[pytest]\naddopts = ['-s']\n", "pytest.ini": "[pytest]"}, (), "pytest.toml"),
    ],
)
def test_the_file_that_pytest_would_choose(
    files: dict[str, str], tests: tuple[str, ...], path: str | None
) -> None:
    assert find(tree(files), tests).path == path


def test_a_file_that_cannot_be_parsed_is_the_callers() -> None:
    with pytest.raises(TaskError, match=r"pyproject\.toml"):
        find(tree({"pyproject.toml": "[["}))


@pytest.mark.parametrize(
    ("addopts", "kept"),
    [
        (
            "--cov=pkg --cov-report term-missing --cov-fail-under 90 --no-cov-on-fail -n auto -n4 --dist loadfile",  # noqa: E501 - one case, one line
            (),
        ),
        ("--cov pkg --strict-markers", ("--strict-markers",)),
        ("-x --exitfirst --maxfail=1 --maxfail 2 --lf --ff --sw --stepwise-skip --nf", ()),
        ("-v -vv -q -ra -rA -r fE --tb=short --tb long --color=yes --durations=10 -l --no-header", ()),
        ("-sv", ("-s",)),
        (
            "--junitxml=r.xml --junit-xml r.xml --html=x.html --self-contained-html --pdb --collect-only --co",  # noqa: E501 - one case, one line
            (),
        ),
        (
            "-m 'not slow' -k fast -W error -p no:doctest",
            ("-m", "not slow", "-k", "fast", "-W", "error", "-p", "no:doctest"),
        ),
        ("-p xdist -p pytest_cov -p mine", ("-p", "mine")),
        (
            "--import-mode=importlib --doctest-modules --strict",
            ("--import-mode=importlib", "--doctest-modules", "--strict"),
        ),
        (["--runslow", "--ignore=x", "tests unit"], ("--runslow", "--ignore=x", "tests unit")),
        (
            "--reruns 3 --randomly-seed=1 --benchmark-only --forked --timeout=5 --asyncio-mode=auto",
            ("--timeout=5", "--asyncio-mode=auto"),
        ),
        (
            "--confcutdir=x --deselect a::b --continue-on-collection-errors",
            ("--confcutdir=x", "--deselect", "a::b", "--continue-on-collection-errors"),
        ),
    ],
)
def test_what_selects_tests_stays_and_what_reports_goes(
    addopts: str | list[str], kept: tuple[str, ...]
) -> None:
    assert cleaned(addopts) == kept


def test_unbalanced_quotes_are_the_callers() -> None:
    with pytest.raises(TaskError, match="addopts"):
        cleaned("-k 'x")


def test_required_plugins_that_are_left_out_do_not_stop_the_run() -> None:
    assert options(Configuration(values={"required_plugins": "pytest-cov"})) == ("-o", "required_plugins=")


PLUGINS = tuple(
    Plugin(name=name, module=module, distribution=distribution)
    for name, module, distribution in [
        ("asyncio", "pytest_asyncio.plugin", "pytest-asyncio"),
        ("anyio", "anyio.pytest_plugin", "anyio"),
        ("hypothesispytest", "_hypothesis_pytestplugin", "hypothesis"),
        ("xdist", "xdist.plugin", "pytest-xdist"),
        ("pytest_cov", "pytest_cov.plugin", "pytest-cov"),
        ("timeout", "pytest_timeout", "pytest-timeout"),
        ("benchmark", "pytest_benchmark.plugin", "pytest-benchmark"),
    ]
)


@pytest.mark.parametrize(
    ("mentions", "kept", "chosen"),
    [
        ("", (), ("pytest_timeout",)),
        ("asyncio_mode = auto", (), ("pytest_asyncio.plugin", "pytest_timeout")),
        ("from hypothesis import given", (), ("_hypothesis_pytestplugin", "pytest_timeout")),
        ("def test_speed(benchmark):", (), ("pytest_timeout", "pytest_benchmark.plugin")),
        ("asyncio", ("-p", "no:asyncio", "-p", "no:timeout"), ()),
        ("import xdist, pytest_cov", (), ("pytest_timeout",)),
    ],
)
def test_plugins_load_when_they_help_or_are_named(
    mentions: str, kept: tuple[str, ...], chosen: tuple[str, ...]
) -> None:
    assert plugins(PLUGINS, mentions, kept) == chosen


@pytest.mark.parametrize(
    ("path", "text", "key"),
    [
        ("pyproject.toml", "tool = 3\n", "tool"),
        ("pyproject.toml", "[tool]\npytest = 'x'\n", "pytest"),
        ("pyproject.toml", "[tool.pytest]\nini_options = [1]\n", "ini_options"),
        ("pytest.toml", "pytest = 1\n", "pytest"),
    ],
)
def test_a_table_that_is_none_is_named(path: str, text: str, key: str) -> None:
    with pytest.raises(TaskError, match=f"`{key}` in {path}"):
        find(Tree(files={path: File(content=text.encode())}))
