"""What a JSON request may hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from serve.schemas import RunRequest


def test_tests_may_be_words_or_a_command_line() -> None:
    assert RunRequest(tests="tests/unit -k 'not slow'").tests == ["tests/unit", "-k", "not slow"]  # type: ignore[arg-type]
    assert RunRequest(tests=["a", "b"]).tests == ["a", "b"]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"goal": 5}, "goal"),
        ({"graf": "repair"}, "graf"),
        ({"budget": {"wall_s": 0}}, "budget.wall_s"),
        ({"budget": {"wall_s": "soon"}}, "budget.wall_s"),
        ({"budget": {"attempts": 0}}, "budget.attempts"),
        ({"budget": {"seconds": 1}}, "budget.seconds"),
        ({"tests": "'"}, "tests"),
        ({"tests": [""]}, "tests.0"),
        ({"inputs": {"candidate": 1}}, "inputs"),
        ({"inputs": {"a": 2**64}}, "inputs"),
        ({"inputs": {"a": "\0"}}, "inputs"),
        ({"inputs": []}, "inputs"),
    ],
)
def test_a_fault_names_its_field(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RunRequest.model_validate_json(json.dumps(asked))

    assert [".".join(map(str, each["loc"])) for each in caught.value.errors()] == [field]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"inputs": {"a": NaN}}',
        b'{"inputs": {"a": 1e999}}',
        b'{"inputs": {"a": "\\ud800"}}',
        b'{"goal": "\\ud800"}',
        b'{"goal": "\xff"}',
        b'{"inputs": ' + b'{"a":' * 30 + b"1" + b"}" * 31,
        b"[" * 100_000,
        b'{"inputs": {"a": ' + b"9" * 10_000 + b"}}",
    ],
)
def test_json_that_the_log_could_not_keep_is_refused(body: bytes) -> None:
    with pytest.raises(ValidationError):
        RunRequest.model_validate_json(body)
