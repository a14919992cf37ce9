"""Which tree has the next turn, and which pairs of edits come first."""

from local_runners import tree_of

from actors.search.edits import Candidate, Edit
from actors.search.frontier import Frontier, State
from actors.search.pairs import Pairs


def state(text: str, *failing: str, penalty: float = 0.0) -> State:
    return State(tree=tree_of({"m.py": text}), failing=failing, penalty=penalty)


def test_the_state_with_fewest_failing_tests_has_its_turn_until_it_proves_fruitless() -> None:
    frontier = Frontier()
    many, few = state("a", "x", "y"), state("b", "x")
    frontier.push(many)
    frontier.push(few)

    assert frontier.pop() is few
    few.slices = 2
    frontier.put_back(few)
    assert frontier.pop() is many


def test_a_tree_enters_once_and_siblings_keep_their_order() -> None:
    frontier = Frontier()
    first, second = state("a", "x"), state("b", "x")
    frontier.push(second, place=1)
    frontier.push(first, place=0)
    frontier.push(state("a", "x"))

    assert [frontier.pop(), frontier.pop(), frontier.pop()] == [first, second, None]


class Queue:
    def __init__(self, *ranked: tuple[float, Candidate]) -> None:
        self.left = list(ranked)

    def pop(self) -> tuple[float, Candidate] | None:
        return self.left.pop(0) if self.left else None


def edit(start: int) -> Candidate:
    edits = (Edit(path="m.py", start=start, end=start + 1, replacement="x"),)
    return Candidate(edits=edits, kind="k", weight=1.0, explanation=str(start), line=1)


def test_pairs_come_by_the_product_of_their_ranks_and_never_overlap() -> None:
    seeds = [(1.0, edit(0)), (0.5, edit(10))]
    pairs = Pairs(seeds, Queue((1.0, edit(0)), (0.9, edit(20)), (0.1, edit(30))), most=3)  # type: ignore[arg-type]

    found = []
    while (ranked := pairs.pop()) is not None:
        found.append(tuple(one.start for one in ranked[1].edits))

    assert found == [(0, 20), (10, 0), (10, 20), (0, 30), (10, 30)]
