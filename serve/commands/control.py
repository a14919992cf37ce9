"""Commands that steer a factory: cancel, resume, up, down, status."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.errors import RaysmithError
from orchestrator.events import Status
from orchestrator.pausing import PAUSED
from serve.commands import options
from serve.commands.door import Door, Ended, Interrupted, factory_settings, open_door
from serve.commands.running import error_object, follow, store_folder
from serve.render import clean, result_lines
from serve.tables import status_lines


def cancel(
    run: options.RunId,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept in the event log.")] = "",
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Stop a run; its best patch so far is kept."""
    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    run_id = find(door, run)
    with door.factory() as factory:
        state = factory.cancel(run_id, reason)
    if as_json:
        door.screen.object({"run_id": run_id, "status": str(state.status), "reason": state.reason})
    else:
        door.screen.line(f"{run_id} {state.status}: {state.reason}")
    return 0


def resume(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs to carry on; default: all unfinished ones."),
    ] = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Carry on unfinished runs from where the event log stands."""
    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    chosen = [find(door, run) for run in runs] if runs else None
    if chosen is None and not _unfinished(door):
        return _nothing_to_resume(door)
    with door.factory() as factory:
        resumed = factory.resume(chosen)
        door.screen.line(f"carrying on {len(resumed)} runs" if resumed else "nothing to carry on")
        try:
            results = [carried_on(door, factory, run_id) for run_id in resumed]
        except (KeyboardInterrupt, Interrupted):
            raise Interrupted("raysmith resume") from None
    if as_json:
        door.screen.object({"results": results})
    return 0 if all(result.get("status") == "succeeded" for result in results) else 1


def carried_on(door: Door, factory: Any, run_id: str) -> dict[str, Any]:
    """Show a run from where it stands to its end, write its folder, and return its result."""
    seq = factory.state(run_id).last_seq
    try:
        state, result = follow(door, factory, run_id, max(0, seq - 1))
    except Ended as error:
        door.screen.line(f"{run_id}: {clean(error.message)}")
        return {"run_id": run_id, "status": "failed", "reason": error.code, **error_object(error)}
    written = store_folder(door, factory, state, result, None)
    for line in (f"{run_id}:", *result_lines(written.result), f"written to {written.out}"):
        door.screen.line(line)
    return dict(written.result)


def _unfinished(door: Door) -> bool:
    with door.reads() as log:
        return bool(log.unfinished())


def _nothing_to_resume(door: Door) -> int:
    door.screen.line("nothing to carry on")
    with door.reads() as log:
        paused = [run.run_id for run in log.runs(status=[Status.PARKED], limit=None) if run.reason == PAUSED]
    if paused:
        door.screen.line(f"paused, to be named: {', '.join(paused[:10])}{', …' if len(paused) > 10 else ''}")
    if door.screen.as_json:
        door.screen.object({"results": []})
    return 0


def find(door: Door, run: str) -> str:
    """The whole id of a run that is named by the start of it."""
    with door.reads() as log:
        return log.find_run(run)


Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", help="A Ray cluster instead of this machine; or RAY_ADDRESS."
    ),
]


def up(
    address: Address = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Keep a factory running, on this machine or on a Ray cluster; every command joins it."""
    from serve.daemon import start

    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings, ray__address=address)
    if door.config.ray.address:
        return _up_on_cluster(door)
    with door.screen.waiting("starting the factory"):
        running = start(door.loaded, file=config, settings=settings or ())
    if as_json:
        door.screen.object(running)
        return 0
    door.screen.line("a factory was running already" if running["joined"] else "the factory is up")
    door.screen.line(f"address {running['address']}, dashboard {running['dashboard'] or 'none'}")
    door.screen.line("`raysmith down` ends it")
    return 0


def _up_on_cluster(door: Door) -> int:
    """A factory there outlives this command: it is made of this command's settings and installed code."""
    with door.factory() as factory:
        told = {"address": factory.address, "dashboard": factory.dashboard_url, "joined": factory.was_there}
    if door.screen.as_json:
        door.screen.object(told)
        return 0
    door.screen.line("a factory was running already" if told["joined"] else "the factory is up")
    door.screen.line("`raysmith down` with the same address ends it")
    return 0


def down(
    address: Address = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """End the factory that `up` started; unfinished runs can be resumed."""
    from cluster.connect import end_factory
    from serve.daemon import stop

    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings, ray__address=address)
    with door.screen.waiting("ending the factory"):
        ray = door.config.ray
        stopped = end_factory(factory_settings(door.loaded), ray) if ray.address else stop(door.home)
    if as_json:
        door.screen.object({"stopped": stopped})
    else:
        door.screen.line("the factory is down" if stopped else "no factory was running")
    return 0


def status(
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Show the factory, its replicas and its queue, and how many runs there are."""
    door = open_door(as_json=as_json, verbose=verbose, file=config, settings=settings)
    told = {"running": False, "runs": _counts(door), "home": str(door.home), **_living(door)}
    if as_json:
        door.screen.object(told)
        return 0
    for line in status_lines(told):
        door.screen.line(line)
    return 0


def _counts(door: Door) -> dict[str, int]:
    with door.reads() as log:
        return {str(each): log.count(status=[each]) for each in Status}


def _living(door: Door) -> dict[str, Any]:
    from cluster.owner import lost_owner, read_owner

    known = read_owner(door.home) or lost_owner(door.home) or door.config.ray.address
    if not known:
        return {}
    try:
        with door.factory(starts=False) as factory:
            return {
                "running": True,
                "address": factory.address,
                "dashboard": factory.dashboard_url,
                **factory.status(),
            }
    except RaysmithError as error:
        return {"running": False, "problem": str(error)}


def daemon(
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
) -> int:
    """Be the factory that `up` keeps running."""
    from serve.daemon import serve_until_told

    door = open_door(verbose=verbose, file=config, settings=settings)
    serve_until_told(door)
    return 0
