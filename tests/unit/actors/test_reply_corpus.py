"""The corpus of replies: nothing is applied wrongly, and nearly everything as it was meant."""

from __future__ import annotations

import pytest
from corpus.reply_cases import PARTS, cases, judged


@pytest.mark.parametrize("part", PARTS)
def test_replies_are_applied_as_meant_or_refused(part: str) -> None:
    outcomes = {case.name: judged(case) for case in cases(part)}

    wrongly = [name for name, outcome in outcomes.items() if outcome == "wrongly"]
    missed = [name for name, outcome in outcomes.items() if outcome != "as_meant"]
    assert wrongly == []
    assert len(missed) <= 0.02 * len(outcomes), missed


def test_the_corpus_is_large_and_of_many_styles() -> None:
    every = [case for part in PARTS for case in cases(part)]

    assert len(every) >= 200
    assert len({case.style for case in every}) >= 60
