"""The file of an exported run: whole, the same every time, and refused when anything about it is wrong."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from local_fleet import TREE, Factory, LocalFleet, task_of, writes

import raysmith
from cluster import export
from cluster.export import Export, ExportRefused, SecretFound, export_bytes
from orchestrator.errors import StoreDamaged, TaskError
from orchestrator.events import Event, Kind
from orchestrator.tree import File, Tree
from serve.replays import replay_file, save_export

Entries = dict[str, bytes]


@pytest.fixture
async def factory(tmp_path: Path) -> AsyncIterator[Factory]:
    factory = Factory(tmp_path / "home")
    yield factory
    factory.close()


@pytest.fixture
async def events(factory: Factory) -> list[Event]:
    return await factory.run(LocalFleet(script=["no code", writes("fixed")]))


@pytest.fixture
def file(tmp_path: Path, factory: Factory, events: list[Event]) -> Path:
    path = tmp_path / "run.zip"
    save_export(path, events, factory.store, known_secrets={})
    return path


def entries(file: Path) -> Entries:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(contents: Entries, *more: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [*contents.items(), *more]:
            archive.writestr(name, content)
    return out.getvalue()


async def test_what_is_exported_is_read_again(file: Path, events: list[Event]) -> None:
    with Export(file) as read:
        assert read.events == events
        assert read.tree(events[0].data["task"]["tree"]) == TREE
        assert read.get(events[-1].data["diff"]) in entries(file).values()


async def test_the_same_run_gives_the_same_bytes(
    file: Path, factory: Factory, events: list[Event], tmp_path: Path
) -> None:
    told = save_export(tmp_path / "again.zip", events, factory.store, known_secrets={})

    before = file.read_bytes()  # noqa: ASYNC240
    assert (tmp_path / "again.zip").read_bytes() == before
    assert told["sha256"] == hashlib.sha256(before).hexdigest()
    assert export_bytes(events, factory.store, {}) == before


async def test_calls_are_told_with_what_they_are_known_by(file: Path) -> None:
    held = entries(file)
    calls = [json.loads(line) for line in held["calls.jsonl"].splitlines()]
    calls.sort(key=lambda call: call["number"])
    tests = [json.loads(line) for line in held["tests.jsonl"].splitlines()]

    assert [(call["step"], call["attempt"], call["role"]) for call in calls] == [("repair", 1, "repair")] * 2
    assert len({call["prompt"] for call in calls}) == 2
    assert all(call["sampling"] == {} for call in calls)
    assert held[f"artifacts/{calls[1]['replies'][0]}"] == writes("fixed").encode()
    assert tests[0]["step"] == "profile"
    assert tests[-1]["verdict"]["certified"] is True
    assert b"+fixed" in held["patch.diff"]


async def test_a_run_is_replayed_from_its_file_alone(file: Path) -> None:
    done = await replay_file(file)

    assert (done.equal, done.replayed.replies, done.json()["difference"]) == (True, 2, None)


async def test_a_secret_of_this_machine_stops_the_export(
    factory: Factory, events: list[Event], tmp_path: Path
) -> None:
    out = tmp_path / "out.zip"

    with pytest.raises(SecretFound, match="holds the value of OPENROUTER_API_KEY"):
        save_export(out, events, factory.store, known_secrets={"OPENROUTER_API_KEY": "```python\nfixed"})

    assert list(tmp_path.glob("*out.zip*")) == []  # noqa: ASYNC240


async def test_a_task_cannot_name_what_belongs_to_another_run(factory: Factory) -> None:
    other = factory.store.put(b"of another run")
    events = await factory.run(
        LocalFleet(script=[writes("fixed")]), inputs={"result": other, "tree": other, "candidate": other}
    )

    assert b"of another run" not in export_bytes(events, factory.store, {})
    assert other not in export.artifacts_of(events, factory.store)


async def test_an_artifact_that_the_store_lost_is_told(
    factory: Factory, events: list[Event], tmp_path: Path
) -> None:
    digest = events[-1].data["diff"]
    (tmp_path / "home/artifacts" / digest[:2] / digest[2:4] / digest).unlink()

    with pytest.raises(StoreDamaged, match=digest):
        save_export(tmp_path / "out.zip", events, factory.store, known_secrets={})


def _other_hash(held: Entries) -> bytes:
    name = next(name for name in held if name.startswith("artifacts/"))
    return packed({**held, name: held[name] + b" "})


def _renamed(held: Entries, name: str) -> bytes:
    return packed(held, (name, b"x"))


def _manifest(held: Entries, **changes: object) -> bytes:
    return packed(
        {**held, "manifest.json": json.dumps({**json.loads(held["manifest.json"]), **changes}).encode()}
    )


def _events(held: Entries, change: Callable[[bytes], bytes]) -> bytes:
    lines = change(held["events.jsonl"])
    manifest = {**json.loads(held["manifest.json"]), "events_sha256": hashlib.sha256(lines).hexdigest()}
    return packed({**held, "events.jsonl": lines, "manifest.json": json.dumps(manifest).encode()})


def _declared(held: Entries, size: int) -> bytes:
    """A file whose directory says that its events unpack to `size` bytes."""
    content = bytearray(packed(held))
    at = content.index(b"events.jsonl", content.index(b"PK\x01\x02")) - 46
    content[at + 24 : at + 28] = size.to_bytes(4, "little")
    return bytes(content)


REFUSED: dict[str, tuple[Callable[[Entries], bytes], str]] = {
    "no zip": (lambda _held: b"hello", "is no zip"),
    "cut": (lambda held: packed(held)[:-200], "is broken"),
    "a path that leads out": (lambda held: _renamed(held, "../../etc/x"), "which no export has"),
    "an absolute path": (lambda held: _renamed(held, "/etc/x"), "which no export has"),
    "another name": (lambda held: _renamed(held, "artifacts/" + "g" * 64), "which no export has"),
    "other bytes": (_other_hash, "holds other bytes than its name says"),
    "no manifest": (
        lambda held: packed({name: each for name, each in held.items() if name != "manifest.json"}),
        "no manifest.json",
    ),
    "a manifest that is none": (lambda held: packed({**held, "manifest.json": b"[]"}), "no export's"),
    "a later version": (lambda held: _manifest(held, version=2), "has version 2"),
    "other events": (lambda held: _manifest(held, events_sha256="0"), "not those that its manifest names"),
    "an event changed": (
        lambda held: _events(held, lambda text: text.replace(b"certified", b"certifies", 1)),
        "is not what was hashed",
    ),
    "an event left out": (
        lambda held: _events(held, lambda text: b"".join(text.splitlines(keepends=True)[1:])),
        "comes after",
    ),
    "no events": (lambda held: _events(held, lambda _text: b""), "without events"),
    "not text": (lambda held: _events(held, lambda _text: b"\xff\n"), "not ASCII"),
    "too large": (lambda held: _declared(held, 3 << 30), "is 3072 MiB"),
    "wrongly sized": (lambda held: _declared(held, 10), "not those that its manifest names|cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_file_that_is_no_whole_export_is_refused(name: str, file: Path, tmp_path: Path) -> None:
    make, told = REFUSED[name]
    bad = tmp_path / "bad.zip"
    bad.write_bytes(make(entries(file)))

    with pytest.raises(ExportRefused, match=told):
        await replay_file(bad)


@pytest.mark.filterwarnings("ignore:Duplicate name")
async def test_an_entry_given_twice_is_refused(file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    bad.write_bytes(packed(entries(file), ("events.jsonl", b"")))

    with pytest.raises(ExportRefused, match="twice"):
        await replay_file(bad)


async def test_more_than_an_export_may_hold_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MOST_ENTRIES", 3)
    with pytest.raises(ExportRefused, match="entries"):
        await replay_file(file)


async def test_an_artifact_that_is_left_out_is_told(file: Path, tmp_path: Path, events: list[Event]) -> None:
    step = next(event for event in events if event.type is Kind.STEP_COMPLETED)
    bad = tmp_path / "bad.zip"
    left = {name: each for name, each in entries(file).items() if step.data["result"] not in name}
    bad.write_bytes(packed(left))

    with pytest.raises(StoreDamaged, match="holds no artifact"):
        await replay_file(bad)


async def test_a_tree_that_leads_out_is_refused(factory: Factory, tmp_path: Path) -> None:
    outside = Tree(files={**TREE.files, "../outside.py": File(content=b"x")})
    orchestrator = factory.start(LocalFleet(script=[]))
    run_id = await orchestrator.submit(task_of(), outside)
    await orchestrator.wait([run_id], 20)
    file = tmp_path / "out.zip"
    save_export(file, factory.events(run_id), factory.store, known_secrets={})

    with pytest.raises(ExportRefused, match="leads outside"):
        await replay_file(file)


async def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="No such file"):
        await replay_file(tmp_path / "none.zip")


async def test_a_folder_that_cannot_be_written_is_told(
    factory: Factory, events: list[Event], tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match="cannot be written"):
        save_export(tmp_path / "none/out.zip", events, factory.store, known_secrets={})


def test_from_python_it_is_the_same_file(file: Path, events: list[Event], tmp_path: Path) -> None:
    out = raysmith.export(events[0].run_id, tmp_path / "python.zip", home=tmp_path / "home")

    done = raysmith.replay(out, home=tmp_path / "other")

    assert out.read_bytes() == file.read_bytes()
    assert (done.equal, done.run_id) == (True, events[0].run_id)
    with pytest.raises(TaskError, match="there is no run"):
        raysmith.export("r-none", out, home=tmp_path / "home")
