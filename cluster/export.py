"""A run as one file: its events, verbatim and chained, and every artifact that they name.

The file is a zip whose bytes depend on the run alone. What comes from elsewhere is not trusted: nothing of
it is ever written to a disk, and every name, size and hash is checked before anything is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol

from cluster.event_log_chain import from_lines, to_line
from cluster.graphs import shipped, stored
from orchestrator.declaration import Declaration
from orchestrator.errors import RaysmithError, StoreDamaged, StoreError, TaskError
from orchestrator.events import Event, Kind, RunState, fold
from orchestrator.recording import calls_of
from orchestrator.report import result
from orchestrator.steps import Role
from orchestrator.tree import File, FileMode, Tree

FORMAT, VERSION = "raysmith-run", 1
MANIFEST, EVENTS = "manifest.json", "events.jsonl"
# For people; a replay reads none of them.
READABLE = ("calls.jsonl", "tests.jsonl", "report.json", "patch.diff")
# Under these, events of ours name artifacts.
_KEYS = (
    *("graph_version", "patch", "diff", "result", "artifact"),
    *("agents", "lessons", "answers", "measures"),
)
_ARTIFACT = re.compile(r"artifacts/([0-9a-f]{64})")
_MIB = 1024 * 1024
# Refused beyond: entries, MiB of one, MiB of all.
MOST_ENTRIES, MOST_ENTRY_MIB, MOST_MIB = 300_000, 512, 4096
_MOST_EVENTS_MIB = 256
_PIECE = 1 << 20
_UNIX = 3


class Contents(Protocol):
    """What an export needs of an artifact store."""

    def get(self, digest: str) -> bytes: ...

    def tree_entries(self, digest: str) -> Sequence[tuple[str, FileMode, str]]: ...


class ExportRefused(TaskError):
    """A file that is no whole export of a run."""

    code = "export"


class SecretFound(TaskError):
    """A run whose texts hold a secret of this machine."""

    code = "secret"


def write_export(
    out: BinaryIO, events: Sequence[Event], store: Contents, *, secrets: Mapping[str, str] | None = None
) -> None:
    """Write the run of `events` to `out`.

    Args:
        out: Any stream; it need not seek.
        events: All of one run's, in order.
        store: Holds its artifacts.
        secrets: Values that may not leave this machine, by where they come from.

    Raises:
        StoreDamaged: An artifact is absent or not what was stored.
        SecretFound: The run holds one of `secrets`.
    """
    state = fold(events)
    lines = "".join(f"{to_line(event)}\n" for event in events).encode()
    digests = sorted(artifacts_of(events, store))
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "run_id": state.run_id,
        "events": len(events),
        "events_sha256": hashlib.sha256(lines).hexdigest(),
        "last_hash": events[-1].hash,
        "artifacts": len(digests),
    }
    written = _Writer(out, secrets or {})
    with written:
        written.add(MANIFEST, _json(manifest))
        written.add(EVENTS, lines)
        for name, content in _readable(events, state, store):
            written.add(name, content)
        for digest in digests:
            written.add(f"artifacts/{digest}", store.get(digest))


class _Writer:
    def __init__(self, out: BinaryIO, secrets: Mapping[str, str]) -> None:
        self._zip = zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED)
        # Shorter ones are no keys, and stand in many texts.
        self._secrets = {name: value.encode() for name, value in secrets.items() if len(value) >= 8}

    def __enter__(self) -> None:
        self._zip.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._zip.__exit__(*error)

    def add(self, name: str, content: bytes) -> None:
        for source, value in self._secrets.items():
            if value in content:
                raise SecretFound(
                    f"{name} of this run holds the value of {source}, and an export would give it away",
                    "change that key, then unset it here: the old one is in the run's texts",
                )
        info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
        info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, _UNIX, 0o644 << 16
        self._zip.writestr(info, content)


def artifacts_of(events: Iterable[Event], store: Contents) -> set[str]:
    """Digests of all that a replay of `events` reads. Only keys of ours are followed: a text that a task
    brings cannot name another run's artifact."""
    found: set[str] = set()
    for event in events:
        data = event.data
        for key in _KEYS:
            if isinstance(digest := data.get(key), str):
                found.add(digest)
        if event.type is Kind.ENGINE_CALLED:
            found.update(str(digest) for _, digest in data.get("messages", ()))
            found.update(str(digest) for digest in data.get("replies", ()))
        for digest in _trees(event, store):
            found.add(digest)
            found.update(content for _, _, content in store.tree_entries(digest))
    return found


