"""How a batch and a factory stand, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from serve.render import clean

if TYPE_CHECKING:
    from rich.table import Table

    from serve.batch import Tally


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    )


def figures(tally: Tally, now: float) -> dict[str, str]:
    """The columns of the live table."""
    return {
        "queue": str(tally.queued),
        "running": str(tally.running),
        "succeeded": str(tally.succeeded),
        "failed": str(tally.failed),
        "rate": f"{tally.rate_per_min(now):.1f}/min",
        "ETA": duration(tally.eta_s(now)),
    }


def batch_line(tally: Tally, now: float) -> str:
    """The tally as a plain line, with the task that finished last."""
    last = f"{clean(tally.last[-1])}; " if tally.last else ""
    return last + ", ".join(f"{name} {value}" for name, value in figures(tally, now).items())


def batch_table(tally: Tally, now: float) -> Table:
    """The tally as a table, with the tasks that finished last."""
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=Text("\n".join(map(clean, tally.last))), caption_justify="left")
    shown = figures(tally, now)
    for name in shown:
        table.add_column(name, justify="right")
    table.add_row(*shown.values())
    return table


def status_lines(told: Mapping[str, Any]) -> Iterator[str]:
    """What `raysmith status` knows, in lines."""
    yield "a factory is running" if told["running"] else "no factory is running; `raysmith up` starts one"
    if told.get("problem"):
        yield clean(f"  but: {told['problem']}")
    if told.get("address"):
        yield f"address {told['address']}, dashboard {told.get('dashboard') or 'none'}"
    counts = ", ".join(f"{count} {name}" for name, count in told["runs"].items() if count)
    yield f"runs: {counts or 'none'}; state in {told['home']}"
    fleet: Mapping[str, Any] = told.get("fleet", {})
    for replica in fleet.get("replicas", ()):
        work = ", ".join(f"{held['run_id']} {held['step']}" for held in replica.get("work", ()))
        yield clean(f"  {replica['name']:12} {replica['state']:10} {work}".rstrip())
    for group in fleet.get("groups", ()):
        if group.get("trouble"):
            yield clean(f"  group {group['name']}: {group['trouble']}")
    if told["running"]:
        waiting = sum(fleet.get("waiting", {}).values())
        yield f"waiting steps: {waiting}, active runs: {', '.join(told.get('active_runs', ())) or 'none'}"
