"""The corpus of repairs is as large as it says, and its halves share nothing."""

from corpus.cases import DEVELOPMENT, MEASURING, cases, complaints


def test_the_corpus_has_many_bugs_of_many_classes() -> None:
    every = [*cases(DEVELOPMENT), *cases(MEASURING)]
    packages = [case for case in every if case.kind == "packages"]
    assert len(every) - len(packages) >= 120
    assert len(packages) >= 12
    assert len({case.kind for case in cases(MEASURING)}) >= 15
    assert all(sum(a != b for a, b in _pairs(case)) >= 2 for case in packages)


def test_no_program_is_in_both_halves() -> None:
    one, other = ({str(case.reference) for case in cases(folder)} for folder in (DEVELOPMENT, MEASURING))
    assert not one & other


def test_a_sample_is_sound() -> None:
    for folder in (DEVELOPMENT, MEASURING):
        assert [text for case in list(cases(folder))[::60] for text in complaints(case)] == []


def _pairs(case):
    return [(case.buggy[path], case.reference[path]) for path in case.reference]
