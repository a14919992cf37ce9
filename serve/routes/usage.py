"""What engines cost, over HTTP: a tenant sees its own, the operator all."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from cluster.event_log_usage import By
from orchestrator.errors import TaskError
from serve import schemas
from serve.problems import FieldFault, Problem
from serve.routes.replies import Json
from serve.routes.runs import problems
from serve.routes.site import Here, Tenant
from serve.usage import day_of, told

router = APIRouter(default_response_class=Json)


@router.get("/usage", response_model=schemas.Usage, responses=problems(422))
async def usage(
    here: Here,
    tenant: Tenant,
    by: Annotated[By, Query(description="What is added up.")] = By.TENANT,
    since: Annotated[str, Query(max_length=32, description="The first day that counts, in UTC.")] = "",
) -> Response:
    """What engines cost: requests, tokens, GPU seconds, dollars."""
    try:
        day = day_of(since)
    except TaskError as error:
        message = f"since: {error.message}; {error.next_move}"
        raise Problem(422, "invalid", message, faults=[FieldFault(field="since", message=message)]) from error
    return Json(told(by, day, await here.floor.usage(by, tenant, day)))
