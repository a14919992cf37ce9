"""A run of another store taken into this one: `raysmith import FILE`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.events import Event
from serve.commands import options
from serve.commands.door import Door, open_door

if TYPE_CHECKING:
    from cluster.client import Factory
    from cluster.event_log import EventLog


def import_run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `raysmith export` wrote.")],
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Take an exported run into this store as it was: its id, events, hashes, contents."""
    from serve.replays import take_in

    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    told = take_in(file, door.artifacts(), lambda events: insert_run(door, events))
    if as_json:
        door.screen.object(told)
        return 0
    where = f"{told['run_id']}: {told['events']} events, {told['artifacts']} contents"
    door.screen.line(f"{where}, taken in" if told["imported"] else f"{where}, were here already")
    return 0


def insert_run(door: Door, events: Sequence[Event]) -> bool:
    """Commit the events of a run of another store; False where they are there already."""
    from cluster.importing import insert

    is_new: bool = written(
        door,
        lambda factory: factory.take_in(events),
        lambda log: log.do_blocking(lambda driver: insert(driver, events)),
    )
    return is_new


def written(door: Door, joined: Callable[[Factory], Any], alone: Callable[[EventLog], Any]) -> Any:
    """What the living factory does, which is the store's one writer; without one, what we do ourselves.

    Raises:
        StoreOwned: Another process that is no factory of ours writes the store.
    """
    from cluster.event_log import open_log
    from cluster.owner import Ownership, lost_owner, read_owner

    if read_owner(door.home) or lost_owner(door.home) or door.config.ray.address:
        with door.factory() as factory:
            return joined(factory)
    with (
        Ownership.acquire(door.home) as owned,
        open_log(door.config.store, door.home, epoch=owned.epoch) as log,
    ):
        return alone(log)
