"""A patch is written into a folder whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from actors.apply import apply_changes
from actors.beneath import Beneath
from actors.workspace import snapshot
from orchestrator.errors import TaskError
from orchestrator.patch import unified_diff
from orchestrator.tree import File, FileMode, Tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "pkg").mkdir(parents=True)
    (root / "pkg/a.py").write_text("x = 1\n")
    (root / "pkg/b.py").write_text("y = 1\n")
    (root / "README").write_text("hello\n")
    return root


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def test_changes_are_written_added_and_removed(folder: Path) -> None:
    base = snapshot(folder)
    changes = {
        "pkg/a.py": File(content=b"x = 2\n"),
        "new/deep/c.py": File(content=b"z = 1\n"),
        "pkg/b.py": None,
    }

    written = apply_changes(folder, base, changes)

    assert written == ("new/deep/c.py", "pkg/a.py", "pkg/b.py")
    assert snapshot(folder) == base.with_files(changes)


def test_the_result_is_what_git_apply_makes_of_the_diff(folder: Path, tmp_path: Path) -> None:
    base = snapshot(folder)
    changes = {"pkg/a.py": File(content=b"x = 2"), "pkg/b.py": None, "c.py": File(content=b"z\n")}
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", str(folder), str(other)], check=True)

    apply_changes(folder, base, changes)
    subprocess.run(["git", "apply", "-"], cwd=other, input=unified_diff(base, changes).encode(), check=True)

    assert snapshot(other) == snapshot(folder)


def test_permissions_are_kept_and_no_passing_file_stays(folder: Path) -> None:
    base = snapshot(folder)
    (folder / "pkg/a.py").chmod(0o640)

    apply_changes(folder, base, {"pkg/a.py": File(content=b"x = 2\n")})

    assert stat.S_IMODE((folder / "pkg/a.py").stat().st_mode) == 0o640
    assert sorted(os.listdir(folder / "pkg")) == ["a.py", "b.py"]


def test_an_executable_becomes_one(folder: Path) -> None:
    base = snapshot(folder)

    apply_changes(folder, base, {"README": File(content=b"#!/bin/sh\n", mode=FileMode.EXECUTABLE)})

    assert os.access(folder / "README", os.X_OK)


@pytest.mark.parametrize("edited", ["pkg/a.py", "README"])
def test_a_folder_that_changed_meanwhile_is_left_alone(folder: Path, edited: str) -> None:
    base = snapshot(folder)
    (folder / edited).write_text("mine\n")
    before = content(folder)

    with pytest.raises(TaskError, match=f"{edited} is not what the patch was made from"):
        apply_changes(folder, base, {"pkg/a.py": File(content=b"x = 2\n")})

    assert content(folder) == before


def test_a_file_unknown_to_the_base_is_not_overwritten(folder: Path) -> None:
    base = snapshot(folder)
    (folder / "new.py").write_text("mine\n")

    with pytest.raises(TaskError, match=r"new\.py is not what the patch was made from"):
        apply_changes(folder, base, {"new.py": File(content=b"theirs\n")})

    assert (folder / "new.py").read_text() == "mine\n"


def test_files_that_the_base_does_not_know_are_no_obstacle(folder: Path) -> None:
    base = snapshot(folder)
    (folder / "notes.txt").write_text("mine\n")

    apply_changes(folder, base, {"pkg/a.py": File(content=b"x = 2\n")})

    assert (folder / "notes.txt").read_text() == "mine\n"


@pytest.mark.parametrize(
    "path", ["../x.py", "/tmp/x.py", "pkg/../../x.py", "", "pkg//x.py", "./x.py", "a\0b"]
)
def test_a_path_that_leaves_the_folder_is_refused(folder: Path, path: str) -> None:
    with pytest.raises(TaskError, match="is not a path inside the folder"):
        apply_changes(folder, snapshot(folder), {path: File(content=b"")})


def test_a_link_that_leaves_the_folder_is_refused(folder: Path) -> None:
    with pytest.raises(TaskError, match="leaves the folder"):
        apply_changes(folder, snapshot(folder), {"l": File(content=b"../x", mode=FileMode.LINK)})


def test_nothing_is_written_through_a_symlinked_folder(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "new").symlink_to(outside)
    base = Tree(files={"README": File(content=b"hello\n")})

    with pytest.raises(TaskError):
        apply_changes(folder, base, {"new/x.py": File(content=b"")})

    assert list(outside.iterdir()) == []


def test_a_link_swapped_in_for_a_file_is_noticed_and_its_target_kept(folder: Path, tmp_path: Path) -> None:
    base = snapshot(folder)
    target = tmp_path / "target.py"
    target.write_text("x = 1\n")
    (folder / "pkg/a.py").unlink()
    (folder / "pkg/a.py").symlink_to(target)

    with pytest.raises(TaskError):
        apply_changes(folder, base, {"pkg/a.py": File(content=b"x = 2\n")})

    assert target.read_text() == "x = 1\n"


@pytest.mark.parametrize("broken", [1, 2, 3])
def test_a_failure_half_way_takes_everything_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    base = snapshot(folder)
    before = content(folder)
    place, calls = Beneath.place, []

    def failing(self: Beneath, staged: str, path: str) -> None:
        calls.append(path)
        if len(calls) == broken:
            raise OSError(28, "No space left on device")
        place(self, staged, path)

    monkeypatch.setattr(Beneath, "place", failing)
    changes = {name: File(content=b"changed\n") for name in ("README", "pkg/a.py", "added/c.py")}

    with pytest.raises(OSError, match="No space left"):
        apply_changes(folder, base, changes)

    assert content(folder) == before
    assert not (folder / "added").exists()


def test_a_file_where_the_patch_needs_a_folder_is_refused(folder: Path) -> None:
    base = snapshot(folder)
    before = content(folder)

    with pytest.raises(TaskError, match="git apply"):
        apply_changes(folder, base, {"README": None, "README/x.py": File(content=b"")})

    assert content(folder) == before
