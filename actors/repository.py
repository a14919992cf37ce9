"""Writes the files of a plan: as many at once as the model can, then those that are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from actors.draft import Draft
from actors.engines.port import Engine
from actors.packing import Composed, chosen, parts_of, texts
from actors.prompts import render
from actors.writer import converse
from orchestrator.context import ContextManifest
from orchestrator.errors import AgentError
from orchestrator.plan import PlannedFile
from orchestrator.steps import Usage, WriteRequest, Written
from orchestrator.tree import File, Tree

# Conversations in a row that bring none of the wanted files; the next one after each asks for half as many.
FRUITLESS = 3
# Asked for at once: more do not fit into the reply of a small model.
AT_ONCE = 12

Drafts = Callable[[WriteRequest, Tree], Draft[dict[str, File]]]


async def write_planned(engine: Engine, role: str, request: WriteRequest, drafts: Drafts) -> Written:
    """The request's wanted files, and what the model wrote beside them.

    Args:
        engine: Whom to ask.
        role: For whom: code or test.
        request: With a plan and wanted files of it.
        drafts: A draft over a tree, which takes files through the validator.

    Raises:
        AgentError: None of the wanted files came.
        PromptTooLong: The goal and the plan do not fit into the engine's context.
        MachineError: The engine cannot be asked.
    """
    written: dict[str, File] = {}
    contexts: list[ContextManifest] = []
    usage, refused, fruitless, size = Usage(), "", 0, AT_ONCE
    missing = list(request.wanted)
    while missing and fruitless < FRUITLESS:
        wanted = missing[:size]
        conversed = await converse(
            engine,
            role,
            lambda limit, wanted=wanted: _prompt(role, request, written, wanted, limit),  # type: ignore[misc]
            drafts(request, request.tree.with_files(written)),
        )
        usage = usage + conversed.usage
        contexts += conversed.contexts
        came = {path: file for path, file in (conversed.result or {}).items() if path not in written}
        if any(file.path in came for file in wanted):
            fruitless = 0
        else:
            fruitless, size = fruitless + 1, max(1, len(wanted) // 2)
            refused = conversed.refused or f"it holds none of {', '.join(file.path for file in wanted)}"
        written.update(came)
        missing = [file for file in missing if file.path not in written]
        if written and all(file.path.endswith("__init__.py") for file in missing):
            # An empty one makes a package; no model is asked for nothing.
            written.update({file.path: File(content=b"") for file in missing})
            missing = []
    if len(missing) == len(request.wanted):
        raise AgentError(f"no usable reply of {engine.name}: {refused}", "try another model")
    return Written(
        files=written,
        usage=usage,
        engine=engine.kind,
        missing=tuple(file.path for file in missing),
        contexts=tuple(contexts),
    )


def _prompt(
    role: str,
    request: WriteRequest,
    written: Mapping[str, File],
    wanted: Sequence[PlannedFile],
    limit: int,
) -> Composed:
    files = texts(request.tree.with_files(written))
    needed = [need for file in wanted for need in file.needs]
    # What is imported matters to who imports it; a Dockerfile hardly does.
    sources = sorted((path for path in files if path.endswith(".py")), key=lambda path: len(files[path]))
    shown, left_out = chosen(files, limit, first=[*needed, *sources])
    text = render(
        "repository",
        role=role,
        goal=request.goal,
        plan=request.plan,
        wanted=wanted,
        files=shown,
        left_out=left_out,
    )
    return Composed(
        text=text, template="repository", **parts_of(request.goal, files, shown, "written already")
    )
