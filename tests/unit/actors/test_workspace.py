"""Snapshots of friendly, odd and hostile folders."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.beneath import check_path, leaves
from actors.workspace import SnapshotSettings, check_testable, snapshot, undecodable
from orchestrator.errors import TaskError
from orchestrator.tree import File, FileMode, Tree


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def test_a_plain_folder_is_walked_without_caches_and_environments(tmp_path: Path) -> None:
    write(tmp_path, {"pkg/a.py": "x = 1\n", "data.bin": b"\xff\x00", "__pycache__/a.pyc": b"", "a.pyc": b""})
    write(tmp_path, {"node_modules/x.js": "", ".venv/b.py": "", "own-env/pyvenv.cfg": "", "own-env/c.py": ""})

    tree = snapshot(tmp_path)

    assert tree.files == {"data.bin": File(content=b"\xff\x00"), "pkg/a.py": File(content=b"x = 1\n")}


def test_executables_and_inner_links_keep_their_kind(tmp_path: Path) -> None:
    write(tmp_path, {"bin/run": "#!/bin/sh\n"})
    (tmp_path / "bin/run").chmod(0o755)
    (tmp_path / "link").symlink_to("bin/run")
    (tmp_path / "bin/up").symlink_to("../bin")

    tree = snapshot(tmp_path)

    assert tree.files["bin/run"].mode is FileMode.EXECUTABLE
    assert tree.files["link"] == File(content=b"bin/run", mode=FileMode.LINK)
    assert tree.files["bin/up"] == File(content=b"../bin", mode=FileMode.LINK)
    assert "bin/up/run" not in tree.files


def test_a_work_tree_gives_what_git_tracks_or_would_track(tmp_path: Path) -> None:
    git(tmp_path, "init")
    write(
        tmp_path, {".gitignore": "secret.txt\n", "a.py": "", "gone.py": "", "secret.txt": "s", "new.py": ""}
    )
    write(tmp_path, {"env/pyvenv.cfg": "", "env/lib/x.py": "", ".venv/lib/y.py": ""})
    git(tmp_path, "add", ".gitignore", "a.py", "gone.py")
    (tmp_path / "gone.py").unlink()

    assert set(snapshot(tmp_path).files) == {".gitignore", "a.py", "new.py"}


def test_a_subfolder_of_a_work_tree_gives_itself_alone(tmp_path: Path) -> None:
    git(tmp_path, "init")
    write(tmp_path, {"top.py": "", "sub/a.py": "", "sub/deep/b.py": ""})
    git(tmp_path, "add", ".")

    assert set(snapshot(tmp_path / "sub").files) == {"a.py", "deep/b.py"}


def test_a_folder_that_its_repository_ignores_is_walked(tmp_path: Path) -> None:
    git(tmp_path, "init")
    write(tmp_path, {".gitignore": "out/\n", "out/a.py": ""})

    assert set(snapshot(tmp_path / "out").files) == {"a.py"}


def test_submodules_and_inner_repositories_are_left_out_with_a_note(tmp_path: Path) -> None:
    inner = write(tmp_path / "inner", {"x.py": ""})
    git(inner, "init")
    git(inner, "add", ".")
    git(inner, "commit", "-m", "x")
    outer = write(tmp_path / "outer", {"a.py": ""})
    git(outer, "init")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "add", str(inner), "module")
    git(outer, "clone", str(inner), "clone")
    notes: list[str] = []

    tree = snapshot(outer, note=notes.append)

    assert set(tree.files) == {".gitmodules", "a.py"}
    assert sorted(note.split()[0] for note in notes) == ["clone/", "module"]


def test_a_hostile_git_configuration_runs_nothing(tmp_path: Path) -> None:
    git(tmp_path, "init")
    write(tmp_path, {"a.py": ""})
    mark = tmp_path.parent / "ran"
    script = tmp_path.parent / "evil.sh"
    script.write_text(f"#!/bin/sh\ntouch {mark}\n")
    script.chmod(0o755)
    git(tmp_path, "config", "core.fsmonitor", str(script))
    git(tmp_path, "config", "core.hooksPath", str(tmp_path.parent))

    assert set(snapshot(tmp_path).files) == {"a.py"}
    assert not mark.exists()


def test_git_variables_of_the_caller_do_not_show_another_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write(tmp_path / "other", {"b.py": ""})
    git(other, "init")
    here = write(tmp_path / "here", {"a.py": ""})
    git(here, "init")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))

    assert set(snapshot(here).files) == {"a.py"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub/../../outside", "self/../.."])
def test_a_link_that_leaves_the_folder_is_refused_by_name(tmp_path: Path, target: str) -> None:
    root = write(tmp_path / "root", {"a.py": "", "sub/b.py": ""})
    (root / "self").symlink_to(".")
    (root / "escape").symlink_to(target)

    with pytest.raises(TaskError, match=r"escape.*leaves the folder"):
        snapshot(root)


def test_a_link_loop_and_a_dangling_link_inside_are_kept(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": ""})
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    (tmp_path / "nowhere").symlink_to("not/there")

    assert {"x", "y", "nowhere"} <= set(snapshot(tmp_path).files)


def test_a_tracked_file_whose_folder_became_a_link_is_never_read_through_it(tmp_path: Path) -> None:
    root = write(tmp_path / "root", {"d/secret": "mine", "a.py": ""})
    write(tmp_path / "root", {"e/secret": "inside"})
    git(root, "init")
    git(root, "add", ".")
    (root / "d/secret").unlink()
    (root / "d").rmdir()
    (root / "d").symlink_to("e")

    tree = snapshot(root)

    assert "d/secret" not in tree.files
    assert tree.files["d"].mode is FileMode.LINK


def test_fifos_and_sockets_are_left_out_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.py": ""})
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
        notes: list[str] = []

        tree = snapshot(tmp_path, note=notes.append)

    assert set(tree.files) == {"a.py"}
    assert sorted(notes) == [
        "pipe is not a regular file and was left out",
        "sock is not a regular file and was left out",
    ]


def test_a_name_that_is_no_text_is_left_out_with_a_note(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": ""})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("")
    notes: list[str] = []

    assert set(snapshot(tmp_path, note=notes.append).files) == {"a.py"}
    assert "not UTF-8" in notes[0]


def test_too_many_files_name_the_limit_and_the_setting(tmp_path: Path) -> None:
    write(tmp_path, {f"{number}.py": "" for number in range(4)})

    with pytest.raises(TaskError, match=r"more than 3 files.*snapshot\.max_files"):
        snapshot(tmp_path, SnapshotSettings(max_files=3))


def test_too_many_bytes_name_the_limit_and_the_setting(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "", "big.bin": b"x" * 2**20, "more.bin": b"x"})

    with pytest.raises(TaskError, match=r"more than 1 MiB.*more\.bin.*snapshot\.max_mib"):
        snapshot(tmp_path, SnapshotSettings(max_mib=1))


def test_exactly_the_limit_still_fits(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "", "big.bin": b"x" * 2**20})

    assert len(snapshot(tmp_path, SnapshotSettings(max_mib=1, max_files=2)).files) == 2


def test_a_very_deep_folder_is_refused_and_does_not_break_the_walk(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    try:
        with pytest.raises(TaskError, match="deeper than 64 levels"):
            snapshot(tmp_path)
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": ""})
    (tmp_path / "a.py").chmod(0)

    with pytest.raises(TaskError, match=r"a\.py cannot be read"):
        snapshot(tmp_path)


def test_a_path_that_is_a_file_or_absent_says_so(tmp_path: Path) -> None:
    write(tmp_path, {"package/a.py": ""})

    with pytest.raises(TaskError, match=r"a\.py is a file; give the folder that holds it"):
        snapshot(tmp_path / "package/a.py")
    with pytest.raises(TaskError, match=r"does not exist; did you mean .*package\?"):
        snapshot(tmp_path / "packge")


def test_the_same_folder_gives_the_same_digest_with_and_without_git(tmp_path: Path) -> None:
    write(tmp_path, {"b.py": "1", "a/c.py": "2", "a.py": "3"})
    walked = snapshot(tmp_path)

    git(tmp_path, "init")

    assert snapshot(tmp_path).digest == walked.digest


def tree_of(**files: bytes) -> Tree:
    return Tree(files={name.replace("__", "."): File(content=content) for name, content in files.items()})


def test_undecodable_honours_coding_cookies() -> None:
    tree = tree_of(
        latin__py=b"# -*- coding: latin-1 -*-\nx = '\xe9'\n",
        bad__py=b"x = '\xe9'\n",
        bom__py=b"\xef\xbb\xbfx = 1\n",
        odd__py=b"# coding: no-such-thing\n",
        data__txt=b"\xe9",
    )

    assert [path for path, _ in undecodable(tree)] == ["bad.py", "odd.py"]
    with pytest.raises(TaskError, match=r"bad\.py cannot be decoded.*UTF-8"):
        check_testable("p", tree)


@pytest.mark.parametrize(
    ("tree", "tests", "message"),
    [
        (tree_of(readme__md=b""), (), "holds no Python file"),
        (tree_of(a__py=b""), (), "holds no test file"),
        (
            tree_of(test_a__py=b""),
            ("test_b.py::test_x",),
            r"'test_b\.py' is not in p; did you mean test_a\.py",
        ),
    ],
)
def test_a_folder_with_nothing_to_test_is_refused(tree: Tree, tests: tuple[str, ...], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        check_testable("p", tree, tests)


@pytest.mark.parametrize(
    ("tree", "tests"),
    [
        (tree_of(test_a__py=b""), ()),
        (tree_of(a_test__py=b""), ()),
        (tree_of(checks__py=b""), ("checks.py", "-k", "x", "--deselect=y")),
        (tree_of(checks__py=b"", pytest__ini=b"[pytest]\npython_files = check*.py\n"), ()),
        (tree_of(test_a__py=b""), (".",)),
    ],
)
def test_a_folder_with_something_to_test_is_taken(tree: Tree, tests: tuple[str, ...]) -> None:
    check_testable("p", tree, tests)

    assert undecodable(tree) == []


parts = st.sampled_from(["a", "b", "..", ".", "", "d"])
targets = st.lists(parts, min_size=1, max_size=6).map("/".join)


@given(st.dictionaries(st.sampled_from(["a", "b", "d/a", "d/b"]), targets, min_size=1, max_size=4))
def test_leaves_agrees_with_the_kernel(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, str]
) -> None:
    """Whatever the kernel resolves to a place outside of the root, `leaves` calls leaving."""
    outside = tmp_path_factory.mktemp("outside").resolve()
    root = outside / "root"
    (root / "d").mkdir(parents=True)
    links = {
        name: target for name, target in links.items() if target.strip("/") and not target.startswith("/")
    }
    for name, target in links.items():
        (root / name).symlink_to(target)

    escaping = [name for name in links if not _resolves_inside(root / name, root)]

    assert [name for name in escaping if not leaves(name, links)] == []


def _resolves_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):
        return True


@given(st.text(alphabet="a/.\0", max_size=12))
def test_check_path_takes_only_what_stays_below(path: str) -> None:
    try:
        check_path(path)
    except TaskError:
        return

    assert not path.startswith("/")
    assert os.path.normpath(path) == path
    assert path.split("/")[0] != ".."
