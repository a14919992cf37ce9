"""What a run taught: how its tests failed, and the change that was certified or refused. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

CERTIFIED = "certified"
REFUSED = "refused"

# Of how a run's tests failed so much is kept: the first tests, their telling lines, words in all.
_TESTS = 5
_LINES = 6
_LINE = 300
_TERMS = 60
_PATCH = 6000
_NOTES = 1000
_WORD = re.compile(r"[a-z][a-z0-9]{2,30}")
# Lines of pytest and of tracebacks that say what went wrong rather than where.
_TELLING = re.compile(r"^E\s|^\s*[\w.]*(?:Error|Exception|Warning|Failed|Exit)\b|^[\w./-]+:\d+: ")
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one run taught.

    Attributes:
        signature: How its tests failed, in their own words without numbers.
        outcome: `certified` or `refused`: what became of the patch.
        patch: The change as a unified diff, cut.
        notes: In words: what was changed, or what failed with it.
        run_id: Of the run; empty until it is kept.
    """

    signature: str
    outcome: str
    patch: str
    notes: str = ""
    run_id: str = ""

    @property
    def terms(self) -> tuple[str, ...]:
        """The words that it is found by."""
        return terms_of(self.signature)


def signature_of(details: Mapping[str, str]) -> str:
    """How tests failed, from what they said: comparable between runs, empty where they said nothing."""
    told = [_telling(said) for said in list(details.values())[:_TESTS]]
    return "\n".join(dict.fromkeys(line for lines in told for line in lines))


def _telling(said: str) -> list[str]:
    lines = [line for line in said.splitlines() if line.strip()]
    found = [line for line in lines if _TELLING.search(line)] or lines[-3:]
    return [_NUMBERS.sub("N", line.strip())[:_LINE] for line in found[-_LINES:]]


def terms_of(text: str) -> tuple[str, ...]:
    """The distinct words of `text`, lower case, those that come first."""
    return tuple(dict.fromkeys(_WORD.findall(text.casefold())))[:_TERMS]


def lesson(details: Mapping[str, str], *, outcome: str, patch: str, notes: str) -> Lesson | None:
    """What a run with such failures taught; None where there is nothing to know it again by."""
    signature = signature_of(details)
    if not terms_of(signature) or not patch:
        return None
    return Lesson(signature=signature, outcome=outcome, patch=patch[:_PATCH], notes=notes[:_NOTES])


def closest(
    terms: Sequence[str], lessons: Iterable[Lesson], *, most: int = 3, least: float = 0.5
) -> list[Lesson]:
    """Those of `lessons` that share most words with `terms`, at least the share `least` of both together.

    Equally close ones stay in their order; a change that is there already is not told twice.
    """
    wanted = set(terms)
    shares = [(_share(wanted, set(each.terms)), each) for each in lessons]
    near = sorted((pair for pair in shares if pair[0] >= least), key=lambda pair: -pair[0])
    distinct = {each.patch: each for _, each in reversed(near)}
    return [each for _, each in near if distinct[each.patch] is each][:most]


def _share(wanted: set[str], known: set[str]) -> float:
    return len(wanted & known) / len(wanted | known) if wanted and known else 0.0
