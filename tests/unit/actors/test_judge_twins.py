"""A twin fails under honest code, and keeps the name, place and kind of its test."""

from __future__ import annotations

import ast

import pytest

from actors.judge.twins import contradictions, make
from orchestrator.tree import File, Tree
from orchestrator.verdict import Outcome, TestCase, TestRun


def twin(test: str, name: str = "test_it") -> tuple[str, bool, str]:
    """The twin's text, whether there is one, and its token."""
    tree = Tree(files={"test_a.py": File(content=test.encode())})
    made = make(tree, [f"test_a.py::{name}[x]"], seed=7)
    return made.tree.files["test_a.py"].content.decode(), bool(made.tests), made.token


@pytest.mark.parametrize(
    "line",
    [
        "assert f() == 3",
        "assert 3 == f()",
        "assert f() == -2.5",
        "assert f() == 'three'",
        "assert f() == [1, {'a': None}]",
        "assert f() == expected",
        "assert 'a' in f()",
        "assert f() == True",
    ],
)
@pytest.mark.parametrize("answer", [3, "a", [1], None, {"x": 1}, True, 2.5])
def test_an_honest_answer_never_holds(line: str, answer: object) -> None:
    text, there, token = twin(f"def test_it():\n    {line}\n")

    class Honest:
        def __init__(self) -> None:
            self.value = answer

    names: dict[str, object] = {"f": lambda: answer, "expected": answer}
    exec(compile(text, "test_a.py", "exec"), names)

    assert there
    with pytest.raises((AssertionError, TypeError)) as raised:
        names["test_it"]()  # type: ignore[operator]
    assert f"{token} held" not in str(raised.value)


def test_what_equals_everything_holds() -> None:
    class Yes:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    text, _, token = twin("def test_it():\n    assert f(2, 3) == 5\n")
    names: dict[str, object] = {"f": lambda *_: Yes()}
    exec(compile(text, "test_a.py", "exec"), names)

    with pytest.raises(AssertionError, match=f"{token} held"):
        names["test_it"]()  # type: ignore[operator]


def test_a_literal_is_altered_in_the_text() -> None:
    text, _, _ = twin("import calc\n\ndef test_it():\n    assert calc.add(2, 3) == 5\n")

    line = next(line for line in text.splitlines() if "calc.add" in line)
    assert line.strip().startswith("assert calc.add(2, 3) == ")
    assert int(line.split("==")[1]) not in (5,)


@pytest.mark.parametrize(
    "test",
    [
        "def test_it():\n    assert f()\n",
        "def test_other():\n    assert f() == 1\n",
        "from hypothesis import given\n\n@given(n)\ndef test_it(n):\n    assert f(n) == 1\n",
        "def test_it(:\n",
    ],
)
def test_what_compares_nothing_or_cannot_be_read_has_no_twin(test: str) -> None:
    text, there, _ = twin(test)

    assert not there and text == test


def test_fixtures_marks_classes_and_docstrings_stay() -> None:
    source = (
        '"""Doc."""\nfrom __future__ import annotations\nimport pytest\n\n'
        "class TestA:\n    @pytest.mark.parametrize('n', [1])\n    async def test_it(self, n):\n"
        "        with open('x') as x:\n            self.assertEqual(n, 1)\n"
    )
    text, there, _ = twin(source, "TestA::test_it")

    assert there
    module = ast.parse(text)
    assert ast.get_docstring(module) == "Doc."
    assert "@pytest.mark.parametrize('n', [1])" in text and "async def test_it(self, n)" in text
    compile(text, "test_a.py", "exec")


def test_only_a_pass_beside_a_twin_that_agrees_contradicts() -> None:
    tree = Tree(
        files={"t.py": File(content=b"def test_a(): assert f() == 1\ndef test_b(): assert f() == 1\n")}
    )
    made = make(tree, ["t.py::test_a", "t.py::test_b"], seed=1)

    def run(a: Outcome, b: Outcome, detail: str = "") -> TestRun:
        return TestRun(
            cases=(
                TestCase(id="t.py::test_a", outcome=a, detail=detail),
                TestCase(id="t.py::test_b", outcome=b),
            )
        )

    good, bad = Outcome.PASSED, Outcome.FAILED
    assert contradictions(made, run(good, good), run(bad, bad)) == ()
    assert contradictions(made, run(good, bad), run(bad, good)) == ()
    assert len(contradictions(made, run(good, good), run(good, bad))) == 1
    assert len(contradictions(made, run(good, good), run(bad, bad, f"{made.token} held"))) == 1
