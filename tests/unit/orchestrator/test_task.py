"""What may select tests and name a task."""

from __future__ import annotations

import pickle

import pytest

import orchestrator.errors as errors
from orchestrator.errors import RaysmithError, SandboxTimeout, TaskError
from orchestrator.task import check_id, new_run_id, parse_tests


@pytest.mark.parametrize(
    "arguments",
    [
        ["tests/test_a.py"],
        ["tests/test_a.py::test_b[x y]"],
        ["-k", "a and not b"],
        ["-m", "slow"],
        ["--ignore=tests/x"],
    ],
)
def test_arguments_that_select_tests_are_kept(arguments: list[str]) -> None:
    assert parse_tests(arguments) == tuple(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-p", "evil"],
        ["--co"],
        ["-c", "/tmp/x.ini"],
        ["/etc/passwd"],
        ["../other"],
        ["a/../../b"],
        ["-k"],
        ["--rootdir=/"],
    ],
)
def test_other_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(TaskError):
        parse_tests(arguments)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a..b", "-x", "a b", "x" * 101, "é"])
def test_ids_that_cannot_name_a_folder_are_refused(name: str) -> None:
    with pytest.raises(TaskError):
        check_id(name)


def test_run_ids_can_name_a_task_and_differ() -> None:
    assert check_id(new_run_id()) != new_run_id()


def every_error() -> list[RaysmithError]:
    kinds = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, RaysmithError)
    ]
    return [
        kind("pytest", 3.0) if kind is SandboxTimeout else kind("what happened", "the next move")
        for kind in kinds
    ]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_every_error_survives_pickling(error: RaysmithError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert (str(copy), copy.code, copy.exit_code) == (str(error), error.code, error.exit_code)
