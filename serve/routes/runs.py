"""Runs over HTTP: submit, list, look, follow, cancel."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response

from orchestrator.errors import TaskError
from orchestrator.events import Event, Kind, RunState, Status
from serve import schemas
from serve.problems import MEDIA_TYPE, FieldFault, Problem
from serve.routes import stream
from serve.routes.gate import VERSIONED
from serve.routes.intake import order_of
from serve.routes.replies import Json
from serve.routes.site import Floor, Here, Site, Tenant

router = APIRouter(default_response_class=Json)

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_MOST_EVENTS = 1000

RunId = Annotated[str, Path(description="A run's whole id.")]
After = Annotated[int, Query(ge=0, le=2**53, description="Only events after this number.")]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problem documents for the OpenAPI of a route."""
    schema = {"$ref": "#/components/schemas/ProblemOut"}
    return {
        status: {"description": "Problem", "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in (401, *statuses, 503)
    }


_BODIES = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/RunRequest"}},
            "multipart/form-data": {"schema": {"$ref": "#/components/schemas/Upload"}},
        },
    }
}


@router.post(
    "/runs",
    status_code=202,
    response_model=schemas.Accepted,
    responses=problems(403, 408, 413, 415, 422, 429),
    openapi_extra=_BODIES,
)
async def submit(
    request: Request,
    here: Here,
    idempotency_key: Annotated[
        str | None, Header(description="The same key with the same request is the same run.")
    ] = None,
) -> Response:
    """Accept a run. It is in the event log before this answers, and goes on when the caller leaves."""
    key = _key(idempotency_key, request.state.caller)
    # Before the body: who sends a large one should not wait for a refusal.
    await takes_runs(here.floor)
    order = await order_of(request, here, request.state.tenant)
    run_id, was_there = await here.floor.submit(
        order.task, order.tree, order.candidate, key=key, fingerprint=order.fingerprint
    )
    headers = {"Location": f"{front(request)}/runs/{run_id}"}
    if was_there:
        headers["Idempotency-Replayed"] = "true"
    return Json({"ok": True, "run_id": run_id, "status": "pending"}, 202, headers)


