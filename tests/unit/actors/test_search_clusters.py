"""Failing tests in clusters, whose candidates come in turn."""

from __future__ import annotations

from actors.search.clusters import clusters
from actors.search.mutators.site import Evidence
from actors.search.plausibility import doubt, fitting
from actors.search.ranking import Ranking
from actors.search.settings import SearchSettings
from actors.search.source import Source
from actors.search.turns import Turns

TEXT = "def one(a):\n    return a + 1\n\n\ndef two(a):\n    return a - 1\n"
SETTINGS = SearchSettings(window=4, partial_window=4, slice=50)


def turns(*groups: tuple[str, int]) -> Turns:
    source = Source("m.py", TEXT.encode())
    rankings = [
        ([test], Ranking({"m.py": source}, {"m.py": {line: 1.0}}, Evidence(), SETTINGS, {}))
        for test, line in groups
    ]
    return Turns(rankings, SETTINGS)


def lines_of(queue: Turns, count: int, *repaired: str) -> list[int]:
    given = [queue.pop(frozenset(repaired)) for _ in range(count)]
    return [ranked[1].line for ranked in given if ranked is not None]


def test_tests_that_run_the_same_functions_are_one_cluster() -> None:
    lines = {"f": {"m.py": [2]}, "g": {"m.py": [6]}, "h": {"m.py": [2]}, "i": {"m.py": [2, 6]}}

    groups = clusters({"m.py": Source("m.py", TEXT.encode())}, lines, ["f", "g", "h", "i", "j"])

    assert groups == [("j",), ("f", "h"), ("g",), ("i",)]


def test_there_are_never_many_clusters() -> None:
    text = "".join(f"def f{n}():\n    return {n}\n" for n in range(9))
    lines = {f"t{n}": {"m.py": [2 * n + 2, 2]} for n in range(9)}

    groups = clusters({"m.py": Source("m.py", text.encode())}, lines, list(lines))

    assert len(groups) == 6
    assert sorted(test for group in groups for test in group) == sorted(lines)


def test_clusters_give_their_candidates_in_turn() -> None:
    assert lines_of(turns(("f", 2), ("g", 6)), 6) == [2, 6, 2, 6, 2, 6]


def test_a_repaired_cluster_leaves_its_turns_to_the_others() -> None:
    assert lines_of(turns(("f", 2), ("g", 6)), 12, "f").count(6) >= 9


def test_two_clusters_give_a_common_candidate_once() -> None:
    queue = turns(("f", 2), ("g", 2))

    given = []
    while (ranked := queue.pop()) is not None:
        given.append(ranked[1].edits)

    assert len(given) == len(set(given))


def test_the_window_closes_after_so_many_more_candidates() -> None:
    queue = turns(("f", 2))
    assert not queue.is_settled(frozenset(), 0)
    lines_of(queue, 1, "f")

    for _ in range(4):
        assert not queue.is_settled(frozenset("f"), 1)
        lines_of(queue, 1, "f")

    assert queue.is_settled(frozenset("f"), 1)
    queue.start_slice()
    assert not queue.is_settled(frozenset("f"), 1)


def test_a_cluster_without_a_repair_keeps_its_whole_slice() -> None:
    queue = turns(("f", 2), ("g", 6))
    lines_of(queue, 20, "f")

    assert not queue.is_settled(frozenset("f"), 0)


def test_a_value_of_the_test_and_a_reset_are_doubtful_and_an_operator_is_not() -> None:
    assert doubt("comparison") == 0
    assert doubt("fitted") > 1 > doubt("guard") > 0
    assert fitting("comparison + reset") == fitting("reset") < fitting("insert")
