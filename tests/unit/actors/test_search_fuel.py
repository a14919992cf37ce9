"""Fuel of loops: the same by text and by tree, bounded, and put back for the next test."""

from __future__ import annotations

import ast
import builtins

import pytest

from actors.search.inside import fuel, text
from actors.search.inside.slate import Slate
from actors.search.inside.swap import shaped

LOOPS = """
def every(items, limit):
    total = 0
    while True:
        total += 1
        if total > limit or (yield total): break
    while (limit := limit - 1) > 0 and limit:
        for each, other in zip(items, [é for é in "äöü"]): total += 1
        else: total -= 1
    for each in *items, limit: pass
    for each in (
        items  # a comment )
    ):
        while not each:
            if each: continue
            each += 1
    while lambda: total if total else limit: break
    return total
"""


@pytest.fixture
def burning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "__raysmith_burn__", None, raising=False)
    monkeypatch.setattr(builtins, "__raysmith_fed__", None, raising=False)
    monkeypatch.setattr("importlib.machinery.SourceFileLoader.get_code", None)
    fuel.install(())


def run(source: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(fuel.compiled(source, "loops.py"), names)
    return names


def test_fuel_put_in_as_text_is_the_same_code_as_fuel_put_in_a_tree() -> None:
    places = text.Places(LOOPS)
    spans = []
    for node, before, after in fuel.taps(ast.parse(LOOPS)):
        start = places.offset(node.lineno, node.col_offset)
        end = places.offset(node.end_lineno or 0, node.end_col_offset or 0)
        spans += [(start, start, before), (end, end, after)]

    tapped = compile(text.replaced(LOOPS, spans), "loops.py", "exec", dont_inherit=True)

    assert shaped(tapped).whole == shaped(fuel.compiled(LOOPS, "loops.py")).whole


@pytest.mark.parametrize(
    "loop", ["while True: count += 1", "import itertools\nfor count in itertools.count(1): pass"]
)
def test_an_endless_loop_ends_after_its_turns_and_again_at_once(burning: None, loop: str) -> None:
    source = "count = 0\n" + loop
    fuel.fill(500)

    for turns in (500, 0):
        names: dict[str, object] = {}
        with pytest.raises(fuel.Exhausted):
            exec(fuel.compiled(source, "loops.py"), names)
        assert turns <= int(str(names["count"])) <= turns + 1
    assert fuel.left() == 0
    fuel.fill(fuel.PLENTY)


def test_a_fresh_fill_counts_alone_and_reaches_loops_that_run_already(burning: None) -> None:
    source = "def steps():\n    for each in range(10_000):\n        yield each\n"
    steps = run(source)["steps"]()  # type: ignore[operator]
    fuel.fill(3)
    assert [next(steps) for _ in range(3)] == [0, 1, 2]

    fuel.fill(50)
    assert [next(steps) for _ in range(40)][-1] == 42
    assert fuel.left() == 10
    fuel.fill(2)
    assert fuel.left() == 2
    fuel.fill(fuel.PLENTY)

    assert sum(1 for _ in steps) > 9000


def test_a_slate_tells_what_was_done_and_nothing_that_it_did_not_write() -> None:
    slate = Slate()
    slate.clear()
    slate.begin(0)
    slate.add({"fixed": 1})
    slate.begin(1)

    assert slate.started()[0] == 1
    assert slate.results() == [{"fixed": 1}]
    slate._memory[:] = b"\xff" * len(slate._memory)
    assert slate.results() == []
