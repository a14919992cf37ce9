"""Errors of ours as problem documents."""

from __future__ import annotations

import json

import pytest

from orchestrator import errors
from serve.archives import ArchiveRefused
from serve.problems import TITLES, FieldFault, Problem, of_error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.TaskError("a", "b"), 422, "invalid"),
        (ArchiveRefused("a", "b"), 422, "archive"),
        (errors.KeyReused("a", "b"), 422, "key_reused"),
        (errors.EngineMissing("a", "b"), 422, "no_model"),
        (errors.QueueFull("a", "b"), 429, "queue_full"),
        (errors.ReplicaLost("a", "b"), 503, "unavailable"),
        (errors.StoreOwned("a", "b"), 503, "unavailable"),
        (errors.MachineError("a", "b"), 503, "unavailable"),
        (errors.AgentError("a", "b"), 500, "internal"),
        (errors.RaysmithError("a", "b"), 500, "internal"),
    ],
)
def test_every_error_has_its_status(error: errors.RaysmithError, status: int, code: str) -> None:
    problem = of_error(error)

    assert (problem.status, problem.code) == (status, code)
    assert ("Retry-After" in problem.headers) == (status in (429, 503))


def test_what_broke_inside_is_not_told_to_strangers() -> None:
    assert "secret" not in json.dumps(of_error(errors.AgentError("secret", "secret")).document())


def test_a_document_has_the_members_of_the_standard_and_ours() -> None:
    problem = Problem(422, "invalid", "a: b", "c", faults=[FieldFault(field="a", message="b")])

    assert problem.document("/runs") == {
        "type": "urn:raysmith:problem:invalid",
        "title": TITLES["invalid"],
        "status": 422,
        "detail": "a: b",
        "instance": "/runs",
        "code": "invalid",
        "next": "c",
        "errors": [{"field": "a", "message": "b"}],
    }


def test_text_that_no_encoding_knows_still_arrives() -> None:
    body = Problem(404, "not_found", "there is no \udcff").body("/runs/\udcff")

    assert json.loads(body)["detail"] == "there is no \udcff"