def graph_in(state: RunState, load: Callable[[str], bytes]) -> Declaration:
    """The graph that the run was executed by; a shipped one for runs from before graphs were declared.

    Raises:
        TaskError: It is none.
    """
    return stored(load(state.graph_version)) if state.graph_version else shipped(str(state.task.get("graph")))


def _trees(event: Event, store: Contents) -> Iterator[str]:
    if event.type is not Kind.RUN_SUBMITTED:
        return
    task = event.data["task"]
    if task.get("tree"):
        yield str(task["tree"])
    if graph_in(fold([event]), store.get).needs("candidate"):
        yield str(task["inputs"]["candidate"])


def _readable(events: Sequence[Event], state: RunState, store: Contents) -> Iterator[tuple[str, bytes]]:
    """What people and other programs may want of a run without knowing its events."""
    calls = [
        {
            "seq": call.seq,
            "step": event.step,
            "attempt": event.attempt,
            "epoch": event.epoch,
            "number": call.number,
            "role": call.role,
            "engine": call.engine,
            "provider": call.provider,
            "prompt": call.prompt,
            "sampling": dict(call.sampling),
            "messages": [list(each) for each in call.messages],
            "replies": list(call.replies),
            "finish_reason": call.finish_reason,
            "error": f"{call.code}: {call.error}" if call.code else "",
        }
        for event, call in calls_of(events)
    ]
    yield "calls.jsonl", b"".join(_json(call) for call in calls)
    yield "tests.jsonl", b"".join(_json(each) for each in _tests(events))
    report = result(state, store.get)
    yield "report.json", _json({**report, "diff": ""})
    if state.report.get("diff"):
        yield "patch.diff", store.get(state.report["diff"])


def _tests(events: Sequence[Event]) -> Iterator[dict[str, Any]]:
    """Every test run of a step, by its artifact, and every verdict."""
    runs = {
        (event.step, event.attempt)
        for event in events
        if event.type is Kind.STEP_DISPATCHED and event.data.get("role") == Role.RUN
    }
    for event in events:
        if event.type is Kind.STEP_COMPLETED and (event.step, event.attempt) in runs:
            yield {
                "seq": event.seq,
                "step": event.step,
                "attempt": event.attempt,
                "result": event.data.get("result"),
            }
        elif event.type is Kind.VERDICT_REACHED:
            yield {"seq": event.seq, "attempt": event.attempt, "verdict": event.data["verdict"]}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True).encode() + b"\n"


