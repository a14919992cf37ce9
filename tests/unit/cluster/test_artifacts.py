from __future__ import annotations

import hashlib
import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from event_log_conformance import submitted
from hypothesis import given
from hypothesis import strategies as st

from cluster.artifacts import ArtifactStore, manifest
from cluster.event_log_memory import MemoryEventLog
from orchestrator import failpoints
from orchestrator.errors import StoreDamaged, StoreError
from orchestrator.events import Kind, NewEvent
from orchestrator.tree import File, FileMode, Tree

TREE = Tree(
    files={
        "src/a.py": File(content=b"a = 1\n"),
        "src/same.py": File(content=b"a = 1\n"),
        "run.sh": File(content=b"#!/bin/sh\n", mode=FileMode.EXECUTABLE),
        "link": File(content=b"src/a.py", mode=FileMode.LINK),
        "caf\udce9.txt": File(content=b"\xff\x00"),
        "empty": File(content=b""),
    }
)


@pytest.fixture(params=["folder", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    address = {
        "folder": str(tmp_path / "a"),
        "file": f"file://{tmp_path}/a",
        "memory": f"memory://{uuid.uuid4().hex}",
    }
    return ArtifactStore(address[request.param])


@pytest.mark.parametrize("content", [b"", b"x", b"\0\xff" * 100_000])
def test_gives_back_what_was_put_under_its_hash(store: ArtifactStore, content: bytes) -> None:
    digest = store.put(content)

    assert digest == hashlib.sha256(content).hexdigest()
    assert store.get(digest) == content
    assert store.has(digest)
    assert store.put(content) == digest


def test_what_was_never_put_is_absent(store: ArtifactStore) -> None:
    absent = "0" * 64

    assert not store.has(absent)
    with pytest.raises(StoreDamaged, match=f"artifact {absent} is not in"):
        store.get(absent)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_only_a_hash_names_an_artifact(store: ArtifactStore, digest: str) -> None:
    assert not store.has(digest)
    with pytest.raises(StoreDamaged, match="is not a SHA-256"):
        store.get(digest)


def test_a_tree_comes_back_equal_under_its_own_digest(store: ArtifactStore) -> None:
    digest = store.save_tree(TREE)

    assert digest == TREE.digest
    assert store.load_tree(digest) == TREE
    assert store.get(digest) == manifest(TREE)
    assert store.save_tree(Tree()) == Tree().digest
    assert store.load_tree(Tree().digest) == Tree()


@given(
    st.dictionaries(
        st.text(min_size=1), st.builds(File, content=st.binary(), mode=st.sampled_from(FileMode)), max_size=5
    )
)
def test_the_manifest_hashes_to_the_tree_s_digest(files: dict[str, File]) -> None:
    tree = Tree(files=files)

    assert hashlib.sha256(manifest(tree)).hexdigest() == tree.digest


def test_files_of_many_trees_are_stored_once(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    store.save_tree(TREE)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())

    store.save_tree(TREE)
    store.save_tree(TREE.with_files({"src/a.py": File(content=b"a = 2\n")}))

    after = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(before) == 6
    assert len(after) == 8
    digest = TREE.files["run.sh"].digest
    assert tmp_path / digest[:2] / digest[2:4] / digest in after


@pytest.mark.parametrize("value", [None, [1, 2.5, "x"], {"b": {"a": "\ud800\0é"}, "a": []}])
def test_json_comes_back_equal(store: ArtifactStore, value: Any) -> None:
    assert store.get_json(store.put_json(value)) == value


def test_equal_json_is_one_object(store: ArtifactStore) -> None:
    assert store.put_json({"a": 1, "b": 2}) == store.put_json({"b": 2, "a": 1})


@pytest.mark.parametrize("value", [{1, 2}, float("inf"), {(1, 2): 3}])
def test_what_is_not_json_is_refused(store: ArtifactStore, value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.put_json(value)


def test_what_is_no_manifest_is_no_tree(store: ArtifactStore) -> None:
    for content in (b"\xff", b"{}x", b"[1]", json.dumps([["a", "socket", "0" * 64]]).encode()):
        with pytest.raises(StoreDamaged, match="is not"):
            store.load_tree(store.put(content))


@pytest.mark.parametrize("damage", [b"", b"other", b"b = 1\n"])
def test_changed_bytes_are_found_and_can_be_put_again(tmp_path: Path, damage: bytes) -> None:
    store = ArtifactStore(str(tmp_path))
    digest = store.put(b"a = 1\n")
    path = tmp_path / digest[:2] / digest[2:4] / digest
    path.write_bytes(damage)

    with pytest.raises(StoreDamaged, match=f"artifact {digest} .* other bytes"):
        store.get(digest)
    if len(damage) != 6:
        store.put(b"a = 1\n")
        assert store.get(digest) == b"a = 1\n"


def test_an_object_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    failpoints.arm("artifacts.before_rename:raise:1")
    try:
        with pytest.raises(StoreError):
            store.put(b"x")
    finally:
        failpoints.arm("")

    assert not store.has(hashlib.sha256(b"x").hexdigest())
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_a_dead_writer_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    for name, age_s in (("old", 2 * 24 * 3600), ("new", 60)):
        (tmp_path / "tmp" / name).write_bytes(b"half")
        then = (tmp_path / "tmp" / name).stat().st_mtime - age_s
        os.utime(tmp_path / "tmp" / name, (then, then))

    ArtifactStore(str(tmp_path)).put(b"x")

    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["new"]


def test_many_writers_of_the_same_contents_agree(tmp_path: Path) -> None:
    def write(_: int) -> str:
        return ArtifactStore(str(tmp_path)).save_tree(TREE)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(write, range(24))) == {TREE.digest}

    assert ArtifactStore(str(tmp_path)).load_tree(TREE.digest) == TREE


def test_a_place_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match=r"file/a cannot be used \(Not a directory\)"):
        ArtifactStore(str(tmp_path / "file" / "a")).put(b"x")


@pytest.mark.parametrize("scheme", ["nosuchscheme", "s3"])
def test_credentials_never_reach_a_message(scheme: str) -> None:
    with pytest.raises(StoreError) as told:
        ArtifactStore(f"{scheme}://key:hunter2@bucket/prefix?token=hunter2").put(b"x")

    error: BaseException | None = told.value
    assert error is not None
    assert "hunter2" not in str(error)
    assert error.__suppress_context__
    assert "bucket" in str(error)


async def test_a_check_finds_artifacts_that_events_name_and_nobody_has(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    log = MemoryEventLog()
    tree = store.save_tree(TREE)
    patch = store.put(b"patch")
    await log.append(
        [
            submitted("r-1"),
            NewEvent(run_id="r-2", type=Kind.RUN_SUBMITTED, data={"task": {"tree": tree}}),
            NewEvent(run_id="r-2", type=Kind.PATCH_KEPT, data={"patch": patch, "explanation": "0" * 64}),
            NewEvent(run_id="r-2", type=Kind.STEP_COMPLETED, step="run", data={"result": "1" * 64}),
        ]
    )

    report = log.check(artifacts=store)

    files = {file.digest for file in TREE.files.values()}
    assert (report.runs, report.events, report.artifacts) == (2, 4, 3 + len(files))
    (problem,) = report.problems
    assert problem.startswith(f"event 3 of run r-2: artifact {'1' * 64} is not in")

    digest = TREE.files["run.sh"].digest
    (tmp_path / digest[:2] / digest[2:4] / digest).unlink()
    assert any("'run.sh' of tree" in problem for problem in log.check("r-2", artifacts=store).problems)
    (tmp_path / digest[:2] / digest[2:4] / digest).write_bytes(b"#!/bin/sh\nrm -rf /\n")
    assert any("holds other bytes" in problem for problem in log.check("r-2", artifacts=store).problems)
