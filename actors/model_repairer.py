"""Role repair by a model: it sees what fails and why, and rewrites files. It never runs anything."""

from __future__ import annotations

from dataclasses import replace

from actors.counted import CountedDraft
from actors.engines.port import Engines
from actors.formats import Formats, ReplySettings
from actors.packing import texts
from actors.repair_context import compose
from actors.writer import Conversed, converse
from orchestrator.errors import AgentError, EngineMissing
from orchestrator.patch import Changes, check_changes
from orchestrator.steps import Improvement, Repaired, RepairRequest, Role
from orchestrator.tree import File

REPAIRER = "model"


class ModelRepairer:
    """Offers one candidate a request. Whether it passes is the judge's to say."""

    def __init__(self, engines: Engines, replies: ReplySettings | None = None) -> None:
        self._engines = engines
        self._formats = Formats(replies)

    async def repair(self, request: RepairRequest) -> Repaired:
        """A candidate of the request's model, or none where no reply could be used.

        The candidate's `failing` is empty because nobody has tested it yet.

        Raises:
            MachineError: The model cannot be reached.
        """
        if not request.model:
            raise EngineMissing("a repair by a model needs one, and none is configured", "give --model")
        engine = self._engines(request.model)
        draft = _draft(request, self._formats, engine.name)
        conversed = await converse(
            engine,
            Role.REPAIR,
            lambda limit: compose(request, limit, draft.large),
            draft,
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
        rewritten = ", ".join(sorted(request.tree.changes_to(request.base.with_files(conversed.result))))
        best = Improvement(
            changes=conversed.result,
            failing=(),
            explanation=f"{engine.name} rewrote {rewritten}",
            candidates=1,
        )
        return Repaired(
            best=best,
            repairer=REPAIRER,
            candidates=1,
            usage=conversed.usage,
            contexts=conversed.contexts,
        )

    async def cancel_all(self) -> None:
        """Close the engines; the replica ends."""
        await self._engines.close()


def _draft(request: RepairRequest, formats: Formats, model: str) -> CountedDraft[Changes]:
    protected = request.profile.protected

    def permit(path: str, file: File | None) -> None:
        # A protected file that is repeated as it is does no harm.
        if request.base.files.get(path) != file:
            check_changes(request.tree, {path: file}, protected=protected)

    return CountedDraft(
        request.tree,
        lambda changes: _candidate(request, changes),
        permit,
        formats=formats,
        model=model,
        files={path: text for path, text in texts(request.tree).items() if path not in protected},
    )


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
