"""The commands that take a past run along and do it again: export, replay. Neither needs Ray, GPU or key."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.errors import TaskError
from orchestrator.events import Event
from serve.commands import forking, options
from serve.commands.door import Door, open_door
from serve.commands.past import recall
from serve.render import clean, clean_lines


def export(
    run: options.RunId,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Where to write it; default: RUN.raysmith.zip in this folder."
        ),
    ] = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Write everything of a run into one file that `raysmith replay` does again anywhere."""
    from serve.replays import SUFFIX, save_export
    from serve.secrets import known_secrets

    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    state, known = recall(door, run)
    file = out or Path(f"{state.run_id}{SUFFIX}")
    told = save_export(file.absolute(), known, door.artifacts(), known_secrets=known_secrets(door.config))
    if as_json:
        door.screen.object(told)
        return 0
    if not state.status.is_finished:
        door.note(f"run {state.run_id} has not ended; this is what there is of it")
    door.screen.line(f"{told['file']}: {told['events']} events, {told['bytes']} bytes")
    door.screen.line(f"sha256 {told['sha256']}")
    return 0


def replay(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE|RUN", help="What `raysmith export` wrote, or a run's id."),
    ],
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STEP",
            help="Make a new run that inherits what came before this node or step, and goes on from there.",
        ),
    ] = None,
    graph: Annotated[
        str | None,
        typer.Option(
            "--graph",
            metavar="NAME|FILE",
            help="With --from or --offline: another graph; --set NODE.policy.KEY=VALUE changes one.",
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Of a run of here: do it again with its recorded replies and test runs, as for a FILE. With "
            "--from from there on, with --graph by that graph.",
        ),
    ] = False,
    rerun_tests: Annotated[
        bool,
        typer.Option("--rerun-tests", help="Really run every test run again in the sandbox, and compare it."),
    ] = False,
    python: options.Python = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Do an exported run again, without GPU, key or model, and compare; or a run of here from a step on."""
    policies, others = forking.split_settings(settings or ())
    if start is not None and not offline:
        door = open_door(as_json=as_json, verbose=verbose, file=config, settings=others)
        return forking.fork(door, str(file), start, graph, policies)
    if (graph is not None or policies) and not offline:
        raise TaskError("--graph goes with --from or --offline", "give one of them, and a run's id")
    from serve.replays import replay_file, sentences
    from serve.tasks import interpreter

    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=others)
    rerun = door.config.sandbox if rerun_tests else None
    import asyncio

    with _recorded(door, file) as (recorded, known):
        declaration = forking.checked_graph(door, known, start, graph, policies) if known else None
        result = asyncio.run(
            replay_file(recorded, rerun=rerun, python=interpreter(python), graph=declaration)
        )
    if as_json:
        door.screen.object(result.json())
    else:
        for line in sentences(result):
            door.screen.line(clean(line))
        if result.difference is not None:
            door.screen.line(f"first difference: {clean_lines(result.difference.message)}", "bold")
            door.screen.line(f"  next: {clean_lines(result.difference.next_move)}")
    return 0 if result.equal else 1


@contextlib.contextmanager
def _recorded(door: Door, file: Path) -> Iterator[tuple[Path, list[Event]]]:
    """The export that is meant, and the events where that is a run of here."""
    from serve.replays import SUFFIX, save_export

    if file.exists() or file.suffix:
        yield file, []
        return
    state, known = recall(door, str(file))
    with tempfile.TemporaryDirectory() as folder:
        passing = Path(folder) / f"{state.run_id}{SUFFIX}"
        save_export(passing, known, door.artifacts(), known_secrets={})
        yield passing, known
