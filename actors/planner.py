"""The plan agent: a goal in words becomes a list of files with what each is for. It writes none of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from actors.engines.port import Engines
from actors.packing import Composed, parts_of
from actors.prompts import render
from actors.requirements import analysed
from actors.structured import form_of, parse_data
from actors.writer import converse
from orchestrator.building import Requirements, RequirementsRequest
from orchestrator.errors import AgentError
from orchestrator.patch import check_path, is_control
from orchestrator.plan import CI_FILE, Plan, PlannedFile, completed, in_order
from orchestrator.steps import Planned, PlanRequest, Role

log = structlog.get_logger()

MOST_FILES = 40


def _listed(value: object) -> object:
    """A list, also where a model wrote `"a, b"`, `{"a": ">=1"}`, or nothing."""
    if isinstance(value, str):
        return [part for part in value.split(",") if part.strip()]
    return [] if value is None else list(value) if isinstance(value, Mapping) else value


def _cut(most: int) -> BeforeValidator:
    """A long text is no reason to ask again."""
    return BeforeValidator(lambda value: value[:most] if isinstance(value, str) else value)


def _files(value: object) -> object:
    """A list of objects, also where a model wrote a list of paths, or purposes by path."""
    if isinstance(value, Mapping):
        return [{"path": path, "purpose": said} for path, said in value.items()]
    if isinstance(value, list):
        return [{"path": file} if isinstance(file, str) else file for file in value]
    return value


_Short = Annotated[str, StringConstraints(strip_whitespace=True), _cut(200)]
_Named = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
_Words = Annotated[list[_Short], BeforeValidator(_listed)]


class _File(BaseModel):
    """A file as a model plans it."""

    model_config = ConfigDict(title="File")

    path: _Named
    purpose: Annotated[str, StringConstraints(strip_whitespace=True), _cut(600)] = ""
    needs: Annotated[_Words, Field(max_length=MOST_FILES)] = []


class _Plan(BaseModel):
    """A plan as a model gives it."""

    model_config = ConfigDict(title="Plan")

    project: _Named
    stack: Annotated[_Words, Field(max_length=20)] = []
    files: Annotated[list[_File], Field(min_length=1, max_length=MOST_FILES), BeforeValidator(_files)]
    dependencies: Annotated[_Words, Field(max_length=40)] = []


class Planner:
    """Asks an engine for a plan until the reply is one."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def plan(self, request: PlanRequest) -> Planned:
        """A plan for the request's goal, or why no reply was one.

        Raises:
            MachineError: The request's model cannot be reached here.
        """
        engine = self._engines(request.model)
        conversed = await converse(
            engine,
            Role.PLAN,
            lambda _limit: _prompt(request),
            plan_from,
            structured=form_of(_Plan),
            again="Reply again with the whole JSON object and nothing else.",
        )
        if conversed.result is None:
            log.info("goal_not_planned", engine=engine.name, reason=conversed.refused)
        return Planned(
            plan=conversed.result,
            refused=conversed.refused,
            usage=conversed.usage,
            contexts=conversed.contexts,
        )

    async def requirements(self, request: RequirementsRequest) -> Requirements:
        """What the request's goal requires, or why no reply said it.

        Raises:
            MachineError: The request's model cannot be reached here.
        """
        return await analysed(self._engines(request.model), request)

    async def cancel_all(self) -> None:
        """Close the engines; the replica ends."""
        await self._engines.close()


def _prompt(request: PlanRequest) -> Composed:
    text = render("plan", goal=request.goal, most_files=MOST_FILES)
    return Composed(text=text, template="plan", **parts_of(request.goal, {}, {}))


def plan_from(reply: str) -> Plan:
    """The plan in a model's reply, in the order of its files' needs, with a repository's standard files.

    Files that no agent may write are left out: the judge's configuration is not theirs to choose.

    Raises:
        AgentError: It is no plan; says which path or value is wrong.
    """
    asked = parse_data(reply, _Plan)
    files: dict[str, PlannedFile] = {}
    for file in asked.files:
        path = check_path(file.path.removeprefix("./"))
        if path in files:
            raise AgentError(f"the plan names {path!r} twice", "name each file once")
        if not is_control(path) or path == CI_FILE:
            needs = tuple(need.removeprefix("./") for need in file.needs)
            files[path] = PlannedFile(path=path, purpose=file.purpose, needs=needs)
    if not any(path.endswith(".py") and not file.is_test for path, file in files.items()):
        raise AgentError("the plan holds no Python source file", "plan the files that the goal needs")
    try:
        ordered = in_order(files.values())
    except ValueError as error:
        raise AgentError(f"the files need each other in a circle: {error}", "break it") from error
    return Plan(
        project=asked.project,
        stack=tuple(asked.stack),
        files=completed(ordered),
        dependencies=tuple(asked.dependencies),
    )
