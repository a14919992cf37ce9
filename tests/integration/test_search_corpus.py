"""A fixed sample of the corpus is repaired; `benchmarks/repair.py` measures on the whole."""

from __future__ import annotations

import pytest
from corpus.cases import DEVELOPMENT, Case, cases, evaluate
from local_runners import LocalRunners, Told, profile_of, tree_of

from actors.repairer import SearchRepairer
from orchestrator.steps import RepairRequest

SAMPLE = ("gcd", "power", "anagrams", "library")
CASES = [case for case in cases(DEVELOPMENT) if case.name in SAMPLE]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_sample_of_the_corpus_is_repaired(case: Case) -> None:
    every = [*case.tests, *case.held]
    expected = evaluate(case.reference, case.header, every)
    assert expected is not None
    tree = tree_of({**case.buggy, "test_program.py": case.test_file(expected, range(len(case.tests)))})
    profile = await profile_of(tree)
    request = RepairRequest(
        base=tree, tree=tree, profile=profile, failing=profile.failing, cpu_s=20, wall_s=300
    )
    found = await SearchRepairer().repair(request, LocalRunners(), Told())
    assert found.best is not None
    assert found.best.failing == ()
