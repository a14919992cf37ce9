"""Whether the event log is whole: `raysmith check-log`. It reads only, also while a factory works."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from serve.commands import options
from serve.commands.control import find
from serve.commands.door import Door, open_door
from serve.render import clean

if TYPE_CHECKING:
    from cluster.event_log_check import CheckReport, Damage

_SHOWN = 20


def check_log(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's id, or the start of it; default: all runs.")
    ] = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Verify the event log: sequence, hash chain, lists, costs, and every artifact that an event names."""
    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    run_id = find(door, run) if run is not None else None
    with door.screen.waiting("checking"), door.reads() as log:
        report = log.check(run_id, door.artifacts())
    if as_json:
        door.screen.object({"ok": not report.problems, "home": str(door.home), **asdict(report)})
    else:
        _tell(door, report)
    return 1 if report.problems else 0


def _tell(door: Door, report: CheckReport) -> None:
    screen = door.screen
    for problem in report.problems[:_SHOWN]:
        screen.line(clean(problem, 1000))
    if len(report.problems) > _SHOWN:
        screen.line(f"and {len(report.problems) - _SHOWN} more; --json has all")
    for damage in report.damaged:
        screen.line(damage_line(damage), "bold")
    looked_at = f"{report.runs} runs, {report.events} events, {report.artifacts} artifacts"
    if not report.problems:
        screen.line(f"{looked_at}: all is well")
        return
    whole = report.runs - len(report.damaged)
    screen.line(f"{looked_at}: {len(report.problems)} problems; the events of {whole} runs are whole")
    screen.line("  next: restore a backup into another RAYSMITH_HOME (`raysmith restore`), and compare")


def damage_line(damage: Damage) -> str:
    """Where a run is damaged, what is lost, and what still loads."""
    loads = f"events 1 to {damage.loads} still load" if damage.loads else "none of its events loads"
    return f"run {damage.run_id} is damaged from event {damage.seq} on: {damage.lost} lost, {loads}"