class Export:
    """An export that was read: its events, verified, and its artifacts by their hash."""

    def __init__(self, file: Path) -> None:
        """Open and check the whole of `file`.

        Raises:
            ExportRefused: It is not there, is no export of a run, is broken, or holds more than one may.
        """
        self._zip = _opened(file)
        try:
            self._entries = _entries(self._zip)
            self.manifest = self._manifest()
            self.events = self._events()
            self._check_artifacts()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Export:
        return self

    def __exit__(self, *_error: object) -> None:
        self._zip.close()

    def digests(self) -> list[str]:
        """Every artifact in it."""
        return [found[1] for name in self._entries if (found := _ARTIFACT.fullmatch(name))]

    def get(self, digest: str) -> bytes:
        """An artifact, verified when the file was opened.

        Raises:
            StoreDamaged: It is not in the file.
        """
        name = f"artifacts/{digest}"
        if name not in self._entries:
            raise StoreDamaged(
                f"the export holds no artifact {str(digest)[:80]!r}, which an event names",
                "export the run again",
            )
        return self._read(name, MOST_ENTRY_MIB)

    def tree_entries(self, digest: str) -> list[tuple[str, FileMode, str]]:
        """Path, mode and content hash of every file of a tree.

        Raises:
            ExportRefused: It is no tree, or one of its paths leads outside.
        """
        try:
            rows = [
                (str(p), FileMode(mode), str(content)) for p, mode, content in json.loads(self.get(digest))
            ]
        except (ValueError, TypeError, RecursionError) as error:
            raise ExportRefused(
                f"artifact {digest} is not a tree's manifest", "export the run again"
            ) from error
        check_paths(path for path, _, _ in rows)
        return rows

    def tree(self, digest: str) -> Tree:
        """The tree behind `digest`; raises as `tree_entries` and `get`."""
        rows = self.tree_entries(digest)
        return Tree(files={path: File(content=self.get(content), mode=mode) for path, mode, content in rows})

    def _manifest(self) -> dict[str, Any]:
        if MANIFEST not in self._entries:
            _refuse("it holds no manifest.json", "name a file that `raysmith export` wrote")
        try:
            manifest = json.loads(self._read(MANIFEST, 1))
        except (ValueError, RecursionError):
            manifest = None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            _refuse("its manifest is no export's", "name a file that `raysmith export` wrote")
        if manifest.get("version") != VERSION:
            _refuse(f"it has version {str(manifest.get('version'))[:20]}", "upgrade Raysmith to read it")
        return manifest

    def _events(self) -> list[Event]:
        if EVENTS not in self._entries:
            _refuse("it holds no events", "export the run again")
        content = self._read(EVENTS, _MOST_EVENTS_MIB)
        if hashlib.sha256(content).hexdigest() != self.manifest.get("events_sha256"):
            _refuse("its events are not those that its manifest names", "export the run again")
        try:
            events = list(from_lines(content.decode("ascii").splitlines(), "events.jsonl"))
            fold(events)
        except (StoreError, UnicodeDecodeError) as error:
            told = error.message if isinstance(error, RaysmithError) else "they are not ASCII"
            _refuse(f"its events cannot be used: {told}", "export the run again")
        return events

    def _check_artifacts(self) -> None:
        for name in self._entries:
            if (found := _ARTIFACT.fullmatch(name)) and self._hash(name) != found[1]:
                _refuse(f"artifact {found[1]} holds other bytes than its name says", "export the run again")

    def _hash(self, name: str) -> str:
        digest = hashlib.sha256()
        for piece in self._pieces(name):
            digest.update(piece)
        return digest.hexdigest()

    def _read(self, name: str, most_mib: int) -> bytes:
        if self._entries[name].file_size > most_mib * _MIB:
            _refuse(f"{name} is larger than {most_mib} MiB", "nothing like that is exported")
        return b"".join(self._pieces(name))

    def _pieces(self, name: str) -> Iterator[bytes]:
        # The reader stops at the declared size, which was checked; a wrong checksum raises.
        try:
            with self._zip.open(self._entries[name]) as entry:
                while piece := entry.read(_PIECE):
                    yield piece
        except Exception as error:
            # Hostile bytes meet a dozen kinds of the library's exceptions.
            raise ExportRefused(
                f"the export is refused: {name} cannot be read ({error})", "copy or export it again"
            ) from error


def check_paths(paths: Iterable[str]) -> None:
    """Refuse paths that lead outside the folder that a tree is laid into.

    Raises:
        ExportRefused: One does.
    """
    for path in paths:
        if path.startswith("/") or "\0" in path or {"", ".", ".."} & set(path.split("/")):
            raise ExportRefused(f"the path {path[:200]!r} in it leads outside its tree", "do not use it")


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        with file.open("rb") as stream:
            start = stream.read(4)
    except OSError as error:
        raise ExportRefused(f"{file} cannot be read: {error.strerror}", "check the path") from error
    if start != b"PK\x03\x04":
        _refuse(f"{file} is no zip", "name a file that `raysmith export` wrote")
    try:
        return zipfile.ZipFile(file)
    except Exception as error:
        raise ExportRefused(f"{file} is broken: {error}", "copy or export it again") from error


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MOST_ENTRIES:
        _refuse(f"it holds {len(infos)} entries", f"an export has at most {MOST_ENTRIES}")
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.orig_filename
        if name in entries:
            _refuse(f"it holds {name[:200]!r} twice", "export the run again")
        if name not in (MANIFEST, EVENTS, *READABLE) and not _ARTIFACT.fullmatch(name):
            _refuse(f"it holds {name[:200]!r}, which no export has", "do not use it")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            _refuse(f"{name} is encrypted or packed in a rare way", "export the run again")
        if info.file_size > MOST_ENTRY_MIB * _MIB:
            _refuse(f"{name} is {info.file_size >> 20} MiB", f"one may have {MOST_ENTRY_MIB}")
        entries[name] = info
    total = sum(info.file_size for info in infos)
    if total > MOST_MIB * _MIB:
        _refuse(f"it unpacks to {total >> 20} MiB", f"an export has at most {MOST_MIB}")
    return entries


def _refuse(reason: str, next_move: str) -> NoReturn:
    raise ExportRefused(f"the export is refused: {reason}", next_move)


def export_bytes(events: Sequence[Event], store: Contents, secrets: Mapping[str, str]) -> bytes:
    """The whole file in memory, for a door that sends it."""
    out = io.BytesIO()
    write_export(out, events, store, secrets=secrets)
    return out.getvalue()
