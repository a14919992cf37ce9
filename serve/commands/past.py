"""What the event log knows, also after everything was killed: list, show, events, diff. No Ray in sight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.errors import TaskError
from orchestrator.events import Event, RunState, Status
from serve.commands import options
from serve.commands.door import Door, open_door
from serve.render import clean, comparison_lines, event_line, result_lines

if TYPE_CHECKING:
    from cluster.event_log_projection import RunSummary


def list_runs(
    status: Annotated[
        list[Status] | None,
        typer.Option("--status", metavar="STATUS", help="Only runs of this status. Repeatable."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="At most so many, newest first.")
    ] = 50,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """List runs, the newest first."""
    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    with door.reads() as log:
        runs = log.runs(status=status or None, limit=limit)
    if as_json:
        door.screen.object({"runs": [asdict(run) for run in runs]})
    elif not runs:
        door.screen.line(f"no runs in {door.home}; `raysmith repair PATH` makes one")
    else:
        _table(door, runs)
    return 0


def show(
    run: options.RunId,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Show how a run stands or ended."""
    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    state, _ = recall(door, run)
    result = _result(door, state)
    if as_json:
        door.screen.object(result)
        return 0
    screen = door.screen
    screen.line(
        f"run {state.run_id}, graph {clean(state.task.get('graph'))}, task {clean(state.task.get('id'))}"
    )
    if state.parent:
        screen.line(f"replays {clean(state.parent.get('run'))} from {clean(state.parent.get('from'))}")
    if state.task.get("origin"):
        screen.line(f"from {clean(state.task['origin'])}")
    for line in _ended_lines(state, result):
        screen.line(line)
    for (step, attempt), done in state.steps.items():
        where = f" on {clean(done.replica)}" if done.replica else ""
        screen.line(f"  {clean(step)} (attempt {attempt}): {done.status}{where}")
    if result["out"]:
        screen.line(f"written to {result['out']}")
    return 0


def events(
    run: options.RunId,
    after: Annotated[
        int, typer.Option("--after", metavar="SEQ", min=0, help="Only events after this number.")
    ] = 0,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """List a run's events."""
    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    _, known = recall(door, run)
    chosen = [event for event in known if event.seq > after]
    if as_json:
        door.screen.object({"run_id": known[0].run_id, "events": [asdict(event) for event in chosen]})
        return 0
    for event in chosen:
        attempt = f" {event.attempt}" if event.attempt else ""
        step = f" [{clean(event.step)}{attempt}]" if event.step else ""
        told = event_line(event)
        door.screen.line(f"{event.seq:5} {event.at} {event.type}{step}{f': {told}' if told else ''}")
    return 0


def diff(
    run: options.RunId,
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="A second run, to compare the first with.")
    ] = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Print a run's patch, or the best it had so far; of two runs, where they part and how they differ."""
    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    if other is not None:
        return _compare(door, run, other)
    state, _ = recall(door, run)
    text, files = _diff_of(door, state)
    if as_json:
        door.screen.object({"run_id": state.run_id, "diff": text, "files": files})
    elif text:
        door.screen.diff(text)
    else:
        raise TaskError(
            f"run {state.run_id} has no patch", f"`raysmith show {state.run_id}` tells how it stands"
        )
    return 0


def _compare(door: Door, run: str, other: str) -> int:
    from orchestrator.comparison import compared

    (one, first), (two, second) = recall(door, run), recall(door, other)
    told = compared(first, second, (_result(door, one), _result(door, two)))
    if door.screen.as_json:
        door.screen.object(told)
        return 0
    for line in comparison_lines(told):
        door.screen.line(clean(line, 500))
    return 0


def recall(door: Door, run: str) -> tuple[RunState, list[Event]]:
    """A run's state and its events, by its id or the start of it."""
    from orchestrator.events import fold

    with door.reads() as log:
        known = log.events(log.find_run(run))
    return fold(known), known


def _result(door: Door, state: RunState) -> dict[str, Any]:
    from orchestrator.report import result

    out = door.home / "out" / state.run_id
    return result(state, door.artifacts().get, out=str(out) if out.is_dir() else None)


def _ended_lines(state: RunState, result: Mapping[str, Any]) -> list[str]:
    if not state.status.is_finished:
        stands = f"{state.status}, pausing" if state.pause else str(state.status)
        failing = "" if state.best_failing is None else f", best so far fails {state.best_failing}"
        return [f"{stands}: attempt {state.attempt}{failing}", *_pause_lines(state)]
    error = state.report.get("error")
    told = [f"error: {clean(error['message'])}"] if error else []
    return [*result_lines(result), *told, *_pause_lines(state)]


def _pause_lines(state: RunState) -> list[str]:
    if (pause := state.pause) is None:
        return []
    why = f": {clean(pause.why)}" if pause.why else ""
    return [f"paused by {clean(pause.by)} at {pause.at[:19]}{why}"]


def _diff_of(door: Door, state: RunState) -> tuple[str, list[str]]:
    from orchestrator.report import changes_from, diff_text

    store = door.artifacts()
    if digest := state.report.get("diff"):
        return store.get(digest).decode("utf-8", "surrogateescape"), list(state.report.get("files", []))
    if state.best_patch is None:
        return "", []
    changes = changes_from(store.get(state.best_patch))
    text = diff_text(store.load_tree(state.task["tree"]), changes)
    return text.decode("utf-8", "surrogateescape"), sorted(changes)


def _table(door: Door, runs: list[RunSummary]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("run", "status", "reason", "attempt", "task", "submitted"):
        table.add_column(column, no_wrap=column in ("run", "status"))
    for run in runs:
        cells = (run.run_id, run.status, run.reason or "", run.attempt, run.task_id, run.submitted_at[:19])
        table.add_row(*(Text(clean(cell, 60)) for cell in cells))
    door.screen.console.print(table)
