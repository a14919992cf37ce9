"""The store kept safe: backup, restore. Neither needs Ray."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.errors import TaskError
from serve.commands import options
from serve.commands.door import open_door
from serve.render import clean


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; replaced when all is written.")],
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Write the whole store into one file, also while a factory works, and verify it."""
    from cluster.backup import back_up, backup_json

    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    target = file.absolute()
    try:
        # Beside the file, so that it is on the same disk.
        folder = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise TaskError(f"{file} cannot be written: {error.strerror}", "name a file elsewhere") from error
    with folder as between, door.screen.waiting("writing"):
        told = back_up(door.config.store, door.home, target, Path(between))
    if as_json:
        door.screen.object(backup_json(told))
        return 1 if told.problems else 0
    for problem in told.problems[:20]:
        door.screen.line(clean(problem, 1000))
    held = f"{told.runs} runs, {told.events} events, {told.artifacts} artifacts, {told.bytes} bytes"
    door.screen.line(f"{file}: {held}; {'not all of the store is whole' if told.problems else 'verified'}")
    return 1 if told.problems else 0


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `raysmith backup` wrote.")],
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Put a backup into an empty RAYSMITH_HOME; unfinished runs go on with `raysmith resume`."""
    from cluster.backup import restore as put_back

    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    with door.screen.waiting("reading"):
        told = put_back(door.config.store, door.home, file)
    if as_json:
        door.screen.object({"home": str(door.home), **told})
        return 0
    door.screen.line(f"{told['runs']} runs and {told['artifacts']} artifacts are in {door.home}")
    door.screen.line("  next: raysmith check-log")
    return 0


def prune(
    older_than: Annotated[
        float,
        typer.Option("--older-than", metavar="DAYS", min=0.0, help="Runs that ended more days ago go."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Remove runs that ended long ago, with contents that no other run names; `raysmith down` comes first.

    Unfinished and parked runs always stay, and so does what engines cost.
    """
    from datetime import UTC, datetime, timedelta

    from cluster.pruning import prune as pruned

    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    try:
        before = (datetime.now(UTC) - timedelta(days=older_than)).isoformat(timespec="microseconds")
    except OverflowError as error:
        raise TaskError(f"--older-than {older_than:g} is before all time", "give fewer days") from error
    told = pruned(door.config.store, door.home, before, dry_run=dry_run)
    if as_json:
        door.screen.object(
            {
                "dry_run": dry_run,
                "runs": list(told.runs),
                "artifacts": told.artifacts,
                "bytes": told.bytes,
                "kept": told.kept,
            }
        )
        return 0
    verb = "would go" if dry_run else "are gone"
    door.screen.line(
        f"{len(told.runs)} runs and {told.artifacts} artifacts ({told.bytes} bytes) {verb}; {told.kept} stay"
    )
    return 0
