"""Runs, and one run with its patch and events. Whatever a run says is escaped; no page changes anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from orchestrator.events import Event, Kind, Status
from serve.problems import Problem
from serve.render import event_line
from serve.routes.runs import After, RunId, diff, known, row, streamed, told
from serve.routes.site import Here, Tenant

router = APIRouter(prefix="/dashboard", include_in_schema=False)

_PAGE = 50
_MOST_EVENTS = 500
_MOST_LINES = 2000
_STATIC = {"page.css": "text/css", "live.js": "text/javascript"}
# No inline script, no other host: even text that slipped through unescaped could do nothing.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


@router.get("")
async def runs(
    here: Here,
    tenant: Tenant,
    status: Status | None = None,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> Response:
    """All runs, the newest first."""
    rows, total = await here.floor.runs([status] if status else None, _PAGE, offset, tenant)
    return _page(
        "runs.html",
        rows=[row(each) for each in rows],
        total=total,
        offset=offset,
        chosen=status,
        statuses=list(Status),
        newer=_link(status, max(0, offset - _PAGE)) if offset else None,
        older=_link(status, offset + _PAGE) if offset + len(rows) < total else None,
    )


@router.get("/runs/{run_id}")
async def run(run_id: RunId, here: Here, tenant: Tenant) -> Response:
    """One run: how it stands, its patch, its events as they happen."""
    state = await known(here.floor, run_id, tenant)
    result = told(state, await here.floor.result(run_id))
    events = await here.floor.events(run_id)
    lines = (await here.floor.diff(run_id)).decode("utf-8", "replace").splitlines()
    return _page(
        "run.html",
        run=result,
        live=not state.status.is_finished,
        seen=events[-1].seq if events else 0,
        events=[_shown(event) for event in events[-_MOST_EVENTS:]],
        kinds=list(Kind),
        lines=list(_coloured(lines[:_MOST_LINES])),
        cut=len(lines) > _MOST_LINES,
    )


@router.get("/runs/{run_id}/events")
async def events(run_id: RunId, here: Here, tenant: Tenant, after: After = 0) -> Response:
    """The stream that the page of a run reads: only what it shows of each event."""
    return await streamed(here, await known(here.floor, run_id, tenant), after, _short)


@router.get("/runs/{run_id}/diff")
async def patch(run_id: RunId, here: Here, tenant: Tenant) -> Response:
    """The patch as a file."""
    response: Response = await diff(run_id, here, tenant)
    response.headers["Content-Disposition"] = f'attachment; filename="{run_id}.diff"'
    return response


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """The style and the script."""
    if name not in _STATIC:
        raise Problem(404, "not_found", f"nothing is called {name[:100]!r} here")
    return Response(_file(name), media_type=_STATIC[name], headers={"Cache-Control": "max-age=300"})


@lru_cache
def _file(name: str) -> bytes:
    return resources.files("serve.dashboard").joinpath("static", name).read_bytes()


@lru_cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("serve.dashboard"), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )


def _page(template: str, **values: Any) -> Response:
    html = _templates().get_template(template).render(**values)
    return HTMLResponse(html.encode("utf-8", "replace"), headers=_HEADERS)


def _link(status: Status | None, offset: int) -> str:
    query = {**({"status": str(status)} if status else {}), **({"offset": offset} if offset else {})}
    return f"/dashboard?{urlencode(query)}" if query else "/dashboard"


def _shown(event: Event) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "time": event.at[11:19],
        "type": str(event.type),
        "step": event.step or "",
        "line": event_line(event) or "",
    }


def _short(event: Event) -> bytes:
    data = json.dumps(_shown(event), ensure_ascii=True)
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n".encode()


def _coloured(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Each line of a unified diff with what it is."""
    kinds = {"+": "add", "-": "del", "@": "hunk", " ": "same", "\\": "head"}
    in_hunk = False
    for line in lines:
        in_hunk = (in_hunk or line.startswith("@@")) and not line.startswith("diff --git ")
        yield (kinds.get(line[:1], "head") if in_hunk else "head"), line
