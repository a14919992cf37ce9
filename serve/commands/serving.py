"""Commands of the HTTP door: `serve` holds it open, `keys` says who may come in."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from orchestrator.errors import TaskError
from serve.commands import options
from serve.commands.door import Door, open_door
from serve.ports import check_free

keys = typer.Typer(
    name="keys",
    help="Make, list and revoke API keys of the HTTP door.",
    no_args_is_help=True,
    add_completion=False,
)


def serve(
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="ADDRESS", help="Address to bind; beyond loopback keys are required."),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", metavar="N", min=1, max=65535, help="TCP port.")
    ] = None,
    model: options.Model = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Answer over HTTP until Ctrl-C, carrying on unfinished runs."""
    from serve.app import refuse_unsandboxed

    door = open_door(
        as_json=as_json,
        verbose=verbose,
        file=config,
        settings=settings,
        model=model,
        http__host=host,
        http__port=port,
    )
    refuse_unsandboxed(door.config)
    check_free(door.config.http.host, door.config.http.port)
    # Ctrl-C is how this ends; what is unfinished goes on with the next `serve`, `up` or `resume`.
    with contextlib.suppress(KeyboardInterrupt), door.factory() as factory:
        carried_on = factory.resume()
        with _served(door):
            _tell(door, factory.address, len(carried_on))
            while True:
                time.sleep(3600)
    return 0


@contextlib.contextmanager
def _served(door: Door) -> Iterator[None]:
    """The application on the cluster of this process, taken down again on leaving."""
    from ray import serve as ray_serve

    from serve.app import APPLICATION, application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    was_running = _applications()
    if APPLICATION in was_running:
        raise TaskError("this factory is served already", "end the other `raysmith serve` first")
    http = door.config.http
    ray_serve.start(proxy_location="HeadOnly", http_options={"host": http.host, "port": http.port})
    try:
        with door.screen.waiting("opening the door"):
            ray_serve.run(application(door.loaded), name=APPLICATION, route_prefix="/")
        yield
    finally:
        if was_running:
            ray_serve.delete(APPLICATION)
        else:
            ray_serve.shutdown()  # type: ignore[no-untyped-call]


def _applications() -> dict[str, Any]:
    from ray import serve as ray_serve

    return dict(ray_serve.status().applications)


def _tell(door: Door, address: str, carried_on: int) -> None:
    from serve.auth import Keyring
    from serve.config import api_keys
    from serve.routes.site import LOOPBACK

    http = door.config.http
    shown = f"[{http.host}]" if ":" in http.host else http.host
    url = f"http://{shown}:{http.port}"
    needs_key = http.host not in LOOPBACK
    if door.screen.as_json:
        door.screen.object({"url": url, "address": address, "pid": os.getpid(), "needs_key": needs_key})
        return
    if carried_on:
        door.screen.line(f"carrying on {carried_on} runs")
    door.screen.line(f"serving on {url}, pages at {url}/dashboard; Ctrl-C ends it")
    if needs_key and Keyring(door.home, api_keys()).is_empty:
        door.note("every request needs an API key and there is none yet: `raysmith keys create NAME`")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, for people.")],
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant",
            metavar="TENANT",
            help="Its runs are this tenant's, and it sees no others; default: an operator's key, for all.",
        ),
    ] = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> int:
    """Make an API key and show it, this once."""
    from serve.auth import KeyFile

    door = open_door(as_json=as_json, file=config, settings=settings)
    text, key = KeyFile(door.home).create(name, tenant)
    if as_json:
        told = {"id": key.id, "name": key.name, "tenant": key.tenant, "entry": key.entry}
        door.screen.object({"key": text, **told})
        return 0
    print(text)
    door.screen.line("It is not kept and cannot be shown again. Only its hash is stored.")
    door.screen.line(f"For other machines, in RAYSMITH_API_KEYS: {key.entry}")
    return 0


@keys.command("list")
def list_keys(
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> int:
    """List API keys by their ids; the keys themselves are nowhere."""
    from serve.auth import KeyFile

    door = open_door(as_json=as_json, file=config, settings=settings)
    found = KeyFile(door.home).keys()
    if as_json:
        shown = [{name: value for name, value in asdict(key).items() if name != "sha256"} for key in found]
        door.screen.object({"keys": shown})
    for key in found:
        whose = f"  of tenant {key.tenant}" if key.tenant else ""
        door.screen.line(f"{key.id}  {key.created_at}  {key.name}{whose}")
    if not found:
        door.screen.line("no keys; `raysmith keys create NAME` makes one")
    return 0


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `raysmith keys list` shows it.")],
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> int:
    """Revoke an API key; within two seconds nobody is let in with it."""
    from serve.auth import KeyFile

    door = open_door(as_json=as_json, file=config, settings=settings)
    key = KeyFile(door.home).revoke(key_id)
    if as_json:
        door.screen.object({"id": key.id, "name": key.name})
    else:
        door.screen.line(f"{key.id} ({key.name}) is revoked")
    return 0
