"""The HTTP door: a FastAPI application as a Ray Serve ingress in front of the orchestrator.

`serve.app:app` builds it for `serve run`, `serve deploy` and `raysmith serve`. A request waits for no run:
runs belong to the orchestrator, and a client that goes away cancels nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import TaskError
from orchestrator.verdict import Level

if TYPE_CHECKING:
    from ray import serve as ray_serve
    from starlette.types import ASGIApp

    from serve.config import Config, Loaded
    from serve.routes.site import Site

DEPLOYMENT = "HttpDoor"
APPLICATION = "raysmith"
# Beside the streams: requests that answer at once, and those that are refused.
_BESIDE_STREAMS = 128


def create_api(site: Site) -> ASGIApp:
    """The application that answers for `site`; any ASGI server can run it."""
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    from serve.dashboard import pages
    from serve.routes import factory, faults, openapi, runs, steering, usage
    from serve.routes.gate import VERSIONED, Gate

    api = FastAPI(
        title="Raysmith",
        description="Failing tests go in, a certified patch comes out.",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            HTTPException: faults.http_exception,
            RequestValidationError: faults.invalid_request,
        },
    )
    api.state.site = site
    for prefix in ("", VERSIONED):
        for router in (runs.router, steering.router, usage.router, factory.router):
            api.include_router(router, prefix=prefix)
    api.include_router(pages.router)
    api.add_middleware(Gate, site=site)
    openapi.complete(api, is_open=site.is_open)
    return api


class HttpDoor:
    """One ingress replica. It keeps nothing that another one could not read from the event log."""

    def __init__(self, config: str, home: str, namespace: str, starts: Any) -> None:
        """Open the door.

        Args:
            config: All settings, as JSON.
            home: RAYSMITH_HOME.
            namespace: Of the orchestrator.
            starts: `FactorySettings` of the factory to start where there is none; None to start none.
        """
        from serve import logs
        from serve.config import Config

        # Before anything else can log: tracebacks must not show what local variables hold, keys among them.
        logs.configure(Path(home), verbose=True)
        self._config = Config.model_validate_json(config)
        self._home = Path(home)
        self._namespace = namespace
        self._starts = starts

    def __serve_build_asgi_app__(self) -> ASGIApp:
        from cluster.reach import Reach
        from serve.auth import Keyring
        from serve.config import api_keys
        from serve.routes.metrics import Metrics
        from serve.routes.site import Site

        site = Site(
            floor=Reach(self._namespace, starts=self._starts),
            config=self._config,
            home=self._home,
            keyring=Keyring(self._home, api_keys()),
            is_open=_binds_loopback(self._config),
            metrics=Metrics(_replica_name()),
        )
        return create_api(site)


def application(loaded: Loaded, *, starts: Any = None) -> ray_serve.Application:
    """The Serve application under these settings.

    Raises:
        TaskError: The settings let code run without a sandbox; that cannot be had over HTTP.
    """
    refuse_unsandboxed(loaded.config)
    from ray import serve as ray_serve

    from serve.commands.door import NAMESPACE

    http = loaded.config.http
    deployment = ray_serve.deployment(
        name=DEPLOYMENT,
        num_replicas=http.replicas,
        max_ongoing_requests=http.max_streams + _BESIDE_STREAMS,
        ray_actor_options={"num_cpus": 0, **_placed(http.labels)},
        # Streams end with their replica and are resumed; waiting for them would take as long as a run.
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.5,
    )(ray_serve.ingress()(HttpDoor))
    bound: ray_serve.Application = deployment.bind(
        json.dumps(loaded.mapping()), str(loaded.home), NAMESPACE, starts
    )
    return bound


def build(arguments: Mapping[str, Any]) -> ray_serve.Application:
    """What `serve run serve.app:app` calls; arguments are settings, such as `http.max_streams=64`.

    Configuration is read where this runs. The factory of the cluster is joined, or started there.
    """
    from serve.commands.door import factory_settings
    from serve.config import load

    loaded = load(settings=[f"{key}={value}" for key, value in arguments.items()])
    return application(loaded, starts=factory_settings(loaded))


# A builder and not an application: importing this module reads no environment and needs no Ray.
app = build


def refuse_unsandboxed(config: Config) -> None:
    """No setting lets what came over HTTP run as the user that Raysmith runs as.

    Raises:
        TaskError: One tries.
    """
    if config.sandbox.accepts_unsandboxed or config.sandbox.minimum is Level.NONE:
        raise TaskError(
            "the HTTP API never runs code without a sandbox",
            "take `sandbox.allow_unsandboxed` and `sandbox.minimum: none` out of the configuration",
        )


def _placed(labels: tuple[str, ...]) -> dict[str, Any]:
    pairs = dict(label.split("=", 1) for label in labels)
    return {"label_selector": pairs} if pairs else {}


def _binds_loopback(config: Config) -> bool:
    """Whether our settings and Serve itself both say so; whatever cannot be found out counts as no."""
    import ray
    from ray.exceptions import RayError
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    from serve.routes.site import LOOPBACK

    if config.http.host not in LOOPBACK:
        return False
    try:
        # There is no public way to ask how Serve's proxies were told to bind.
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        options: Any = ray.get(controller.get_http_config.remote(), timeout=10)
    except (RayError, ValueError):
        return False
    return options.host in LOOPBACK


def _replica_name() -> str:
    from ray import serve as ray_serve

    return str(ray_serve.get_replica_context().replica_id.unique_id)
