"""Role repair by a model: it sees what fails and why, and rewrites files. It never runs anything."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial

from actors.counted import CountedDraft
from actors.engines.port import Engines, Reply
from actors.formats import Formats, ReplySettings
from actors.packing import texts
from actors.repair_context import compose
from actors.writer import Conversed, converse
from orchestrator.errors import AgentError, EngineMissing
from orchestrator.patch import Changes, check_changes
from orchestrator.selection import in_order
from orchestrator.steps import Improvement, Repaired, RepairRequest, Role
from orchestrator.tree import File

REPAIRER = "model"


class ModelRepairer:
    """Offers a candidate for each different reply to its prompt. Whether one passes the judge says."""

    def __init__(self, engines: Engines, replies: ReplySettings | None = None, *, samples: int = 1) -> None:
        """Ask models of `engines`, each time for `samples` replies at once."""
        self._engines = engines
        self._samples = samples
        self._formats = Formats(replies)

    async def repair(self, request: RepairRequest) -> Repaired:
        """Candidates of the request's model, in the order to judge them; none where no reply can be used.

        Their `failing` is empty because nobody has tested them yet.

        Raises:
            MachineError: The model cannot be reached.
        """
        if not request.model:
            raise EngineMissing("a repair by a model needs one, and none is configured", "give --model")
        engine = self._engines(request.model)
        draft = _Samples(request, self._formats, engine.name)
        conversed = await converse(
            engine,
            Role.REPAIR,
            lambda limit: compose(request, limit, draft.large),
            draft,
            samples=self._samples,
        )
        conversed = _with_what_held(conversed, draft)
        if conversed.result is None:
            return Repaired(
                best=None,
                repairer=REPAIRER,
                exhausted=True,
                usage=conversed.usage,
                contexts=conversed.contexts,
            )
        drawn = [conversed.result, *draft.others]
        offered = in_order(request.base, [self._offer(request, engine.name, each) for each in drawn])
        if len(drawn) > 1:
            offered = [replace(each, explanation=_votes(each, len(drawn))) for each in offered]
        return Repaired(
            best=offered[0],
            alternatives=tuple(offered[1:]),
            repairer=REPAIRER,
            candidates=len(offered),
            usage=conversed.usage,
            contexts=conversed.contexts,
        )

    def _offer(self, request: RepairRequest, name: str, changes: Changes) -> Improvement:
        rewritten = ", ".join(sorted(request.tree.changes_to(request.base.with_files(changes))))
        return Improvement(
            changes=changes, failing=(), explanation=f"{name} rewrote {rewritten}", candidates=1
        )

    async def cancel_all(self) -> None:
        """Close the engines; the replica ends."""
        await self._engines.close()


class _Samples(CountedDraft[Changes]):
    """A draft that takes several replies to its first prompt: `others` come of those beside the first."""

    def __init__(self, request: RepairRequest, formats: Formats, model: str) -> None:
        protected = request.profile.protected

        def permit(path: str, file: File | None) -> None:
            # A protected file that is repeated as it is does no harm.
            if request.base.files.get(path) != file:
                check_changes(request.tree, {path: file}, protected=protected)

        super().__init__(
            request.tree,
            lambda changes: _candidate(request, changes),
            permit,
            formats=formats,
            model=model,
            files={path: text for path, text in texts(request.tree).items() if path not in protected},
        )
        self.others: list[Changes] = []
        self._another = partial(_Samples, request, formats, model)

    def take(self, reply: Reply) -> Changes:
        """The changes of the first reply that can be used; what the others come to is kept."""
        for text in reply.others:
            with contextlib.suppress(AgentError):
                self.others.append(self._another().take(Reply(text=text)))
        try:
            return super().take(reply)
        except AgentError:
            if not self.others:
                raise
            return self.others.pop(0)


def _votes(offer: Improvement, drawn: int) -> str:
    return f"{offer.explanation} ({offer.votes} of {drawn} usable replies)"


def _with_what_held(conversed: Conversed[Changes], draft: CountedDraft[Changes]) -> Conversed[Changes]:
    """Part of an answer is a candidate too: the judge says whether it does."""
    if conversed.result is not None or not draft.kept:
        return conversed
    try:
        return replace(conversed, result=draft.end())
    except AgentError:
        return conversed


def _candidate(request: RepairRequest, files: Changes) -> Changes:
    """The changes relative to the request's base.

    Raises:
        AgentError: They change what they may not or nothing, or were refused before.
    """
    kept = {path: file for path, file in files.items() if request.base.files.get(path) != file}
    check_changes(request.tree, kept, protected=request.profile.protected)
    candidate = request.tree.with_files(files)
    if candidate.digest == request.tree.digest:
        raise AgentError("the files in it are as they were", "change the code")
    if candidate.digest in request.rejected:
        raise AgentError("this change was tried before and refused", "change something else")
    return request.base.changes_to(candidate)
