"""A person's word at a gate: approve, reject."""

from __future__ import annotations

from typing import Annotated

import typer

from serve.commands import options
from serve.commands.control import carried_on, find
from serve.commands.door import Door, Interrupted, open_door

Gate = Annotated[
    str | None, typer.Argument(metavar="[NODE]", help="The gate; may be left out where one is open.")
]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who says so; default: this user.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Kept in the event log.")]


def approve(
    run: options.RunId,
    node: Gate = None,
    by: By = None,
    why: Why = "",
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Say yes at a gate of a run's graph, and carry the run on."""
    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    return _decide(door, run, node, approved=True, by=by, why=why)


def reject(
    run: options.RunId,
    node: Gate = None,
    by: By = None,
    why: Why = "",
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Say no at a gate of a run's graph."""
    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    return _decide(door, run, node, approved=False, by=by, why=why)


def _decide(door: Door, run: str, node: str | None, *, approved: bool, by: str | None, why: str) -> int:
    """Record it and show the run to its end; a yes is 0 when the run succeeds, a no when it is recorded."""
    from cluster.approvals import open_gate

    run_id = find(door, run)
    with door.reads() as log:
        # Before a factory is started for it.
        open_gate(log.state(run_id), node)
    with door.factory() as factory:
        factory.decide(run_id, node, approved=approved, by=by or user(), why=why)
        door.screen.line(f"{'approved' if approved else 'rejected'} {run_id}")
        try:
            result = carried_on(door, factory, run_id)
        except (KeyboardInterrupt, Interrupted):
            raise Interrupted(f"raysmith resume {run_id}") from None
    if door.screen.as_json:
        door.screen.object(result)
    return 0 if result.get("status") == "succeeded" or not approved else 1


def user() -> str:
    """Who runs this command."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
