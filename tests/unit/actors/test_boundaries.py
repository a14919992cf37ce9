"""Tests without a model: which calls are proposed, and how what they answer is written down."""

from __future__ import annotations

import ast

import pytest

from actors.boundaries.observe import _chosen, free_name, written
from actors.boundaries.propose import proposals
from orchestrator.steps import ProposedCall
from orchestrator.tree import File, Tree


def tree(**files: str) -> Tree:
    return Tree(
        files={f"{name.replace('__', '/')}.py": File(content=text.encode()) for name, text in files.items()}
    )


def proposed(test: str, **files: str) -> list[str]:
    code = {"shop__prices": "def total(lines, rate=1): ...\nclass Cart: ...\n", **files}
    found = proposals(tree(tests__test_prices=test, **code), ["tests/test_prices.py"])
    for each in found:
        compile(f"{each.imports}\n{each.expression}", "x", "exec")
    return [each.expression for each in found]


@pytest.mark.parametrize(
    ("test", "call"),
    [
        ("from shop.prices import total\ndef test_a():\n    assert total([1, 2]) == 3\n", "total([])"),
        ("from shop.prices import total\ndef test_a():\n    assert total([1, 2]) == 3\n", "total([2, 1])"),
        ("from shop.prices import total as t\ndef test_a():\n    assert t([9], rate=2)\n", "t([9], rate=1)"),
        ("import shop.prices\ndef test_a():\n    x = shop.prices.total('Ab')\n", "shop.prices.total('')"),
        ("from shop import prices as p\ndef test_a():\n    p.total({'a': 1})\n", "p.total({})"),
        ("from shop.prices import Cart\ndef test_a():\n    assert Cart(5).total() == 1\n", "Cart(6).total()"),
        ("from shop.prices import total\ndef test_a():\n    n = 10\n    assert total(n) == 1\n", "total(11)"),
        (
            "from .prices import total\nclass TestA:\n    def test_a(self):\n        total(True)\n",
            "total(False)",
        ),
        (
            "import pytest\nfrom shop.prices import total\n"
            "@pytest.mark.parametrize('n, e', [(4, 2)])\ndef test_a(n, e):\n    assert total(n) == e\n",
            "total(3)",
        ),
        (
            "import pytest\nfrom shop.prices import total\n"
            "def test_a():\n    with pytest.raises(ValueError):\n        total(-1.5)\n",
            "total(-0.0)",
        ),
    ],
)
def test_a_value_of_a_call_is_moved_to_its_neighbours(test: str, call: str) -> None:
    assert call in proposed(test)


@pytest.mark.parametrize(
    "test",
    [
        "from os import remove\ndef test_a():\n    remove('x')\n",
        "from shop.prices import total\ndef test_a(tmp_path):\n    total(tmp_path, 3)\n",
        "from shop.prices import total\ndef test_a():\n    n = make()\n    total(n, 2)\n",
        "from shop.prices import total\ndef test_a():\n    n = 1\n    n = 2\n    total(n)\n",
        "from shop.prices import total\nasync def helper():\n    await total(1)\n",
        "from shop.prices import total\ndef helper():\n    total(1)\n",
        "from shop.prices import *\ndef test_a():\n    total(1)\n",
        "from shop.prices import total\ndef test_a():\n    total()\n",
        "def test_a(:\n",
        "\0",
    ],
)
def test_what_is_not_the_trees_own_or_means_nothing_alone_is_left_out(test: str) -> None:
    assert proposed(test) == []


def test_no_call_that_a_test_makes_is_proposed_again_and_failing_files_come_first() -> None:
    one = "from a import f\ndef test_f():\n    assert f(1) and f(2)\n"
    two = "from a import g\ndef test_g():\n    assert g(1)\n"
    both = tree(a="", test_f=one, test_g=two)

    found = [each.expression for each in proposals(both, ["test_f.py", "test_g.py"], first=["test_g.py"])]

    assert found[:4] == ["g(0)", "g(2)", "g(-1)", "f(0)"]
    assert not {"f(1)", "f(2)", "g(1)"} & set(found) and len(found) == len(set(found))
    assert len(proposals(both, ["test_f.py"], most=2)) == 2


def test_what_was_seen_is_written_down_as_tests_that_can_be_read() -> None:
    calls = [
        ProposedCall(path="tests/test_a.py", imports="from a import f", name="f", expression=expression)
        for expression in ("f(0)", "f(1)", "f('')")
    ]

    text = written(
        "tests/test_a.py",
        [
            (calls[0], ("value", "True")),
            (calls[1], ("value", "[1.5, 'x']")),
            (calls[2], ("raises", "KeyError")),
        ],
    )

    assert len(ast.parse(text).body) == 6
    assert "import pytest\n\nfrom a import f\n" in text
    assert "    assert f(0) is True\n" in text and "    assert f(1) == [1.5, 'x']\n" in text
    assert "    with pytest.raises(KeyError):\n        f('')\n" in text


def test_few_of_each_name_are_chosen_and_different_answers_first() -> None:
    calls = [
        ProposedCall(path="t.py", imports="from a import f", name="f", expression=f"f({n})")
        for n in range(20)
    ]
    seen = {number: ("value", "7" if number < 18 else str(number)) for number in range(20)}

    chosen = _chosen(calls, seen)

    assert [call.expression for call, _ in chosen] == ["f(0)", "f(18)", "f(19)", "f(1)", "f(2)", "f(3)"]


def test_a_new_file_never_takes_the_place_of_one_that_is_there() -> None:
    there = tree(tests__test_a="", tests__test_a_boundaries="", b_test="")

    assert free_name(there, "tests/test_a.py") == "tests/test_a_boundaries2.py"
    assert free_name(there, "b_test.py") == "test_b_boundaries.py"
