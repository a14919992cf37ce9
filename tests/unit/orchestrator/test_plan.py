"""Which goals are planned, and what a plan's files are put into order by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan import (
    CI_FILE,
    STANDARD,
    PlannedFile,
    PlanWhen,
    completed,
    in_order,
    is_worth_planning,
)


def files(**needs: str) -> list[PlannedFile]:
    return [
        PlannedFile(path=f"{name}.py", needs=tuple(f"{need}.py" for need in said.split()))
        for name, said in needs.items()
    ]


@pytest.mark.parametrize(
    ("goal", "is_planned"),
    [
        ("A FastAPI application in app.py with GET /add", False),
        ("Write src/shop/cart.py. It adds up.", False),
        ("app.py, tested by test_app.py", False),
        ("app.py and store.py", True),
        ("A service that keeps notes, with a Dockerfile", True),
        ("Parse files such as data.json and setup.cfg", True),
        ("", True),
    ],
)
def test_a_goal_that_names_its_one_source_file_needs_no_plan(goal: str, is_planned: bool) -> None:
    assert is_worth_planning(goal, PlanWhen.AUTO, starts_empty=True) is is_planned
    assert not is_worth_planning(goal, PlanWhen.NEVER, starts_empty=True)
    assert is_worth_planning(goal, PlanWhen.ALWAYS, starts_empty=True)
    assert not is_worth_planning(goal, PlanWhen.ALWAYS, starts_empty=False)


def test_what_others_need_comes_first_and_the_rest_as_given() -> None:
    ordered = in_order(files(api="store models", store="models", models="", main="api elsewhere"))

    assert [file.path for file in ordered] == ["models.py", "store.py", "api.py", "main.py"]


def test_a_circle_is_named() -> None:
    with pytest.raises(ValueError, match=r"a\.py -> b\.py -> a\.py"):
        in_order(files(a="b", b="a"))


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=10))
def test_every_file_is_there_once_and_after_what_it_needs(edges: list[list[int]]) -> None:
    made = [
        PlannedFile(path=f"f{n}.py", needs=tuple(f"f{need}.py" for need in needs if need < n))
        for n, needs in enumerate(edges)
    ]
    paths = [file.path for file in in_order(reversed(made))]

    assert sorted(paths) == sorted(file.path for file in made)
    assert all(
        paths.index(need) < paths.index(file.path) for file in made for need in file.needs if need in paths
    )


def test_a_repository_gets_its_standard_files_and_one_file_does_not() -> None:
    many = completed(files(a="", b=""))
    has_some = completed([*files(a="", b=""), PlannedFile(path="readme.md"), PlannedFile(path=".ci/run")])

    assert {file.path for file in many} == {"a.py", "b.py", *STANDARD}
    assert {file.path for file in has_some} == {
        "a.py",
        "b.py",
        "readme.md",
        ".ci/run",
        "Dockerfile",
        ".gitignore",
    }
    assert CI_FILE in {file.path for file in many}
    assert len(completed([*files(a=""), PlannedFile(path="tests/test_a.py")])) == 2
