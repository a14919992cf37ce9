"""The factory over HTTP: whether it is well, what it consists of, and what the ingress counts."""

from __future__ import annotations

from importlib import metadata

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from orchestrator.errors import RaysmithError
from serve import schemas
from serve.routes.replies import Json
from serve.routes.runs import problems
from serve.routes.site import Here, Site, operators_only

router = APIRouter(default_response_class=Json)


@router.get("/health", response_model=schemas.Health)
async def health(here: Here) -> Response:
    """Whether this process lives, and whether runs can be submitted. Needs no key; 200 while it lives."""
    return Json(await _health(here))


@router.get("/health/ready", response_model=schemas.Health, responses={503: {"model": schemas.Health}})
async def ready(here: Here) -> Response:
    """The same, as 503 while runs cannot be submitted. Needs no key."""
    told = await _health(here)
    return Json(told, 200) if told["ready"] else Json(told, 503, {"Retry-After": "2"})


async def _health(site: Site) -> dict[str, object]:
    detail = ""
    try:
        stand = await site.floor.stand()
        if stand["unsandboxed"]:
            detail = "unsandboxed"
        elif stand["room"] <= 0:
            detail = "queue_full"
    except RaysmithError as error:
        # The code only: whoever asks has shown no key.
        detail = error.code
    return {"live": True, "ready": not detail, "detail": detail, "version": _version()}


@router.get(
    "/fleet", response_model=schemas.Fleet, responses=problems(403), dependencies=[Depends(operators_only)]
)
async def fleet(here: Here) -> Response:
    """Replicas, the queue, and the runs in hand."""
    return Json(await here.floor.status())


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(403)},
    dependencies=[Depends(operators_only)],
)
async def metrics(here: Here) -> Response:
    """What this ingress replica counts, for Prometheus."""
    return Response(here.metrics.page(), media_type=CONTENT_TYPE_LATEST)


def _version() -> str:
    try:
        return metadata.version("raysmith")
    except metadata.PackageNotFoundError:
        return "unknown"
