"""What failures tell beside that they failed."""

from __future__ import annotations

from local_runners import tree_of

from actors.search.evidence import gather
from actors.search.locate import Traces


def test_the_types_of_expected_values_are_told() -> None:
    failures = {
        "t.py::a": {"type": "AssertionError", "message": "assert False == 0\n +  where …", "frames": []},
        "t.py::b": {"type": "AssertionError", "message": "assert [1] == ['x']", "frames": []},
        "t.py::c": {"type": "KeyError", "message": "'k'", "frames": []},
    }

    found = gather(tree_of({}), Traces(failures=failures), list(failures))

    assert found.wanted == ("int", "list")
    assert found.is_unwanted("False")
    assert not found.is_unwanted("0")
