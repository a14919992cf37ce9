"""Which files of a candidate may enter a sandbox."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.judge.assemble import assemble, protected_paths
from orchestrator.tree import File, FileMode, Tree
from orchestrator.verdict import TestProfile


def tree(files: Mapping[str, str]) -> Tree:
    return Tree(files={path: File(content=text.encode()) for path, text in files.items()})


BASE = tree(
    {
        "pkg/__init__.py": "",
        "pkg/core.py": "x = 1",
        "pkg/tests/test_core.py": "t",
        "pkg/tests/data/case.json": "{}",
        "pkg/tests/helper.py": "h",
        "conftest.py": "c",
        "pyproject.toml": "p",
        "test/notes.txt": "a folder called test that holds none",
        "odd_test.py": "o",
        "check_it.py": "k",
        "README.md": "r",
        "spec/golden.txt": "g",
    }
)
PROTECTED = protected_paths(BASE, patterns=["check_*.py"], protect=["spec/*"])
PROFILE = TestProfile(expected={}, protected=PROTECTED)


def test_what_decides_about_tests_is_protected() -> None:
    assert {
        "pkg/tests/test_core.py",
        "pkg/tests/data/case.json",
        "pkg/tests/helper.py",
        "conftest.py",
        "pyproject.toml",
        "odd_test.py",
        "check_it.py",
        "spec/golden.txt",
    } == PROTECTED


@pytest.mark.parametrize(
    "path",
    [
        "sub/conftest.py",
        "pytest.ini",
        ".pytest.ini",
        "tox.ini",
        "setup.cfg",
        "sub/pyproject.toml",
        "sitecustomize.py",
        "usercustomize.py",
        "x.pth",
        "pkg/core.so",
        "pkg/__pycache__/core.cpython-311.pyc",
        "x.dist-info/entry_points.txt",
        "x.egg-info/PKG-INFO",
        ".git/hooks/pre-commit",
        "test_new.py",
        "pkg/new_test.py",
        "pkg/tests/__init__.py",
        "pkg/tests/new.json",
    ],
)
def test_an_added_control_file_is_dropped(path: str) -> None:
    assembled = assemble(BASE, BASE.with_files({path: File(content=b"evil")}), PROFILE)

    assert assembled.dropped == (path,)
    assert assembled.tree == BASE


def test_protected_files_are_put_back_and_code_is_kept() -> None:
    candidate = BASE.with_files(
        {
            "pkg/tests/test_core.py": None,
            "pyproject.toml": File(content=b"evil"),
            "pkg/core.py": File(content=b"x = 2"),
            "README.md": None,
            "pkg/new.py": File(content=b"y = 1"),
        }
    )

    assembled = assemble(BASE, candidate, PROFILE)

    assert assembled.dropped == ("pkg/tests/test_core.py", "pyproject.toml")
    assert BASE.changes_to(assembled.tree) == {
        "pkg/core.py": File(content=b"x = 2"),
        "pkg/new.py": File(content=b"y = 1"),
        "README.md": None,
    }
    assert assembled.findings == ()


def test_links_that_a_candidate_brings_are_dropped() -> None:
    link = File(content=b"pkg/tests", mode=FileMode.LINK)

    assembled = assemble(BASE, BASE.with_files({"alias": link, "pkg/core.py": link}), PROFILE)

    assert assembled.dropped == ("alias", "pkg/core.py")
    assert "alias" not in assembled.tree.files


def test_a_file_cannot_take_the_place_of_a_folder_of_tests() -> None:
    candidate = Tree(files={"pkg": File(content=b"file"), "odd_test.py": File(content=b"")})

    assembled = assemble(BASE, candidate, PROFILE)

    assert "pkg" in assembled.dropped
    assert "pkg" not in assembled.tree.files


@pytest.mark.parametrize(
    "path", ["json.py", "pytest.py", "_pytest/__init__.py", "hmac/core.py", "src/os.py", "numpy.py"]
)
def test_hiding_an_installed_module_is_a_finding(path: str) -> None:
    assembled = assemble(
        BASE, BASE.with_files({path: File(content=b"x = 1")}), PROFILE, modules=frozenset({"numpy"})
    )

    assert [finding for finding in assembled.findings if "hides the installed one" in finding]


_PARTS = st.sampled_from(
    ["pkg", "tests", "conftest.py", "a.py", "test_a.py", "core.py", "__pycache__", "x.pth", "json.py"]
)
_PATHS = st.lists(_PARTS, min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(_PATHS, st.binary(max_size=4).map(lambda content: File(content=content)), max_size=8))
def test_whatever_a_candidate_holds_the_protected_files_are_the_bases(files: dict[str, File]) -> None:
    assembled = assemble(BASE, Tree(files=files), PROFILE)

    paths = assembled.tree.files
    assert all(paths[path] == BASE.files[path] for path in PROTECTED)
    assert not any(other.startswith(path + "/") for path in paths for other in paths)
    assert not [path for path in paths if path.endswith("conftest.py") and path not in BASE.files]
