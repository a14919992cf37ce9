"""The rules for changes, and diffs that git and patch(1) really apply."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.codec import from_json, to_json
from orchestrator.errors import AgentError, StoreDamaged
from orchestrator.patch import check_changes, check_path, unified_diff
from orchestrator.report import changes_from, changes_json, diff_text
from orchestrator.tree import File, FileMode, Tree


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "/etc/passwd",
            "~/x",
            "-rf",
            "a/../b",
            "a//b",
            "./a",
            "a/.",
            "..",
            "a\\b",
            "C:x",
            "a\0b",
            "a\nb",
        ),
        *(
            "a/ b",
            "b.",
            "b ",
            "con",
            "NUL.py",
            "aux.txt",
            "a\u202eb",
            "a\u200bb",
            "ﬁle.py",
            "x" * 241,
            "a/" * 13 + "b",
        ),
        *("\ud800.py", "a\u2028b"),
    ],
)
def test_paths_that_mean_something_else_somewhere_are_refused(path: str) -> None:
    with pytest.raises(AgentError, match="cannot be written"):
        check_path(path)


@pytest.mark.parametrize("path", ["a.py", "src/pkg/mod.py", "docs/read me.md", "naïve.py", "a-b_c.d.e"])
def test_ordinary_paths_are_fine(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        *(
            "conftest.py",
            "sub/conftest.py",
            "pytest.ini",
            "setup.cfg",
            "sitecustomize.py",
            "x.pth",
            "m.so",
            "m.pyc",
        ),
        *(
            ".git/hooks/pre-commit",
            ".GIT/config",
            ".github/workflows/x.yml",
            "p.egg-info/entry_points.txt",
            "CONFTEST.PY",
        ),
    ],
)
def test_files_that_steer_tools_are_refused(path: str) -> None:
    with pytest.raises(AgentError, match="steers tools"):
        check_changes(Tree(), {path: File(content=b"")})


def test_gitignore_is_an_ordinary_file() -> None:
    assert check_changes(Tree(), {".gitignore": File(content=b"x\n")})


@pytest.mark.parametrize(
    ("base", "changes", "told"),
    [
        ({"A.py": b""}, {"a.py": b""}, "one file on some systems"),
        ({"a": b""}, {"a/b.py": b""}, "is a file and the folder"),
        ({}, {"big.py": b"x" * 512_001}, "at most 512000 a file"),
        ({}, {f"f{n}.py": b"" for n in range(201)}, "at most 200"),
        ({}, {f"f{n}.py": b"x" * 450_000 for n in range(9)}, "at most 4000000"),
    ],
)
def test_maps_that_no_folder_can_hold_are_refused(
    base: dict[str, bytes], changes: dict[str, bytes], told: str
) -> None:
    tree = Tree(files={path: File(content=content) for path, content in base.items()})

    with pytest.raises(AgentError, match=told):
        check_changes(tree, {path: File(content=content) for path, content in changes.items()})


def test_links_and_protected_paths_are_refused() -> None:
    with pytest.raises(AgentError, match="link"):
        check_changes(Tree(), {"a": File(content=b"b", mode=FileMode.LINK)})
    with pytest.raises(AgentError, match="protected"):
        check_changes(Tree(), {"a.py": None}, protected=frozenset({"a.py"}))


_NAMES = st.sampled_from(["a.py", "dir/b.py", "with space.py", "naïve.py", 'quo"te.py', "deep/er/c.txt"])
_CONTENT = st.lists(
    st.sampled_from(["x = 1", "", "y", "\tz\r", "é", "\x0c", "\u2028line", "--- a", "+++ b", "@@ -1 +1 @@"]),
    max_size=6,
).flatmap(lambda lines: st.sampled_from(["\n".join(lines), "\n".join(lines) + "\n"]))
_TREES = st.dictionaries(_NAMES, _CONTENT.map(lambda text: File(content=text.encode())), max_size=4)


@settings(max_examples=40, deadline=None)
@given(before=_TREES, after=_TREES)
def test_git_apply_turns_one_tree_into_the_other(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, File], after: dict[str, File]
) -> None:
    folder = tmp_path_factory.mktemp("apply")
    base = Tree(files=before)
    write(folder, before)
    diff = diff_text(base, base.changes_to(Tree(files=after)))

    if diff:
        subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], cwd=folder, input=diff, check=True)

    assert read(folder) == {path: file.content for path, file in after.items()}


def test_patch_applies_it_too(tmp_path: Path) -> None:
    before = {
        "a.py": File(content=b"one\ntwo\nthree"),
        "my file.py": File(content=b"x\n"),
        "gone.py": File(content=b"y\n"),
    }
    after = {
        "a.py": File(content=b"one\n2\nthree\n"),
        "my file.py": File(content=b"z\n"),
        "new.py": File(content=b"n\n"),
    }
    base = Tree(files=before)
    write(tmp_path, before)

    subprocess.run(
        ["patch", "-p1", "--silent"],
        cwd=tmp_path,
        input=diff_text(base, base.changes_to(Tree(files=after))),
        check=True,
    )

    assert read(tmp_path) == {path: file.content for path, file in after.items()}


def test_bytes_that_are_not_utf8_survive_in_the_diff() -> None:
    base = Tree(files={"a.py": File(content=b"# caf\xe9\nx = 1\n")})

    diff = unified_diff(base, {"a.py": File(content=b"# caf\xe9\nx = 2\n")})

    assert b" # caf\xe9\n-x = 1\n+x = 2\n" in diff.encode("utf-8", "surrogateescape")


def test_an_unchanged_file_is_not_in_the_diff() -> None:
    base = Tree(files={"a.py": File(content=b"x\n")})

    assert unified_diff(base, {"a.py": File(content=b"x\n")}) == ""


@given(
    st.dictionaries(
        st.text(), st.none() | st.builds(File, content=st.binary(), mode=st.sampled_from(FileMode))
    )
)
def test_changes_survive_the_store(changes: dict[str, File | None]) -> None:
    encodable = {path: file for path, file in changes.items() if path.isascii()}

    assert changes_from(changes_json(encodable)) == encodable


def test_a_damaged_value_is_told_apart() -> None:
    with pytest.raises(StoreDamaged, match="cannot be read"):
        from_json(File, b'{"mode": "file"}')
    assert from_json(File, to_json(File(content=b"\xff"))) == File(content=b"\xff")


def write(folder: Path, files: dict[str, File]) -> None:
    for path, file in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(file.content)


def read(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
