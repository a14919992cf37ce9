"""The next version and its changelog."""

from __future__ import annotations

import pytest

from orchestrator.errors import TaskError
from orchestrator.release import release
from orchestrator.tree import File, FileMode, Tree

PYPROJECT = '[project]\nname = "x"\nversion = "1.4.2"\n\n[tool.x]\nversion = "9.9.9"\n'


def tree(**files: str) -> Tree:
    names = {"pyproject": "pyproject.toml", "package": "package.json", "changelog": "CHANGELOG.md"}
    return Tree(files={names[name]: File(content=text.encode()) for name, text in files.items()})


def text(changes: object, path: str) -> str:
    return changes[path].content.decode()  # type: ignore[index,no-any-return]


@pytest.mark.parametrize(("part", "version"), [("patch", "1.4.3"), ("minor", "1.5.0"), ("major", "2.0.0")])
def test_a_part_of_the_version_is_raised_wherever_it_is_told(part: str, version: str) -> None:
    made = release(tree(pyproject=PYPROJECT, package='{\n  "version": "1.4.2"\n}\n'), part, ["x"])

    assert made.version == version
    assert text(made.changes, "pyproject.toml") == PYPROJECT.replace("1.4.2", version)
    assert text(made.changes, "package.json") == f'{{\n  "version": "{version}"\n}}\n'


def test_the_new_section_comes_before_the_newest_one() -> None:
    made = release(
        tree(pyproject=PYPROJECT, changelog="# Log\n\nAll of it.\n\n## 1.4.2\n\n- Old.\n"), "patch", ["New."]
    )

    assert text(made.changes, "CHANGELOG.md") == (
        "# Log\n\nAll of it.\n\n## 1.4.3\n\n- New.\n\n## 1.4.2\n\n- Old.\n"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "# Changelog\n\n## 1.4.3\n\n- New.\n"),
        ("# Log\n\nNothing yet.\n", "# Log\n\nNothing yet.\n\n## 1.4.3\n\n- New.\n"),
    ],
)
def test_a_changelog_without_sections_gets_its_first(before: str, after: str) -> None:
    made = release(tree(pyproject=PYPROJECT, changelog=before), "patch", ["New."])

    assert text(made.changes, "CHANGELOG.md") == after


def test_a_note_stays_one_line_and_cannot_make_a_section() -> None:
    made = release(tree(pyproject=PYPROJECT), "patch", ["one\n## 9.9.9\n- two" + "x" * 900])

    lines = text(made.changes, "CHANGELOG.md").splitlines()
    assert [line for line in lines if line.startswith("#")] == ["# Changelog", "## 1.4.3"]
    assert max(map(len, lines)) <= 502


def test_bytes_and_modes_of_the_files_stay() -> None:
    odd = File(content=PYPROJECT.encode() + b"# \xff\n", mode=FileMode.EXECUTABLE)

    made = release(Tree(files={"pyproject.toml": odd}), "patch", [])

    changed = made.changes["pyproject.toml"]
    assert changed is not None and changed.content.endswith(b"# \xff\n")
    assert changed.mode is FileMode.EXECUTABLE


@pytest.mark.parametrize(
    ("changelog", "after"),
    [
        ("", "# Changelog\n\n## Unreleased\n\n- New.\n"),
        (
            "# Log\n\n## [unreleased]\n\n- Before.\n\n## 1.0.0\n",
            "# Log\n\n## [unreleased]\n\n- New.\n- Before.\n\n## 1.0.0\n",
        ),
    ],
)
def test_without_a_version_the_notes_are_unreleased(changelog: str, after: str) -> None:
    made = release(
        tree(pyproject='[project]\ndynamic = ["version"]\n', changelog=changelog), "patch", ["New."]
    )

    assert (made.version, list(made.changes)) == ("", ["CHANGELOG.md"])
    assert text(made.changes, "CHANGELOG.md") == after


def test_a_version_on_one_line_with_others_is_raised() -> None:
    made = release(tree(package='{"name": "x", "version": "0.3.1"}'), "minor", [])

    assert text(made.changes, "package.json") == '{"name": "x", "version": "0.4.0"}'


def test_a_part_that_is_none_is_refused() -> None:
    with pytest.raises(TaskError):
        release(tree(pyproject=PYPROJECT), "tiny", [])
