"""Replies whose value is data: JSON found in the text, checked by pydantic; everything else is refused."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from actors.engines.port import Structured
from orchestrator.errors import AgentError

M = TypeVar("M", bound=BaseModel)

_THOUGHT_ENDS = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_LAST_COMMA = re.compile(r",(\s*[\]}])")
# A reply with more opening braces than this is no data with prose around it.
_TRIES = 200
_LONGEST = 400_000
_TOLD = 3


def form_of(model: type[BaseModel]) -> Structured:
    """What an engine that can is to hold the reply to."""
    return Structured(json=model.model_json_schema())


def parse_data(text: str, model: type[M]) -> M:
    """The first JSON object in `text`, after anything thought aloud, that is a `model`.

    Raises:
        AgentError: There is none; says what is wrong with the first object.
    """
    fault = "it holds no JSON object"
    said = _THOUGHT_ENDS.split(text[-_LONGEST:])[-1]
    # Many models write a comma after the last item.
    for value in [*_objects(said), *_objects(_LAST_COMMA.sub(r"\1", said))]:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            if fault.startswith("it holds no"):
                fault = _told(error)
    raise AgentError(f"the reply cannot be read: {fault}", "reply with one JSON object of the form asked for")


def _objects(text: str) -> list[dict[str, Any]]:
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    at = -1
    for _ in range(_TRIES):
        if (at := text.find("{", at + 1)) < 0:
            break
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
            at = end - 1
    return found


def _told(error: ValidationError) -> str:
    faults = [
        f"`{'.'.join(str(part) for part in each['loc']) or 'the object'}`: {each['msg']}"
        for each in error.errors(include_url=False)[:_TOLD]
    ]
    return "; ".join(faults)
