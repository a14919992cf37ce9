"""`raysmith usage`: what engines cost, from the event log. No Ray in sight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.event_log_usage import By
from serve.commands import options
from serve.commands.door import Door, open_door
from serve.render import clean
from serve.usage import cost, day_of, told

if TYPE_CHECKING:
    from cluster.event_log_usage import Spent


def usage(
    by: Annotated[
        By, typer.Option("--by", metavar="GROUP", help="tenant, run, step, engine or day.")
    ] = By.TENANT,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="TENANT", help="Only what this tenant's runs cost.")
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Only this run: its id, or the start of it.")
    ] = None,
    since: Annotated[
        str, typer.Option("--since", metavar="DAY", help="The first day that counts, in UTC: 2026-01-31.")
    ] = "",
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Show what engines cost: requests, tokens, GPU seconds, dollars."""
    day = day_of(since)
    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    with door.reads() as log:
        run_id = log.find_run(run) if run else None
        spent = log.usage(by, tenant=tenant, run_id=run_id, since=day)
    if as_json:
        door.screen.object(told(by, day, spent))
    elif not spent:
        door.screen.line("no engine was called; a run with --model calls one")
    else:
        _table(door, spent)
    return 0


def _table(door: Door, spent: list[Spent]) -> None:
    from rich.table import Table
    from rich.text import Text

    amounts = ("requests", "retries", "prompt", "completion", "cached", "GPU s", "USD")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in spent[0].group:
        table.add_column(name.removesuffix("_id"), no_wrap=True)
    for name in amounts:
        table.add_column(name, justify="right", no_wrap=True)
    for each in spent:
        cells = (*each.group.values(), *_cells(cost(each.usage)))
        table.add_row(*(Text(clean(cell, 60)) for cell in cells))
    door.screen.console.print(table)


def _cells(amounts: dict[str, Any]) -> tuple[str, ...]:
    tokens = amounts["tokens"].values()
    counts = (amounts["requests"], amounts["retries"], *tokens)
    return *map(str, counts), f"{amounts['gpu_s']:.1f}", f"{amounts['cost_usd']:.4f}"
