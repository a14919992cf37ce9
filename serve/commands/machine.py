"""Commands about this machine: what it can do, and the factory shown at work on it."""

from __future__ import annotations

from dataclasses import asdict

from orchestrator.errors import MachineError
from serve.commands import options
from serve.commands.door import open_door
from serve.commands.running import error_object
from serve.render import clean

_MARKS = {True: ("ok", "green"), None: ("limited", "yellow"), False: ("missing", "red")}


def doctor(
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Say what this machine can do, with a fix beside every gap."""
    from serve.doctor import examine

    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    checks = examine(door.loaded)
    gaps = [check for check in checks if check.ok is False]
    if as_json:
        gap = MachineError(f"{gaps[0].name}: {gaps[0].found}", gaps[0].fix) if gaps else None
        problem = error_object(gap) if gap else {}
        door.screen.object({**problem, "ok": not gaps, "checks": [asdict(check) for check in checks]})
        return 3 if gaps else 0
    for check in checks:
        mark, style = _MARKS[check.ok]
        door.screen.line(f"{check.name:10} {mark:8} {clean(check.found)}", style)
        if check.fix:
            door.screen.line(f"{'':19} fix: {clean(check.fix)}")
    return 3 if gaps else 0


def demo(
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Show the factory at work: a story through all four roles, then the repair of a package."""
    from serve.demo import show

    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    return show(door)
