"""An archive becomes a tree in memory, or is refused before anything of it is read."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from http_door import BROKEN, entry, tar_gz, zipped
from hypothesis import given
from hypothesis import strategies as st

from actors.workspace import SnapshotSettings
from orchestrator.errors import TaskError
from orchestrator.tree import FileMode
from serve.archives import ArchiveRefused, tree_from

SMALL = SnapshotSettings(max_mib=1, max_files=10)


def plain_tar(files: dict[str, str]) -> bytes:
    return gzip.decompress(tar_gz(files))


def zip_with(name: str, content: bytes = b"x", mode: int = 0, **changes: int) -> bytes:
    packed = io.BytesIO()
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    with zipfile.ZipFile(packed, "w") as out:
        out.writestr(info, content)
    return packed.getvalue()


@pytest.mark.parametrize("pack", [tar_gz, plain_tar, zipped], ids=["tar.gz", "tar", "zip"])
def test_files_become_a_tree(pack: object) -> None:
    tree = tree_from(pack({"./pkg/a.py": "a\n", "b.py": "b\n"}))  # type: ignore[operator]

    assert {path: file.content for path, file in tree.files.items()} == {"pkg/a.py": b"a\n", "b.py": b"b\n"}


def test_modes_and_links_inside_are_kept() -> None:
    script = entry("run.sh")
    script.mode = 0o755

    tree = tree_from(
        tar_gz(
            {"a.py": "a\n"},
            script=script,
            soft=entry("soft.py", tarfile.SYMTYPE, "a.py"),
            hard=entry("hard.py", tarfile.LNKTYPE, "./a.py"),
            harder=entry("harder.py", tarfile.LNKTYPE, "hard.py"),
        )
    )

    assert tree.files["run.sh"].mode is FileMode.EXECUTABLE
    assert (tree.files["soft.py"].mode, tree.files["soft.py"].content) == (FileMode.LINK, b"a.py")
    assert tree.files["harder.py"] == tree.files["hard.py"] == tree.files["a.py"]


def test_version_control_caches_and_environments_are_left_out() -> None:
    tree = tree_from(tar_gz({"a.py": "", ".git/config": "", "x/__pycache__/a.pyc": "", ".venv/lib/b.py": ""}))

    assert list(tree.files) == ["a.py"]


def test_a_root_is_the_folder_that_is_meant() -> None:
    archive = tar_gz({"repo-1/a.py": "", "repo-1/pkg/b.py": "", "other/c.py": ""})

    assert list(tree_from(archive, root="repo-1").files) == ["a.py", "pkg/b.py"]
    with pytest.raises(ArchiveRefused, match="no file below 'repo-2'"):
        tree_from(archive, root="repo-2")


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (tar_gz({"../a": "x"}), "climbs"),
        (tar_gz({"a/../../b": "x"}), "climbs"),
        (tar_gz({"/a": "x"}), "absolute"),
        (tar_gz({"a\\..\\b": "x"}), "backslash"),
        (tar_gz({"x" * 1100: "x"}), "too long"),
        (tar_gz({"/".join("d" * 70): "x"}), "too long"),
        (tar_gz(BROKEN, a=entry("out", tarfile.SYMTYPE, "/etc/passwd")), "leaves the folder"),
        (tar_gz(BROKEN, a=entry("out", tarfile.SYMTYPE, "..")), "leaves the folder"),
        (
            tar_gz(BROKEN, a=entry("in", tarfile.SYMTYPE, "."), b=entry("in/out", tarfile.SYMTYPE, "..")),
            "is a file and the folder of",
        ),
        (tar_gz(BROKEN, a=entry("out", tarfile.SYMTYPE, "")), "no usable target"),
        (tar_gz(BROKEN, a=entry("out", tarfile.LNKTYPE, "nowhere")), "no file in it"),
        (tar_gz(BROKEN, a=entry("null", tarfile.CHRTYPE)), "device"),
        (tar_gz(BROKEN, a=entry("disk", tarfile.BLKTYPE)), "device"),
        (tar_gz(BROKEN, a=entry("pipe", tarfile.FIFOTYPE)), "pipe"),
        (tar_gz(BROKEN, a=entry("calc.py")), "two entries"),
        (tar_gz({"a": "x", "a/b": "x"}), "the folder of"),
        (tar_gz({}), "no file"),
        (zip_with("../a"), "climbs"),
        (zip_with("/a"), "absolute"),
        (zip_with("a\\b"), "backslash"),
        (zip_with("link", b"../out", stat.S_IFLNK | 0o777), "leaves the folder"),
        (zip_with("pipe", b"", stat.S_IFIFO | 0o777), "device or pipe"),
        (b"", "neither"),
        (b"PK\x03\x04 and no more", "cannot be read"),
        (tar_gz(BROKEN)[:-20], "ends in the middle"),
        (gzip.compress(b"hello"), "cannot be read"),
        (gzip.compress(plain_tar(BROKEN)[:1024] + b"\x01" * 512), "broken"),
        (gzip.compress(plain_tar(BROKEN)[:520]), "cannot be read"),
    ],
)
def test_what_could_lead_outside_or_is_broken_is_refused(archive: bytes, reason: str) -> None:
    with pytest.raises(ArchiveRefused, match=reason):
        tree_from(archive, SMALL)


@pytest.mark.parametrize("pack", [tar_gz, zipped], ids=["tar.gz", "zip"])
@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({f"{number}.py": "" for number in range(11)}, "more than 10 files"),
        ({"a.bin": "ab\n" * 400_000}, "more than 1 MiB"),
        ({"a.bin": "\0" * 30_000_000}, "200 times|more than 1 MiB"),
        ({f"{number}.bin": "\0" * 500_000 for number in range(9)}, "more than 1 MiB"),
    ],
    ids=["files", "bytes", "bomb", "sum"],
)
def test_more_than_a_snapshot_may_hold_is_refused(pack: object, files: dict[str, str], reason: str) -> None:
    with pytest.raises(ArchiveRefused, match=reason):
        tree_from(pack(files), SMALL)  # type: ignore[operator]


def test_a_bomb_is_given_up_long_before_its_end() -> None:
    bomb = gzip.compress(b"\0" * 200_000_000, compresslevel=1)

    with pytest.raises(ArchiveRefused, match="more than"):
        tree_from(bomb)


def test_a_zip_of_very_many_entries_is_refused_before_it_is_opened() -> None:
    with pytest.raises(ArchiveRefused, match="more than 10 files"):
        tree_from(b"PK\x03\x04" + b"PK\x01\x02" * 2000, SMALL)


def test_a_sparse_file_is_refused() -> None:
    info = entry("sparse", tarfile.GNUTYPE_SPARSE)

    with pytest.raises(ArchiveRefused, match="sparse"):
        tree_from(tar_gz(BROKEN, a=info))


def test_no_disk_is_touched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    monkeypatch.chdir(tmp_path)

    tree_from(tar_gz({"a.py": "x" * 3_000_000 + "y"}))
    with pytest.raises(ArchiveRefused):
        tree_from(tar_gz({"../a.py": "x"}))

    assert list(tmp_path.iterdir()) == []


@given(st.binary(max_size=300), st.sampled_from([b"\x1f\x8b", b"PK\x03\x04", b"PK\x05\x06", b""]))
def test_any_bytes_are_read_or_refused(noise: bytes, magic: bytes) -> None:
    with pytest.raises(TaskError):
        tree_from(magic + noise)


@given(st.data())
def test_a_damaged_archive_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from([plain_tar(BROKEN), zipped(BROKEN), tar_gz(BROKEN)])))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))

    try:
        tree = tree_from(bytes(whole), SMALL)
    except ArchiveRefused:
        return
    assert all(".." not in path.split("/") and not path.startswith("/") for path in tree.files)
