"""Role repair by several repairers side by side: the first that has a candidate wins, the others stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from actors.languages.javascript_search import JavaScriptRepairer
from orchestrator.errors import EngineMissing, RaysmithError
from orchestrator.ports import Progress, RunnerPool
from orchestrator.selection import distinct
from orchestrator.steps import RaceEnd, Racer, Repaired, RepairRequest, Usage
from orchestrator.tree import Tree

log = structlog.get_logger()

SEARCH, MODEL, SHELL = "search", "model", "shell"
AGENTS = (SEARCH, MODEL, SHELL)
MOST_SAMPLES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairSettings:
    """Who repairs."""

    agents: tuple[str, ...] = (SEARCH, MODEL)
    """Who works side by side: search without a model; model in one prompt; shell, one command a turn."""
    samples: int = 1
    """Replies that the model in one prompt draws at once; equal ones are judged once."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.agents if name not in AGENTS]
        if unknown or not self.agents:
            raise ValueError(
                f"repair.agents is {list(self.agents)}; it has to name some of {', '.join(AGENTS)}"
            )
        if not 1 <= self.samples <= MOST_SAMPLES:
            raise ValueError(f"repair.samples is {self.samples}; it has to be 1 to {MOST_SAMPLES}")


class TestingRepairer(Protocol):
    """A repairer that has tested what it offers."""

    async def repair(self, request: RepairRequest, runners: RunnerPool, progress: Progress) -> Repaired:
        """The best improvement found."""
        ...


class OneShotRepairer(Protocol):
    """A repairer that asks a model and runs nothing, so that its candidates are untested."""

    async def repair(self, request: RepairRequest) -> Repaired:
        """A candidate, or none."""
        ...

    async def cancel_all(self) -> None:
        """Close the model's engines."""
        ...


class Portfolio:
    """Search alone without a model; with one, all of its repairers at once.

    What search and shell offer is tested, what the one-shot model offers is not. So the model's
    candidate ends the others only while the judge has refused none of this run's candidates; after that
    they are heard to their end, and the model's candidate goes to the judge after theirs.

    Args:
        search: None where it is not wanted.
        model: None where it is not wanted.
        shell: None where it is not wanted.
    """

    def __init__(
        self,
        search: TestingRepairer | None,
        model: OneShotRepairer | None,
        shell: TestingRepairer | None = None,
    ) -> None:
        self._search = search
        self._model = model
        self._shell = shell

    async def repair(self, request: RepairRequest, runners: RunnerPool, progress: Progress) -> Repaired:
        """See `SearchRepairer.repair`, `ShellRepairer.repair` and `ModelRepairer.repair`.

        Raises:
            RaysmithError: None has a candidate and one of them could not work.
        """
        wanted = self._wanted(request, runners, progress)
        if len(wanted) == 1:
            return await wanted[0][1]()
        began = time.monotonic()
        tasks = {name: asyncio.create_task(_called(work), name=f"repair-{name}") for name, work in wanted}
        try:
            await _until_won(tasks, heeds_untested=not request.rejected)
        finally:
            await _stopped(*tasks.values())
        cpu_s = min(request.cpu_s, time.monotonic() - began)
        outcomes = {name: _outcome(task) for name, task in tasks.items()}
        raced = tuple(_racer(*each) for each in outcomes.items())
        return replace(together(request.base, outcomes, cpu_s), raced=raced)

    async def cancel_all(self) -> None:
        """Close the model's engines; the replica ends."""
        if self._model is not None:
            await self._model.cancel_all()

    def _wanted(
        self, request: RepairRequest, runners: RunnerPool, progress: Progress
    ) -> list[tuple[str, Callable[[], Awaitable[Repaired]]]]:
        """Who works on the request, tested offers first."""
        search, shell, model = self._search, self._shell, self._model
        if search is not None and request.profile.language == "javascript":
            search = JavaScriptRepairer()
        wanted: list[tuple[str, Callable[[], Awaitable[Repaired]]]] = []
        if search is not None:
            wanted.append((SEARCH, lambda: search.repair(request, runners, progress)))
        if shell is not None and request.model:
            wanted.append((SHELL, lambda: shell.repair(request, runners, progress)))
        if model is not None and request.model:
            wanted.append((MODEL, lambda: model.repair(request)))
        if not wanted:
            raise EngineMissing(
                "without the search a repair needs a model, and none is configured",
                "give --model, or add `search` to `repair.agents`",
            )
        return wanted


