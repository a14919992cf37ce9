"""Tests without a model, for real: what calls answer in a sandbox becomes tests that notice changes."""

from __future__ import annotations

import pytest

from actors.runner import Runner
from actors.sandbox.settings import SandboxSettings
from orchestrator.steps import ObserveRequest, ProfileRequest, ProposeRequest, StrengthRequest
from orchestrator.tree import File, Tree
from orchestrator.verdict import Outcome

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]
FILES = {
    "src/shop/__init__.py": "",
    "src/shop/cart.py": (
        "import random\n\n\nclass Empty(Exception):\n    pass\n\n\n"
        "def total(prices, rate=0):\n    if not prices:\n        raise ValueError('no prices')\n"
        "    return sum(prices) * (100 + rate) // 100\n\n\n"
        "def by_luck(number):\n    return random.random() + number\n\n\n"
        "def leaves(code):\n    raise SystemExit(code)\n\n\n"
        "def named(text):\n    return None if text == '' else {'name': text.strip(), 'sizes': {1, 2}}\n"
    ),
    "tests/test_cart.py": (
        "from shop.cart import by_luck, leaves, named, total\n\n\n"
        "def test_total():\n    assert total([100, 50], rate=10) == 165\n\n\n"
        "def test_named():\n    assert named(' a ')['name'] == 'a'\n\n\n"
        "def test_luck():\n    assert by_luck(3) >= 0\n\n\n"
        "def test_leaves():\n    try:\n        leaves(1)\n    except SystemExit:\n        pass\n"
    ),
    "pyproject.toml": "[project]\nname = 'shop'\nversion = '1.0'\n",
}
TREE = Tree(files={path: File(content=text.encode()) for path, text in FILES.items()})


async def test_what_calls_answer_becomes_tests_that_hold_and_notice_changes() -> None:
    runner = Runner(SandboxSettings(warm=0))
    profile = (await runner.profile(ProfileRequest(tree=TREE))).profile
    calls = (await runner.propose(ProposeRequest(tree=TREE, tests=("tests/test_cart.py",)))).calls

    observed = await runner.observe(ObserveRequest(tree=TREE, profile=profile, calls=calls))

    (name,) = observed.files
    text = observed.files[name].content.decode()
    assert name == "tests/test_cart_boundaries.py"
    assert "with pytest.raises(ValueError):\n        total([], rate=10)" in text
    assert "named('a')" not in text and "{'name': 'A', 'sizes': {1, 2}}" in text
    # By luck, None as a stub answers too, and what ends the process: none of them is worth a test.
    assert "by_luck" not in text and "named('')" not in text and "leaves" not in text
    accepted = TREE.with_files(observed.files)
    again = await runner.profile(ProfileRequest(tree=accepted, tests=(name,)))
    assert set(again.profile.expected.values()) == {Outcome.PASSED}
    strength = await runner.strength(
        StrengthRequest(
            tree=accepted, profile=again.profile, code=("src/shop/cart.py",), mutants=6,
            names=frozenset({"total", "named"}),
        )
    )  # fmt: skip
    assert strength.idle == () and strength.score >= 0.5
