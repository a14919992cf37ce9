"""Retention: runs that ended long ago go, with what only they name. It needs a store that no factory has."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cluster.artifacts import ArtifactStore
from cluster.event_log import EventLog, EventReader, open_log, stored_epoch
from cluster.event_log_check import TREE_KEYS, named_by
from cluster.event_log_driver import Driver
from cluster.owner import Ownership
from cluster.store_settings import StoreSettings
from orchestrator.errors import RaysmithError, StoreError
from orchestrator.events import Status

# Parked runs wait for a person and are no more prunable than unfinished ones.
ENDED = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
_RUNS_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What went, or would; `artifacts` and their `bytes` are those that no other run names."""

    runs: tuple[str, ...]
    artifacts: int
    bytes: int
    kept: int


def prune(settings: StoreSettings, home: Path, before: str, *, dry_run: bool = False) -> Pruned:
    """Remove the runs that ended before a time, and compact the store.

    What engines cost stays known. Contents go where they are in this home's own folder only: another
    store may name what lies elsewhere.

    Args:
        settings: Where the store is.
        home: RAYSMITH_HOME.
        before: UTC, as events carry it.
        dry_run: Only tell.

    Raises:
        StoreOwned: A factory works on the store.
        StoreError: Which artifacts are still named cannot be told, since a run or tree cannot be read.
    """
    with EventReader(settings, home) as log:
        if not log.exists:
            return Pruned(runs=(), artifacts=0, bytes=0, kept=0)
        if dry_run:
            return _found(settings, home, log, before)[0]
    with Ownership.acquire(home, wait_s=0.5, at_least=stored_epoch(settings, home)) as owned:
        with open_log(settings, home, epoch=owned.epoch) as log:
            found, digests = _found(settings, home, log, before)
            _remove(log, found.runs)
        # Only now: whatever an event names is there, also after a kill in between.
        _store(settings, home).remove(digests)
        if found.runs and not settings.is_postgres:
            with closing(sqlite3.connect(settings.database(home), isolation_level=None)) as database:
                database.execute("VACUUM")
    return found


def _found(settings: StoreSettings, home: Path, log: EventReader, before: str) -> tuple[Pruned, list[str]]:
    ended = log.runs(status=ENDED, limit=None)
    doomed = [run.run_id for run in ended if run.finished_at is not None and run.finished_at < before]
    going = set(doomed)
    staying = [run_id for run_id in log.run_ids() if run_id not in going]
    store = _store(settings, home)
    digests: list[str] = []
    if not settings.artifacts and doomed:
        digests = sorted(_named(log, doomed, store) - _named(log, staying, store, is_strict=True))
    sizes = [size for each in digests if (size := store.size(each)) is not None]
    told = Pruned(runs=tuple(doomed), artifacts=len(sizes), bytes=sum(sizes), kept=len(staying))
    return told, digests


def _named(
    log: EventReader, run_ids: Iterable[str], store: ArtifactStore, *, is_strict: bool = False
) -> set[str]:
    """The artifacts that runs name, the files of their trees too."""
    found: set[str] = set()
    for run_id in run_ids:
        for event in log.events(run_id):
            for key, digest in named_by(event):
                if digest in found:
                    continue
                found.add(digest)
                if key in TREE_KEYS:
                    found.update(_files(store, digest, is_strict=is_strict))
    return found


def _files(store: ArtifactStore, digest: str, *, is_strict: bool) -> list[str]:
    try:
        return [content for _, _, content in store.tree_entries(digest)]
    except RaysmithError as error:
        if is_strict:
            raise StoreError(
                f"which files a run that stays needs cannot be told: {error.message}",
                "`raysmith check-log` tells what is damaged; nothing was removed",
            ) from error
        return []


def _remove(log: EventLog, run_ids: Sequence[str]) -> None:
    for start in range(0, len(run_ids), _RUNS_AT_ONCE):
        part = run_ids[start : start + _RUNS_AT_ONCE]

        def work(driver: Driver, part: Sequence[str] = part) -> None:
            for run_id in part:
                driver.execute("DELETE FROM events WHERE run_id = ?", (run_id,))
                driver.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))

        log.do_blocking(work)


def _store(settings: StoreSettings, home: Path) -> ArtifactStore:
    return ArtifactStore(settings.artifacts_url(home))