@router.get("/runs", response_model=schemas.RunPage, responses=problems(422))
async def list_runs(
    *,
    request: Request,
    here: Here,
    tenant: Tenant,
    status: Annotated[list[Status] | None, Query(description="Only runs of these statuses.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> Response:
    """Runs, the newest first."""
    rows, total = await here.floor.runs(status or None, limit, offset, tenant)
    following = offset + limit
    query = [*(("status", str(each)) for each in status or ()), ("limit", limit), ("offset", following)]
    return Json(
        {
            "runs": [row(each) for each in rows],
            "total": total,
            "limit": limit,
            "offset": offset,
            "next": f"{front(request)}/runs?{urlencode(query)}" if following < total else None,
        }
    )


@router.get("/runs/{run_id}", response_model=schemas.Run, responses=problems(404))
async def show(run_id: RunId, here: Here, tenant: Tenant) -> Response:
    """How a run stands or ended."""
    state = await known(here.floor, run_id, tenant)
    return Json(told(state, await here.floor.result(run_id)))


@router.get(
    "/runs/{run_id}/events",
    response_model=schemas.EventPage,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        204: {"description": "The stream was at its end already."},
        **problems(404, 422),
    },
)
async def events(
    *,
    request: Request,
    run_id: RunId,
    here: Here,
    tenant: Tenant,
    after: After = 0,
    last_event_id: Annotated[str | None, Header(description="Where a stream goes on.")] = None,
) -> Response:
    """A run's events: a page as JSON, or with `Accept: text/event-stream` all of them as they happen."""
    state = await known(here.floor, run_id, tenant)
    if "text/event-stream" in request.headers.get("accept", ""):
        return await streamed(here, state, after if last_event_id is None else _seq(last_event_id))
    found = (await here.floor.events(run_id, after))[:_MOST_EVENTS]
    return Json({"run_id": run_id, "events": [asdict(event) for event in found]})


@router.get(
    "/runs/{run_id}/diff",
    response_class=Response,
    responses={200: {"content": {"text/x-diff": {"schema": {"type": "string"}}}}, **problems(404)},
)
async def diff(run_id: RunId, here: Here, tenant: Tenant) -> Response:
    """A run's patch, or the best it had so far, for `git apply`."""
    await known(here.floor, run_id, tenant)
    content = await here.floor.diff(run_id)
    if not content:
        raise Problem(404, "no_patch", f"run {run_id} has no patch", "look at how it stands")
    return Response(content, media_type="text/x-diff")


@router.post("/runs/{run_id}/cancel", response_model=schemas.Cancelled, responses=problems(403, 404, 413))
async def cancel(run_id: RunId, here: Here, tenant: Tenant) -> Response:
    """Stop a run; its best patch so far is kept. A run that has ended stays as it is."""
    await known(here.floor, run_id, tenant)
    state = await here.floor.cancel(run_id, "asked for over HTTP")
    return Json({"run_id": run_id, "status": state.status, "reason": state.reason})


@router.post("/runs/{run_id}/approve", response_model=schemas.Decided, responses=problems(403, 404, 413, 422))
async def approve(
    request: Request, run_id: RunId, here: Here, tenant: Tenant, decision: schemas.Decision | None = None
) -> Response:
    """Say yes at a gate of the run's graph; it goes on."""
    return await _decided(request, run_id, here, tenant, decision, approved=True)


@router.post("/runs/{run_id}/reject", response_model=schemas.Decided, responses=problems(403, 404, 413, 422))
async def reject(
    request: Request, run_id: RunId, here: Here, tenant: Tenant, decision: schemas.Decision | None = None
) -> Response:
    """Say no at a gate of the run's graph; that ends it unless the graph goes on without."""
    return await _decided(request, run_id, here, tenant, decision, approved=False)


async def _decided(
    request: Request,
    run_id: str,
    site: Site,
    tenant: str | None,
    decision: schemas.Decision | None,
    *,
    approved: bool,
) -> Response:
    await known(site.floor, run_id, tenant)
    said = decision or schemas.Decision()
    by = request.state.caller or "http"
    state = await site.floor.decide(run_id, said.node, approved=approved, by=by, why=said.why)
    return Json({"run_id": run_id, "status": state.status, "reason": state.reason})


async def known(floor: Floor, run_id: str, tenant: str | None) -> RunState:
    """The state of the run that is called exactly so, and that `tenant` may see.

    Raises:
        Problem: There is none.
    """
    missing = Problem(404, "not_found", f"there is no run {run_id[:100]!r}", "list the runs to see their ids")
    if not _RUN_ID.fullmatch(run_id):
        raise missing
    try:
        state = await floor.state(run_id)
    except TaskError as error:
        raise missing from error
    if state.run_id != run_id or tenant not in (None, state.tenant):
        raise missing
    return state


async def streamed(
    site: Site,
    state: RunState,
    after_seq: int,
    write: Callable[[Event], bytes] = stream.message,
) -> Response:
    """The run's event stream, or 204 where it has been read to its end: that stops a browser's retries."""
    if state.status.is_finished:
        # What was told to the outside may be recorded after the end; a stream does not wait for it.
        left = await site.floor.events(state.run_id, after_seq)
        if not any(event.type is Kind.RUN_FINISHED for event in left):
            return Response(status_code=204)
    return stream.EventStream(site, stream.stream(site, state.run_id, after_seq, write))


def row(run: Any) -> dict[str, Any]:
    """A run in a list."""
    return {
        "run_id": run.run_id,
        "status": run.status,
        "reason": run.reason,
        "tenant": run.tenant,
        "task": run.task_id,
        "graph": run.graph,
        "attempt": run.attempt,
        "submitted_at": run.submitted_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
    }


def told(state: RunState, result: Mapping[str, Any]) -> dict[str, Any]:
    """A run's result with what it was about."""
    error = state.report.get("error")
    return {
        **{name: value for name, value in result.items() if name != "out"},
        "tenant": state.tenant,
        "task": str(state.task.get("id", "")),
        "graph": str(state.task.get("graph", "")),
        "goal": state.task.get("goal"),
        "submitted_at": state.submitted_at,
        "started_at": state.started_at,
        "finished_at": state.finished_at,
        "last_seq": state.last_seq,
        "error": {name: error.get(name) for name in ("code", "message", "next")} if error else None,
    }


async def takes_runs(floor: Floor) -> None:
    """Return when a run may be submitted.

    Raises:
        Problem: The factory is full, or runs code without a sandbox.
    """
    stand = await floor.stand()
    if stand["unsandboxed"]:
        raise Problem(
            503,
            "unsandboxed",
            "this factory was started with leave to run code without a sandbox; nobody gives it work by HTTP",
            "start it without `sandbox.allow_unsandboxed`",
        )
    if stand["room"] <= 0:
        raise Problem(
            429, "queue_full", "as many runs are waiting as may", "submit again later", retry_after_s=5
        )


def _key(given: str | None, caller: str) -> str:
    """Under what the run is kept: two callers may use the same words."""
    if given is None:
        return f"call:{uuid.uuid4()}"
    if not _KEY.fullmatch(given):
        raise _header_fault("Idempotency-Key", "Idempotency-Key: 1 to 255 visible ASCII characters")
    return f"http:{caller}:{given}"


def _seq(text: str) -> int:
    # An event source that has seen nothing yet may send an empty one.
    if not text:
        return 0
    if not text.isascii() or not text.isdecimal() or len(text) > 16:
        raise _header_fault("Last-Event-ID", "Last-Event-ID: the number of the last event seen")
    return int(text)


def _header_fault(name: str, message: str) -> Problem:
    return Problem(422, "invalid", message, faults=[FieldFault(field=name, message=message)])


def front(request: Request) -> str:
    """The version that the request's path begins with."""
    return VERSIONED if request.url.path.startswith(f"{VERSIONED}/") else ""