async def _called(work: Callable[[], Awaitable[Repaired]]) -> Repaired:
    return await work()


async def _until_won(tasks: dict[str, asyncio.Task[Repaired]], *, heeds_untested: bool) -> None:
    """Wait until one has a candidate that may end the others, or all have ended."""
    waiting = set(tasks.values())
    while waiting:
        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for name, task in tasks.items():
            if _is_won(task) and (heeds_untested or name != MODEL):
                return


def _is_won(task: asyncio.Task[Repaired]) -> bool:
    if not task.done() or task.cancelled() or task.exception() is not None:
        return False
    best = task.result().best
    return best is not None and not best.failing


async def _stopped(*tasks: asyncio.Task[Repaired]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _outcome(task: asyncio.Task[Repaired]) -> Repaired | Exception | None:
    """What a task ended with; None when it was stopped."""
    if task.cancelled():
        return None
    error = task.exception()
    if error is None:
        return task.result()
    if not isinstance(error, Exception):
        raise error
    return error


def _racer(name: str, outcome: Repaired | Exception | None) -> Racer:
    if outcome is None:
        return Racer(name=name, end=RaceEnd.STOPPED)
    if isinstance(outcome, RaysmithError):
        return Racer(
            name=name,
            end=RaceEnd.FAILED,
            code=outcome.code,
            error=outcome.message,
            next_move=outcome.next_move,
        )
    assert isinstance(outcome, Repaired)  # `together` raises what is not ours
    return Racer(name=name, end=RaceEnd.ANSWERED, found=outcome if name == SEARCH else None)


def together(base: Tree, outcomes: Mapping[str, Repaired | Exception | None], cpu_s: float) -> Repaired:
    """One outcome of all: a whole candidate before a partial one, a tested one before an untested one.

    Args:
        base: That candidates are relative to.
        outcomes: By repairer, tested offers first; None for one that was stopped.
        cpu_s: What a search that was stopped may have used.
    """
    errors = [outcomes[name] for name in (MODEL, SHELL, SEARCH) if isinstance(outcomes.get(name), Exception)]
    for error in errors:
        if isinstance(error, Exception) and not isinstance(error, RaysmithError):
            raise error
    found = [each for each in outcomes.values() if isinstance(each, Repaired)]
    best = _best(found)
    if best is None and errors and isinstance(errors[0], Exception):
        raise errors[0]
    if errors:
        log.warning("repairer_failed", error=str(errors[0]))
    leader = best or found[0]
    # In the order of who found them: what is tested goes to the judge before what is not.
    whole = [
        offer if each is leader else replace(offer, repairer=offer.repairer or each.repairer)
        for each in (leader, *(other for other in found if other is not leader))
        for offer in (each.best, *each.alternatives)
        if offer is not None
    ]
    offers = distinct(base, whole)
    # A search that was stopped has told nobody what it used; its time is the most it can be.
    stopped_s = cpu_s if outcomes.get(SEARCH, leader) is None else 0.0
    return replace(
        leader,
        best=offers[0] if offers else None,
        alternatives=tuple(offers[1:]),
        candidates=sum(each.candidates for each in found),
        cpu_s=round(sum(each.cpu_s for each in found) + stopped_s, 3),
        usage=sum((each.usage for each in found), Usage()),
        contexts=tuple(context for each in found for context in each.contexts),
        answers=tuple(answer for each in found for answer in each.answers),
        exhausted=all(each.exhausted for each in found),
    )


def _best(found: Sequence[Repaired]) -> Repaired | None:
    whole = (each for each in found if each.best and not each.best.failing)
    partial = (each for each in found if each.best)
    return next(whole, None) or next(partial, None)
