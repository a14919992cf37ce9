"""A whole store as one file, taken while a factory works: the log at one moment, and all that it names."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster import schema
from cluster.artifacts import ArtifactStore
from cluster.event_log import EventReader, stored_epoch
from cluster.event_log_check import TREE_KEYS, named_by
from cluster.owner import Ownership, make_home
from cluster.store_settings import StoreSettings
from orchestrator.errors import RaysmithError, StoreDamaged, TaskError
from orchestrator.tree import FileMode

FORMAT, VERSION = "raysmith-backup", 1
_MANIFEST, _DATABASE = "manifest.json", "events.db"
_PIECE = 64
_NO_BACKUP = "name a file that `raysmith backup` wrote"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What a backup holds; `problems` are those of the store that it was taken of, in words."""

    file: str
    runs: int
    events: int
    artifacts: int
    bytes: int
    problems: tuple[str, ...]


class _Contents:
    """The artifacts in a backup, as an artifact store gives them; each verified by its name."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.digests = [name[10:] for name in archive.namelist() if name.startswith("artifacts/")]

    def get(self, digest: str) -> bytes:
        try:
            content = self._archive.read(f"artifacts/{digest}")
        except (KeyError, zipfile.BadZipFile, OSError) as error:
            raise StoreDamaged(f"the backup holds no artifact {digest} ({error})", "take another") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise StoreDamaged(f"artifact {digest} in the backup holds other bytes", "take another")
        return content

    def tree_entries(self, digest: str) -> Sequence[tuple[str, FileMode, str]]:
        return [
            (str(path), FileMode(mode), str(content)) for path, mode, content in json.loads(self.get(digest))
        ]


def back_up(settings: StoreSettings, home: Path, file: Path, folder: Path) -> Backup:
    """Write the store of `home` to `file`, and verify what was written.

    Args:
        settings: Where the store is.
        home: RAYSMITH_HOME.
        file: Replaced when all of it is there.
        folder: For what is in between; as large as the log.

    Raises:
        TaskError: There is nothing to back up, the log is not in SQLite, or `file` cannot be written.
    """
    _need_sqlite(settings)
    source = settings.database(home)
    if not source.exists():
        raise TaskError(f"there is no event log in {home}", "check RAYSMITH_HOME")
    _snapshot(source, folder / _DATABASE)
    store = ArtifactStore(settings.artifacts_url(home))
    passing = folder / "backup.zip"
    try:
        problems = _write(passing, folder, store)
        with zipfile.ZipFile(passing) as archive, EventReader(StoreSettings(), folder) as log:
            report = log.check(artifacts=_Contents(archive))
        told = Backup(
            file=str(file),
            runs=report.runs,
            events=report.events,
            artifacts=report.artifacts,
            bytes=passing.stat().st_size,
            problems=tuple(dict.fromkeys([*problems, *report.problems])),
        )
        passing.replace(file)
    except OSError as error:
        raise TaskError(f"{file} cannot be written: {error.strerror}", "name a file elsewhere") from error
    return told


def restore(settings: StoreSettings, home: Path, file: Path) -> dict[str, Any]:
    """Put the backup `file` into a home that holds no runs; its manifest.

    Raises:
        TaskError: The home holds runs, or `file` is no backup.
        StoreOwned: A factory works there.
        StoreDamaged: Something in the backup is not what was written.
    """
    _need_sqlite(settings)
    make_home(home)
    target = settings.database(home)
    with _opened(file) as archive, Ownership.acquire(home, wait_s=0.5):
        if target.exists():
            raise TaskError(
                f"{home} holds an event log already", "name another RAYSMITH_HOME to restore into"
            )
        manifest: dict[str, Any] = json.loads(archive.read(_MANIFEST))
        contents = _Contents(archive)
        database = archive.read(_DATABASE)
        if hashlib.sha256(database).hexdigest() != manifest.get("database_sha256"):
            raise StoreDamaged(f"the event log in {file} is not what was written", "take another backup")
        store = ArtifactStore(settings.artifacts_url(home))
        for start in range(0, len(contents.digests), _PIECE):
            store.put_all([contents.get(each) for each in contents.digests[start : start + _PIECE]])
        passing = target.with_name(f"{target.name}.restored")
        passing.write_bytes(database)
        passing.chmod(0o600)
        passing.replace(target)
    # Whoever opens the store next has to be above everybody who ever wrote it.
    Ownership.acquire(home, at_least=stored_epoch(settings, home)).release()
    return manifest


def _need_sqlite(settings: StoreSettings) -> None:
    if settings.is_postgres:
        raise TaskError(
            "the event log is in PostgreSQL, whose own tools back it up",
            "use pg_dump while the factory works, and copy the artifacts after it",
        )


def _snapshot(source: Path, target: Path) -> None:
    """A copy of the database at one moment; whoever writes it goes on."""
    address = f"{source.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)
        # One file, whatever the journal of the original.
        copy.execute("PRAGMA journal_mode=DELETE")


def _write(file: Path, folder: Path, store: ArtifactStore) -> list[str]:
    """Write the archive; what of the artifacts cannot be read, in words."""
    problems: list[str] = []
    written = 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(folder / _DATABASE, _DATABASE)
        with EventReader(StoreSettings(), folder) as log:
            run_ids = log.run_ids()
            for digest in _named(log, run_ids, store):
                try:
                    archive.writestr(f"artifacts/{digest}", store.get(digest))
                    written += 1
                except RaysmithError as error:
                    problems.append(error.message)
        with (folder / _DATABASE).open("rb") as database:
            digest = hashlib.file_digest(database, "sha256").hexdigest()
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "schema": schema.HEAD,
            "runs": len(run_ids),
            "artifacts": written,
            "database_sha256": digest,
        }
        archive.writestr(_MANIFEST, json.dumps(manifest, sort_keys=True))
    return problems


def _named(log: EventReader, run_ids: Sequence[str], store: ArtifactStore) -> Iterator[str]:
    """Every artifact that a run names, once, the files of its trees too."""
    seen: set[str] = set()
    for run_id in run_ids:
        for event in log.events(run_id):
            for key, digest in named_by(event):
                for each in (digest, *(_files(store, digest) if key in TREE_KEYS else ())):
                    if each not in seen:
                        seen.add(each)
                        yield each


def _files(store: ArtifactStore, digest: str) -> list[str]:
    try:
        return [content for _, _, content in store.tree_entries(digest)]
    except RaysmithError:
        return []  # told where the tree itself is read


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
        manifest = json.loads(archive.read(_MANIFEST))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise TaskError(
            f"{file} is no backup: {error}", "name a file that `raysmith backup` wrote"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise TaskError(f"{file} is no backup", _NO_BACKUP)
    if manifest.get("version") != VERSION or manifest.get("schema") not in schema.REVISIONS:
        raise TaskError(
            f"{file} was written by a newer Raysmith (schema {manifest.get('schema')})", "upgrade Raysmith"
        )
    return archive


def backup_json(told: Backup) -> dict[str, Any]:
    """As `--json` prints it."""
    return {**asdict(told), "problems": list(told.problems)}
