"""A run laid to rest, and a failed node done anew: pause, retry."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.pausing import check_pausable, is_paused
from serve.commands import options
from serve.commands.deciding import By, Why, user
from serve.commands.door import Interrupted, open_door
from serve.commands.past import recall
from serve.commands.running import finish, follow, store_folder
from serve.render import event_line


def pause(
    run: options.RunId,
    now: Annotated[
        bool, typer.Option("--now", help="Stop steps that are at work too; they are done anew later.")
    ] = False,
    by: By = None,
    why: Why = "",
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Let a run rest: no further step begins, those at work come to their end; `resume RUN` goes on."""
    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    before, _ = recall(door, run)
    run_id = before.run_id
    if not is_paused(before):
        # Before a factory is started for it.
        check_pausable(before)
    with door.factory() as factory:
        try:
            state = factory.pause(run_id, by=by or user(), why=why, now=now)
            if not state.status.is_finished:
                for event in factory.follow(run_id, state.last_seq):
                    if told := event_line(event):
                        door.screen.line(told)
                state = factory.state(run_id)
        except KeyboardInterrupt:
            # The word is in the log: the run is parked when its last step has ended.
            raise Interrupted(f"raysmith show {run_id}") from None
    if as_json:
        door.screen.object({"run_id": run_id, "status": str(state.status), "reason": state.reason})
    else:
        door.screen.line(f"{run_id} {state.status}: {state.reason}")
    return 0 if is_paused(state) else 1


def retry(
    run: options.RunId,
    node: Annotated[
        str,
        typer.Argument(metavar="NODE", help="A node that failed, as `raysmith events` names it; or a step."),
    ],
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Do a failed node of an ended run anew, and all that needs it, in a new run that inherits the rest."""
    from cluster.export import graph_in
    from orchestrator.retrying import kept_by_retry

    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    state, known = recall(door, run)
    run_id = state.run_id
    # Before a factory is started for it.
    kept_by_retry(known, state, graph_in(state, door.artifacts().get), node)
    with door.factory() as factory:
        new_id = factory.retry(run_id, node)
        door.screen.line(f"run {new_id} does {node} of {run_id} anew")
        ended, result = follow(door, factory, new_id)
        written = store_folder(door, factory, ended, result, None)
    return finish(door, written)
