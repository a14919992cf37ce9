"""Whatever the OpenAPI allows and much that it does not: no error of ours, and the documented shape."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import schemathesis
from http_fakes import FakeFloor, site
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
)

from serve.app import create_api

pytestmark = pytest.mark.slow

RUN = "r-00000000ff"
HOME = Path(tempfile.gettempdir()) / "raysmith-fuzz-has-no-home"


def served() -> object:
    floor = FakeFloor()
    floor.begin(RUN)
    floor.patches[RUN] = b"+x\n"
    floor.end(RUN)
    return create_api(site(HOME, floor, settings=["http.allowed_hosts=[testserver]"]))


schema = schemathesis.openapi.from_asgi("/openapi.json", served())


@schema.parametrize()
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_request_breaks_the_door(case: schemathesis.Case) -> None:
    if "run_id" in (case.path_parameters or {}) and len(str(case.path_parameters["run_id"])) % 2:
        case.path_parameters["run_id"] = RUN
    case.call_and_validate(
        checks=[
            not_a_server_error,
            response_schema_conformance,
            content_type_conformance,
            unsupported_method,
        ]
    )
