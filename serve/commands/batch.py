"""The command `batch`: many tasks over all replicas, resumable with the same command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.errors import TaskError
from serve.commands import options
from serve.commands.door import Door, Interrupted, open_door
from serve.commands.work import defaults
from serve.render import clean
from serve.tasks import check_model, read_batch, take_entry

if TYPE_CHECKING:
    from serve.batch import Batch, BatchRun, Tally


def batch(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.jsonl",
            help="A task per line: id, path or goal, and if wanted tests, protect, budget_s, graph.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Where results are written; default: FILE-out beside FILE."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Run nothing when a line is broken.")] = False,
    model: options.Model = None,
    attempts: options.Attempts = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Run many tasks; the same command again goes on where it was interrupted."""
    from serve.batch import BatchRun, Results

    door = open_door(
        as_json=as_json,
        verbose=verbose,
        file=config,
        settings=settings,
        model=model,
        budget__attempts=attempts,
    )
    check_model(door.config.model)
    tasks = read_batch(door.config, file)
    for line in tasks.broken:
        door.screen.line(f"line {line.number}: {clean(line.message)}", "red")
    if not tasks.entries or (strict and tasks.broken):
        raise _broken(file, tasks, "nothing was run")
    folder = (out or file.with_name(f"{file.stem}-out")).absolute()
    results = Results(_made(folder) / "results.jsonl")
    results.load()
    defaults(door)
    with door.factory() as factory, _shown(door) as show:
        run = BatchRun(
            factory=factory,
            results=results,
            out=folder,
            take=lambda entry: take_entry(door.config, entry, door.note),
            most_in_flight=door.config.orchestrator.max_active_runs,
            on_change=show,
        )
        try:
            told = run.execute(tasks.entries)
        except KeyboardInterrupt:
            _leave(factory, run)
            raise Interrupted("the same command again goes on") from None
    results.compact(entry.task.id for entry in tasks.entries)
    return _finish(door, file, tasks, told, folder)


def _broken(file: Path, tasks: Batch, consequence: str) -> TaskError:
    lines = "; ".join(f"line {line.number}: {line.message}" for line in tasks.broken[:5])
    more = f"; and {len(tasks.broken) - 5} more" if len(tasks.broken) > 5 else ""
    return TaskError(f"{file}: {lines}{more}", f"mend them and run the command again; {consequence}")


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TaskError(f"{folder} cannot be made: {error.strerror}", "choose another --out") from error
    return folder


def _leave(factory: Any, run: BatchRun) -> None:
    """A joined factory lives on; it must not go on with what nobody waits for."""
    if not factory.started_here:
        for run_id in run.in_flight:
            factory.cancel(run_id, "interrupted")


def _finish(door: Door, file: Path, tasks: Batch, told: list[dict[str, Any]], folder: Path) -> int:
    from serve.commands.running import error_object

    succeeded = sum(line["status"] == "succeeded" for line in told)
    screen = door.screen
    if screen.as_json:
        problem = error_object(_broken(file, tasks, "the other lines ran")) if tasks.broken else {}
        invalid = [{"line": line.number, "message": line.message} for line in tasks.broken]
        screen.object({**problem, "results": told, "invalid": invalid, "out": str(folder)})
    else:
        screen.line(f"{succeeded} of {len(told)} tasks succeeded; results in {folder / 'results.jsonl'}")
        for line in told:
            if line["status"] != "succeeded":
                why = (line.get("error") or {}).get("message", line["reason"])
                screen.line(f"  {line['id']}: {line['status']}, {clean(why)}")
    if tasks.broken:
        if not screen.as_json:
            raise _broken(file, tasks, "the other lines ran")
        return 2
    return 0 if succeeded == len(told) else 1


@contextmanager
def _shown(door: Door) -> Iterator[Any]:
    """Gives what is called with the tally: a live table on a terminal, a line per finished task elsewhere."""
    from serve.tables import batch_line, batch_table

    if door.screen.is_live:
        from rich.live import Live

        with Live(console=door.screen.console, auto_refresh=False) as live:
            yield lambda tally: live.update(batch_table(tally, time.monotonic()), refresh=True)
        return
    seen = -1

    def tell(tally: Tally) -> None:
        nonlocal seen
        if tally.finished != seen:
            seen = tally.finished
            door.screen.line(batch_line(tally, time.monotonic()))

    yield tell
