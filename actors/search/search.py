"""The search: locate, rank, try in the sandbox, accept, until no test fails or the budget is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.search.behaviour import agreed, function_edited, near
from actors.search.board import Board, Found, Goal, passing
from actors.search.clusters import clusters
from actors.search.edits import applied, wire_form
from actors.search.evidence import gather
from actors.search.explaining import LOW, explained
from actors.search.frontier import Frontier, Look, State
from actors.search.lab import BudgetSpent, Lab
from actors.search.locate import covering, of_tests, suspicion
from actors.search.plausibility import doubt, fitting
from actors.search.ranking import Known, Ranking
from actors.search.settings import SearchSettings
from actors.search.source import Source
from actors.search.syntax import repairs
from actors.search.trials import Trials
from actors.search.turns import Turns
from orchestrator.errors import SandboxError
from orchestrator.ports import Progress, RunnerPool
from orchestrator.steps import Improvement, Repaired, RepairRequest
from orchestrator.tree import Tree

#: A detour breaks tests that passed: its tree has its turn after as good ones that break none.
_DETOUR = 0.5
#: What a test counts for that still fails, but later or nearer to what it expects.
_FURTHER = 0.4


class Search:
    """One repair. `best` never gets worse; each step to it was reported."""

    def __init__(
        self, request: RepairRequest, runners: RunnerPool, progress: Progress, settings: SearchSettings
    ) -> None:
        self._request = request
        self._progress = progress
        self._settings = settings
        self._lab = Lab(request, runners, settings)
        self._trials = Trials(self._lab, settings)
        self._best: Improvement | None = None
        self._best_merit = 0.0
        self._best_state: State | None = None
        self._alternatives: list[Improvement] = []

    async def run(self) -> Repaired:
        """Search until everything passes, nothing is left to try, or the budget is spent."""
        exhausted = False
        try:
            exhausted = await self._climb()
        except BudgetSpent:
            pass
        finally:
            await self._lab.close()
        return Repaired(
            best=self._best,
            repairer="search",
            candidates=self._trials.tried,
            cpu_s=round(self._lab.cpu_s, 3),
            exhausted=exhausted,
            alternatives=tuple(self._alternatives),
        )

    # -- the climb --------------------------------------------------------------

    async def _climb(self) -> bool:
        """Give one state after another a slice of candidates; whether everything was tried in vain."""
        frontier = Frontier()
        frontier.push(State(tree=self._request.tree, failing=self._request.failing))
        while (state := frontier.pop()) is not None:
            tried = self._trials.tried
            found, more = await self._visit(state)
            fresh = [one for one in found if id(one) not in state.offered]
            state.offered |= {id(one) for one in fresh}
            if fresh:
                await self._choose(state, fresh)
                if not fresh[0].failing and self._is_enough():
                    return False
            for place, one in enumerate([one for one in fresh if one.failing][: self._settings.children]):
                frontier.push(_child(state, one), place)
            if more and self._trials.tried > tried:
                state.slices += 1
                frontier.put_back(state)
        return self._best is None or bool(self._best.failing)

    def _is_enough(self) -> bool:
        """Whether the complete repair is plausible, or enough was tried for a better one."""
        most = self._settings.doubt_per_cpu_s * self._request.cpu_s
        return self._best_merit >= LOW or self._trials.tried > most

    async def _visit(self, state: State) -> tuple[list[Found], bool]:
        """One slice for `state`: its finds, the best first, and whether anything is left to try."""
        measured = await self._lab.measure(state.tree)
        if state.look is None:
            state.look = await self._look(state, measured)
        look = state.look
        more = await self._trials.slice(look, lambda found: self._report(state, found), deep=state.slices > 0)
        found = look.board.ordered()
        if found and not found[0].failing:
            found = await self._agreed(found, look)
        return [*found, *look.board.advanced(), *look.board.detoured()], more

    async def _look(self, state: State, measured: Mapping[str, Any]) -> Look:
        """Locate the faults of a tree and rank what may repair them."""
        sources = self._sources(state.tree)
        outcomes = measured["results"]
        failing = tuple(test for test in state.failing if test not in passing(outcomes, [test]))
        expected = [test for test in self._request.profile.expected if test not in state.failing]
        goal = Goal(failing=failing, others=tuple(passing(outcomes, expected)))
        traces = await self._lab.trace(goal, outcomes)
        evidence = gather(state.tree, traces, failing)
        places = {} if measured["fixed_order"] else covering(traces.lines, failing)
        groups = clusters(sources, traces.lines, failing)
        known: Known = {}

        def rankings() -> list[tuple[Sequence[str], Ranking]]:
            ranked: list[tuple[Sequence[str], Ranking]] = []
            for group in groups:
                scores = suspicion(sources, of_tests(traces, group, failing), group)
                ranked.append((group, Ranking(sources, scores, evidence, self._settings, places, known)))
            return ranked

        singles = Turns(rankings(), self._settings)
        for candidate in [one for source in sources.values() for one in repairs(source)]:
            singles.put(candidate.weight, candidate)
        return Look(
            board=Board(goal=goal, settings=self._settings),
            sources=sources,
            calls=traces.calls,
            lines=traces.lines,
            singles=singles,
            partners=Turns(rankings(), self._settings),
        )

    async def _agreed(self, found: list[Found], look: Look) -> list[Found]:
        """The best finds ordered by what they do on inputs near those of the tests."""
        best = [one for one in found if len(one.fixed) == len(found[0].fixed)][: self._settings.max_kept]
        source = look.sources[best[0].candidate.edits[0].path]
        name = function_edited(source, best) if len(best) > 2 else None
        calls = near(look.calls.get(f"{source.path}:{name}", ())) if name else []
        if not calls:
            return found
        arguments = {
            "candidates": [{"edits": wire_form(one.candidate.edits)} for one in best],
            "path": source.path,
            "name": name,
            "calls": calls,
            "cpu_s": min(1.0, self._lab.left_s()),
        }
        try:
            vectors = await self._lab.call("compare", arguments)
        except SandboxError:
            await self._lab.reopen()
            return found
        return [*agreed(best, vectors), *found[len(best) :]]

    # -- what is told -----------------------------------------------------------

    async def _choose(self, state: State, found: Sequence[Found]) -> None:
        """Report the best of a state's finds, and keep the next ones for the person."""
        sound = [one for one in found if one.fixed and set(one.failing) <= set(self._request.failing)]
        if sound and self._is_better(state, sound[0], orequal=True):
            await self._tell(state, sound[0])
            self._alternatives = [self._improvement(state, one) for one in sound[1:6]]

    async def _report(self, state: State, found: Found) -> None:
        """Report a find at once where it is better than all before."""
        if set(found.failing) <= set(self._request.failing) and self._is_better(state, found):
            await self._tell(state, found)

    def _is_better(self, state: State, found: Found, *, orequal: bool = False) -> bool:
        if self._best is None or len(found.failing) != len(self._best.failing):
            return self._best is None or len(found.failing) < len(self._best.failing)
        if found.failing:
            return orequal
        # Of complete repairs the one of the most plausible edits; a state itself orders its own.
        return orequal and (self._best_state is state or _merit(state, found) > self._best_merit)

    async def _tell(self, state: State, found: Found) -> None:
        improvement = self._improvement(state, found)
        self._best_merit, self._best_state = _merit(state, found), state
        if self._best is None or improvement.changes != self._best.changes:
            self._best = improvement
            await self._progress(improvement)

    def _improvement(self, state: State, found: Found) -> Improvement:
        tree = applied(state.tree, found.candidate.edits)
        return Improvement(
            changes=self._request.tree.changes_to(tree),
            failing=found.failing,
            explanation="; ".join([*state.explanations, self._explained(state, found)]),
            candidates=self._trials.tried,
            cpu_s=round(self._lab.cpu_s, 3),
        )

    def _explained(self, state: State, found: Found) -> str:
        assert state.look is not None
        repaired = [test for test in self._request.failing if test not in found.failing]
        return explained(found, state.look.lines, state.look.board.goal, repaired, _merit(state, found))

    def _sources(self, tree: Tree) -> dict[str, Source]:
        sources: dict[str, Source] = {}
        for path in self._lab.editable:
            try:
                sources[path] = Source(path, tree.files[path].content)
            except ValueError:
                continue
        return sources


def _child(state: State, found: Found) -> State:
    return State(
        tree=applied(state.tree, found.candidate.edits),
        failing=found.failing,
        explanations=(*state.explanations, found.candidate.explanation),
        plausibility=_merit(state, found),
        penalty=state.penalty
        + doubt(found.candidate.kind)
        + (_DETOUR if found.broken else 0.0)
        - _FURTHER * min(len(found.moved), 2),
    )


def _merit(state: State, found: Found) -> float:
    """The plausibility of all edits that lead to `found`."""
    return state.plausibility * fitting(found.candidate.kind)
