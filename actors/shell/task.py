"""The first message of a shell agent: what is wanted, what is known, and how the shell works."""

from __future__ import annotations

from collections.abc import Iterator

from actors.engines.port import Engine, Message
from actors.packing import PROMPT_CHARACTERS, Composed, Packed, Part, pack
from actors.prompts import render
from actors.repair_context import details_parts, few_failing, lesson_parts, refused_parts
from actors.shell.settings import ShellSettings
from orchestrator.steps import RepairRequest
from orchestrator.tree import Tree

TEMPLATE = "shell"
# Share of the model's context that the task may take: most of it is left to the work. Characters of a token.
_TASK_SHARE = 0.25
_CHARACTERS = 3
# Of what can be left out, output, the last refused diff, memory and the list of files get a fourth each.
_SHARES = 4
_FILES = 200


async def repair_task(engine: Engine, settings: ShellSettings, request: RepairRequest) -> Packed:
    """The task to make failing tests pass.

    Raises:
        PromptTooLong: It does not fit into the engine's context.
        MachineError: The engine cannot be asked.
    """

    def compose(limit: int) -> Composed:
        share = limit // _SHARES
        details = details_parts(request.details, share)
        refused, judged = refused_parts(request, share)
        lessons, memory = lesson_parts(request, share)
        text = _rendered(
            settings,
            request.tree,
            share,
            goal=request.goal,
            failing=few_failing(request.failing),
            details={name: part.text for name, part in details.items()},
            refused=refused,
            lessons=lessons,
        )
        parts = (*_goal(request.goal), *details.values(), *judged, *memory)
        return Composed(text=text, template=TEMPLATE, parts=parts)

    return await pack(engine, compose, await _most(engine))


async def goal_task(engine: Engine, settings: ShellSettings, tree: Tree, goal: str) -> Packed:
    """The task to do what is asked for.

    Raises:
        PromptTooLong: It does not fit into the engine's context.
        MachineError: The engine cannot be asked.
    """

    def compose(limit: int) -> Composed:
        text = _rendered(settings, tree, limit, goal=goal, failing=[], details={}, refused=None, lessons=[])
        return Composed(text=text, template=TEMPLATE, parts=_goal(goal))

    return await pack(engine, compose, await _most(engine))


async def _most(engine: Engine) -> int:
    """Characters of what can be left out."""
    most = PROMPT_CHARACTERS // 4
    room = (await engine.measure([Message(role="user", content="")])).room
    return most if room is None else min(most, int(room * _TASK_SHARE) * _CHARACTERS)


def _rendered(settings: ShellSettings, tree: Tree, share: int, **values: object) -> str:
    files = list(_listed(tree, share))
    return render(
        TEMPLATE,
        files=files,
        left_out=len(tree.files) - len(files),
        command_s=f"{settings.command_s:g}",
        turns=settings.turns,
        **values,
    )


def _goal(goal: str | None) -> tuple[Part, ...]:
    return (Part(kind="goal", name="goal", why="what is asked for", text=goal),) if goal else ()


def _listed(tree: Tree, most: int) -> Iterator[str]:
    """Paths, those near the top first, as many as there is room for."""
    for path in sorted(tree.files, key=lambda path: (path.count("/"), path))[:_FILES]:
        most -= len(path) + 1
        if most < 0:
            return
        yield path
