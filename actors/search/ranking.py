"""A lazy best-first queue of candidates over suspected statements; the same input gives the same order."""

from __future__ import annotations

import ast
import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from actors.search.edits import Candidate, Edit
from actors.search.locate import Lines
from actors.search.mutate import FAMILIES, changes
from actors.search.mutators.site import Change, Evidence
from actors.search.mutators.together import together
from actors.search.settings import SearchSettings
from actors.search.source import Source

#: Proposals per statement and family of operators.
Known = dict[tuple[ast.stmt, int], list[tuple[ast.AST, Change, float]]]


class _Proposal(NamedTuple):
    source: Source
    statement: ast.stmt
    line: int
    change: Change
    imports: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """Operators of one family at one statement, none of their proposals made yet."""

    bound: float
    rank: float
    source: Source
    statement: ast.stmt
    number: int

    @property
    def order(self) -> tuple[float, str, int, int]:
        """The best first when sorted ascending; the same in every run."""
        return -self.bound, self.source.path, self.statement.lineno, self.number


class Ranking:
    """Candidates by suspicion, operator and rank. Every candidate leaves it at most once, unless put back."""

    def __init__(  # noqa: PLR0917 - what is known of a tree
        self,
        sources: Mapping[str, Source],
        scores: Lines,
        evidence: Evidence,
        settings: SearchSettings,
        covering: Mapping[tuple[str, int], Sequence[str]],
        known: Known | None = None,
    ) -> None:
        """Rank nothing yet; rankings of one tree may share what operators propose, `known`."""
        self._known: Known = {} if known is None else known
        self._sources = sources
        self._evidence = evidence
        self._settings = settings
        self._covering = covering
        self._scores = scores
        self._heap: list[tuple[float, int, Candidate | _Proposal]] = []
        self._pushed = 0
        self._imports = 0
        self._waiting = sorted(self._families(), key=lambda family: family.order)
        self._waiting.reverse()

    def pop(self) -> tuple[float, Candidate] | None:
        """The best candidate left and its rank, None when all were given."""
        while self._waiting and (not self._heap or self._waiting[-1].bound >= -self._heap[0][0]):
            self._expand(self._waiting.pop())
        if not self._heap:
            return None
        rank, _, found = heapq.heappop(self._heap)
        if isinstance(found, Candidate):
            return -rank, found
        if found.imports:
            # Each costs as much as a hundred others, so the more were given the later the next one comes.
            later = -rank / (1 + self._imports * self._settings.import_decay)
            if self._heap and later < -self._heap[0][0]:
                self.put(later, found._replace(imports=False))
                return self.pop()
        self._imports += found.source.function_of(found.statement) is None
        return -rank, self._candidate(found)

    def put(self, rank: float, candidate: Candidate | _Proposal) -> None:
        """Have `candidate` come again at `rank`."""
        self._pushed += 1
        heapq.heappush(self._heap, (-rank, self._pushed, candidate))

    def _families(self) -> Iterator[_Family]:
        for path, lines in self._scores.items():
            source = self._sources.get(path)
            for node in source.statements if source else ():
                score = max((lines.get(line, 0.0) for line in _header(node)), default=0.0)
                if source is None or score <= 0:
                    continue
                rank = score**self._settings.ochiai_power
                rank *= self._settings.import_discount if source.function_of(node) is None else 1.0
                for number, (highest, _) in enumerate(FAMILIES):
                    yield _Family(
                        bound=rank * highest, rank=rank, source=source, statement=node, number=number
                    )

    def _expand(self, family: _Family) -> None:
        _, operators = FAMILIES[family.number]
        source, statement = family.source, family.statement
        key = statement, family.number
        if key not in self._known:
            decay = self._settings.depth_decay
            proposals = list(changes(source, statement, self._evidence, decay, operators))
            if not family.number:
                like = together(source, statement, self._evidence)
                proposals += [(statement, change, change.weight) for change in like]
            self._known[key] = proposals
        for node, change, weight in self._known[key]:
            line = getattr(node, "lineno", statement.lineno)
            imports = source.function_of(statement) is None
            self.put(family.rank * weight, _Proposal(source, statement, line, change, imports))

    def _candidate(self, proposal: _Proposal) -> Candidate:
        source, statement, line, change, _ = proposal
        places = [(source.path, one) for one in _header(statement)]
        tests = next((self._covering[place] for place in places if place in self._covering), ())
        return Candidate(
            edits=tuple(
                Edit(path=source.path, start=start, end=end, replacement=text)
                for start, end, text in change.spans
            ),
            kind=change.kind,
            weight=min(change.weight, 1.0),
            explanation=f"{source.path}:{line}: {change.why}",
            line=line,
            failing=tuple(tests),
        )


def composed(one: Candidate, other: Candidate) -> Candidate | None:
    """Both candidates' edits at once, None where they touch the same characters."""
    for a in one.edits:
        for b in other.edits:
            if a.path == b.path and a.start <= b.end and b.start <= a.end:
                return None
    failing = tuple(dict.fromkeys([*one.failing, *other.failing]))
    return replace(
        one,
        edits=(*one.edits, *other.edits),
        kind=f"{one.kind} + {other.kind}",
        weight=one.weight * other.weight,
        explanation=f"{one.explanation}; {other.explanation}",
        failing=failing if one.failing and other.failing else (),
    )


def _header(node: ast.stmt) -> range:
    """Lines of a statement without the statements nested in it."""
    last = node.end_lineno or node.lineno
    for name in ("body", "cases"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            first = block[0].pattern if isinstance(block[0], ast.match_case) else block[0]
            last = max(node.lineno, min(last, first.lineno - 1))
    return range(node.lineno, last + 1)
