from __future__ import annotations

from itertools import pairwise

from actors.search.assembly import assemblies, synergies
from actors.search.board import Board, Goal
from actors.search.edits import Candidate, Edit
from actors.search.lab import is_test_path
from actors.search.mutators.site import Evidence
from actors.search.ranking import Ranking, composed
from actors.search.settings import SearchSettings
from actors.search.source import Source

TEXT = "LIMIT = 3\n\n\ndef f(a, b):\n    if a > b:\n        return a\n    return LIMIT\n"


def ranking(scores: dict[int, float]) -> Ranking:
    source = Source("m.py", TEXT.encode())
    return Ranking({"m.py": source}, {"m.py": scores}, Evidence(), SearchSettings(), {})


def everything(queue: Ranking) -> list[tuple[float, Candidate]]:
    found = []
    while (item := queue.pop()) is not None:
        found.append(item)
    return found


def candidate(
    start: int, end: int, *, kind: str = "number", text: str = "x", path: str = "m.py"
) -> Candidate:
    edit = Edit(path=path, start=start, end=end, replacement=text)
    return Candidate(edits=(edit,), kind=kind, weight=0.5, explanation=kind, line=1)


def test_candidates_come_best_first_and_in_the_same_order_every_time() -> None:
    scores = {1: 0.4, 5: 1.0, 6: 0.7, 7: 0.5}

    one, two = everything(ranking(scores)), everything(ranking(scores))

    assert one == two
    assert all(a[0] >= b[0] for a, b in pairwise(one))


def test_the_most_suspected_line_comes_first() -> None:
    first = ranking({5: 0.2, 6: 0.2, 7: 1.0}).pop()

    assert first is not None
    assert first[1].line == 7


def test_candidates_that_take_an_import_are_put_off() -> None:
    slow = [item for item in everything(ranking({1: 1.0})) if item[1].line == 1]
    fast = everything(ranking({7: 1.0}))

    assert max(rank for rank, _ in slow) < max(rank for rank, _ in fast)


def test_what_is_put_back_comes_again() -> None:
    queue = ranking({7: 1.0})
    rank, first = queue.pop() or (0.0, None)
    assert first is not None

    queue.put(rank, first)

    assert (rank, first) in everything(queue)


def test_edits_of_the_same_place_do_not_compose() -> None:
    assert composed(candidate(0, 4), candidate(2, 6)) is None
    both = composed(candidate(0, 4), candidate(8, 9))
    assert both is not None
    assert len(both.edits) == 2
    assert composed(candidate(0, 4), candidate(0, 4, path="n.py")) is not None


def board(*, failing: tuple[str, ...] = ("f", "g")) -> Board:
    return Board(
        goal=Goal(failing=failing, others=("p",)), settings=SearchSettings(window=3, partial_window=5)
    )


def ran(**outcomes: str) -> dict[str, object]:
    return {"status": "ran", "outcomes": outcomes, "complete": True}


def test_a_candidate_that_breaks_a_test_is_no_find_but_a_seed() -> None:
    one = board()

    assert one.take(1.0, candidate(0, 1), ran(f="passed", g="failed", p="failed")) is None
    assert len(one.seeds) == 1


def test_a_test_that_is_skipped_anew_is_not_repaired() -> None:
    assert board().take(1.0, candidate(0, 1), ran(f="skipped", g="failed", p="passed")) is None
    assert board().take(1.0, candidate(0, 1), ran(f="passed", g="failed", p="skipped")) is None


def test_a_complete_repair_goes_before_a_partial_one() -> None:
    one = board()
    one.take(1.0, candidate(0, 1), ran(f="passed", g="failed", p="passed"))
    one.take(0.1, candidate(4, 5), ran(f="passed", g="passed", p="passed"))

    assert one.ordered()[0].failing == ()


def test_a_value_fitted_to_the_tests_goes_behind_a_plain_repair() -> None:
    one = board()
    one.take(1.0, candidate(0, 1, kind="fitted"), ran(f="passed", g="passed", p="passed"))
    one.take(0.5, candidate(4, 5, kind="variable"), ran(f="passed", g="passed", p="passed"))

    assert one.ordered()[0].candidate.kind == "variable"


def test_repairs_of_different_tests_are_tried_together() -> None:
    one = board()
    one.take(0.9, candidate(0, 1), ran(f="passed", g="failed", p="passed"))
    one.take(0.8, candidate(2, 3, kind="variable"), ran(f="passed", g="failed", p="passed"))
    one.take(0.7, candidate(8, 9), ran(f="failed", g="passed", p="passed"))

    starts = [sorted(found.candidate.edits[0].start for found in some) for some in assemblies(one)]

    assert starts == [[0, 8], [2, 8]]


def test_a_plain_edit_goes_before_a_fitted_one_that_repairs_more() -> None:
    one = board(failing=("f", "g", "h"))
    one.take(0.9, candidate(0, 1, kind="fitted"), ran(f="passed", g="passed", h="failed", p="passed"))
    one.take(0.5, candidate(2, 3, kind="comparison"), ran(f="passed", g="failed", h="failed", p="passed"))

    assert one.ordered()[0].candidate.kind == "comparison"


def test_what_gets_a_test_further_is_run_by_all_tests_and_may_join_a_repair() -> None:
    one = board()
    one.take(0.6, candidate(8, 9), {"status": "ran", "moved": ["g"]})
    one.take(0.9, candidate(0, 1), ran(f="passed", g="failed", p="passed"))

    (hope,) = one.take_hopes()
    one.take(*hope, {**ran(f="failed", g="failed", p="passed"), "moved": ["g"]})

    assert [found.moved for found in one.advanced()] == [frozenset({"g"})]
    assert [sorted(item.candidate.edits[0].start for item in some) for some in assemblies(one)] == [[0, 8]]


def test_a_test_that_is_repaired_needs_no_hope() -> None:
    one = board()
    one.take(0.6, candidate(8, 9), {"status": "ran", "moved": ["g"]})
    one.take(0.9, candidate(0, 1), ran(f="failed", g="passed", p="passed"))

    assert one.take_hopes() == []


def test_the_best_finds_of_all_tests_are_paired() -> None:
    one = board()
    one.take(0.9, candidate(0, 1), ran(f="passed", g="failed", p="passed"))
    one.take(0.2, candidate(8, 9), ran(f="failed", g="passed", p="passed"))
    one.take(0.8, candidate(0, 2), ran(f="failed", g="passed", p="passed"))

    starts = [[found.candidate.edits[0].start for found in pair] for pair in synergies(one)]

    assert starts == [[0, 8], [0, 8]]


def test_tests_and_their_helpers_are_known_by_their_names() -> None:
    for path in ("test_a.py", "pkg/a_test.py", "tests/helper.py", "pkg/tests/x.py", "conftest.py"):
        assert is_test_path(path), path
    for path in ("pkg/latest.py", "contest.py", "pkg/attest/x.py"):
        assert not is_test_path(path), path


def test_a_candidate_that_repairs_more_than_it_breaks_is_a_detour() -> None:
    one = board()

    assert one.take(1.0, candidate(0, 1), ran(f="passed", g="passed", p="failed")) is None

    assert [found.failing for found in one.detoured()] == [("p",)]
    assert one.found == []
