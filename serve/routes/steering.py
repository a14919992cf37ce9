"""Runs steered over HTTP: pause, resume, retry, replay; and taken along or compared."""

from __future__ import annotations

import asyncio
import uuid

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cluster.graphs import shipped, stored
from orchestrator.comparison import compared
from orchestrator.declaration import Declaration
from orchestrator.events import RunState
from orchestrator.forking import with_settings
from serve import schemas
from serve.routes.replies import Json
from serve.routes.runs import RunId, front, known, problems, takes_runs
from serve.routes.site import Here, Site, Tenant
from serve.secrets import known_secrets

router = APIRouter(default_response_class=Json)

_REFUSED = problems(403, 404, 413, 422)
_NOT_TAKEN = problems(403, 404, 413, 422, 429)


@router.post("/runs/{run_id}/pause", response_model=schemas.Paused, responses=_REFUSED)
async def pause(
    request: Request, run_id: RunId, here: Here, tenant: Tenant, rest: schemas.Rest | None = None
) -> Response:
    """Let a run rest. Its status is `parked` once its last step has ended; until then it is `running`."""
    await known(here.floor, run_id, tenant)
    said = rest or schemas.Rest()
    by = request.state.caller or "http"
    return _stands(await here.floor.pause(run_id, by=by, why=said.why, now=said.now))


@router.post("/runs/{run_id}/resume", response_model=schemas.Paused, responses=_REFUSED)
async def resume(run_id: RunId, here: Here, tenant: Tenant) -> Response:
    """Carry on a run that was paused, cancelled, parked or failed; one that succeeded stays as it is."""
    await known(here.floor, run_id, tenant)
    await takes_runs(here.floor)
    await here.floor.resume(run_id)
    return _stands(await here.floor.state(run_id))


@router.post("/runs/{run_id}/retry", status_code=202, response_model=schemas.Accepted, responses=_NOT_TAKEN)
async def retry(
    request: Request, run_id: RunId, here: Here, tenant: Tenant, which: schemas.Retry
) -> Response:
    """Do a failed node of an ended run anew, and all that needs it, in a new run that inherits the rest."""
    await known(here.floor, run_id, tenant)
    await takes_runs(here.floor)
    return _accepted(request, await here.floor.retry(run_id, which.node, _own_key()))


@router.post("/runs/{run_id}/replay", status_code=202, response_model=schemas.Accepted, responses=_NOT_TAKEN)
async def replay(
    request: Request, run_id: RunId, here: Here, tenant: Tenant, how: schemas.Replay
) -> Response:
    """Make a new run that inherits what came before a node or step of a past one, and goes on from there."""
    state = await known(here.floor, run_id, tenant)
    await takes_runs(here.floor)
    declaration = None
    if how.graph is not None or how.set:
        graph = shipped(how.graph) if how.graph is not None else await _graph_of(here, state)
        declaration = with_settings(graph, how.set)
    return _accepted(request, await here.floor.fork(run_id, how.start, declaration, _own_key()))


@router.get(
    "/runs/{run_id}/export",
    response_class=Response,
    responses={
        200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}},
        **problems(404, 422),
    },
)
async def export(run_id: RunId, here: Here, tenant: Tenant) -> Response:
    """Everything of a run as one file, for `raysmith replay` and `raysmith import`."""
    await known(here.floor, run_id, tenant)
    content = await here.floor.export(run_id, await asyncio.to_thread(known_secrets, here.config))
    name = f'attachment; filename="{run_id}.raysmith.zip"'
    return Response(content, media_type="application/zip", headers={"Content-Disposition": name})


@router.get("/runs/{run_id}/compare/{other_id}", response_model=schemas.Comparison, responses=problems(404))
async def compare(run_id: RunId, other_id: RunId, here: Here, tenant: Tenant) -> Response:
    """Two runs side by side: where they part, and how nodes, outcomes, patches and costs differ."""
    ids = (run_id, other_id)
    for each in ids:
        await known(here.floor, each, tenant)
    first, second = [await here.floor.events(each) for each in ids]
    results = (await here.floor.result(run_id), await here.floor.result(other_id))
    return Json(compared(first, second, results))


async def _graph_of(site: Site, state: RunState) -> Declaration:
    if state.graph_version is None:
        return shipped(str(state.task.get("graph", "")))
    return stored(await site.floor.artifact(state.graph_version))


def _stands(state: RunState) -> Response:
    return Json({"run_id": state.run_id, "status": state.status, "reason": state.reason})


def _accepted(request: Request, run_id: str) -> Response:
    headers = {"Location": f"{front(request)}/runs/{run_id}"}
    return Json({"ok": True, "run_id": run_id, "status": "pending"}, 202, headers)


def _own_key() -> str:
    return f"call:{uuid.uuid4()}"
