"""Stubs and mutants are whole, differ from the code in one place, and are the same for the same seed."""

from __future__ import annotations

import ast

from actors.judge.strength import mutants, stub
from orchestrator.tree import File, Tree
from orchestrator.verdict import Strength, Verdict, weighed

CODE = '''"""Doc 1."""
LIMIT = 3

class Box:
    def full(self, n):
        """Doc."""
        if n > LIMIT and n % 2 == 0:
            return n + 1
        return True

async def later(n):
    return [n * 2]
'''
TREE = Tree(
    files={
        "box.py": File(content=CODE.encode()),
        "test_box.py": File(content=b"def test(): pass\n"),
        "broken.py": File(content=b"def (\n"),
    }
)


def test_a_stub_returns_nothing_and_keeps_every_name() -> None:
    text = stub(TREE, ("box.py", "broken.py")).files["box.py"].content.decode()

    names: dict[str, object] = {}
    exec(compile(text, "box.py", "exec"), names)
    assert names["Box"]().full(4) is None  # type: ignore[operator]
    assert names["LIMIT"] == 3


def test_each_mutant_changes_one_place_of_the_code_and_says_which() -> None:
    made = mutants(TREE, ("box.py", "broken.py"), most=100, seed=1)
    texts = [tree.files["box.py"].content.decode() for _, tree in made]

    assert len(made) == len(set(texts)) > 8
    assert ast.unparse(ast.parse(CODE)) + "\n" not in texts
    assert {where.partition(": ")[0] for where, _ in made} >= {
        "box.py:2",
        "box.py:7",
        "box.py:8",
        "box.py:12",
    }
    assert all(tree.files["test_box.py"] == TREE.files["test_box.py"] for _, tree in made)
    assert all('"""Doc."""' in text for text in texts)


def test_the_same_seed_chooses_the_same_mutants() -> None:
    def chosen(seed: int) -> list[str]:
        return [where for where, _ in mutants(TREE, ("box.py",), most=4, seed=seed)]

    assert chosen(1) == chosen(1)
    assert len({tuple(chosen(seed)) for seed in range(5)}) > 1


def test_the_score_is_the_lesser_share_and_below_the_minimum_nothing_is_certified() -> None:
    strength = Strength(tests=4, idle=("a",), mutants=10, survivors=("x",) * 5)
    green = Verdict(passed=("a",), certified=True)

    assert strength.score == 0.5
    assert Strength(tests=0).score == 0 and Strength(tests=2).score == 1
    assert weighed(green, strength, 0.5).certified
    weak = weighed(green, strength, 0.6)
    assert not weak.certified and not weak.alarm
    assert "1 of 4 tests pass on a stub, 5 of 10 changes go unnoticed" in weak.findings[-1]
