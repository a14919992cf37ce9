"""Takes a goal in words apart: what a program has to do, one checkable sentence each."""

from __future__ import annotations

from typing import Annotated

import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from actors.engines.port import Engine
from actors.packing import Composed, parts_of
from actors.prompts import render
from actors.structured import form_of, parse_data
from actors.writer import converse
from orchestrator.building import Requirements, RequirementsRequest
from orchestrator.steps import Role

log = structlog.get_logger()

MOST = 30
_LONGEST = 500


def _sentences(value: object) -> object:
    """Sentences, also where a model wrote objects around them, one text, or none at all."""
    if isinstance(value, str):
        value = value.splitlines()
    if not isinstance(value, list):
        return value
    said = [next(iter(map(str, each.values())), "") if isinstance(each, dict) else each for each in value]
    told = [
        " ".join(each.split()).removeprefix("- ")[:_LONGEST] if isinstance(each, str) else each
        for each in said
    ]
    return [each for each in dict.fromkeys(told) if each][:MOST]


class _Asked(BaseModel):
    """Requirements as a model gives them."""

    model_config = ConfigDict(title="Requirements")

    requirements: Annotated[list[str], Field(min_length=1), BeforeValidator(_sentences)]
    service: bool | None = None


async def analysed(engine: Engine, request: RequirementsRequest) -> Requirements:
    """The requirements of the request's goal, or why no reply held any.

    Raises:
        MachineError: The engine cannot be asked.
    """
    text = render("requirements", goal=request.goal, most=MOST)
    prompt = Composed(text=text, template="requirements", **parts_of(request.goal, {}, {}))
    conversed = await converse(
        engine,
        Role.PLAN,
        lambda _limit: prompt,
        lambda reply: parse_data(reply, _Asked),
        structured=form_of(_Asked),
        again="Reply again with the whole JSON object and nothing else.",
    )
    found = conversed.result
    if found is None:
        log.info("goal_not_analysed", engine=engine.name, reason=conversed.refused)
    return Requirements(
        items=tuple(found.requirements) if found else (),
        service=found.service if found else None,
        refused="" if found else conversed.refused or "no reply could be used",
        usage=conversed.usage,
        contexts=conversed.contexts,
    )
