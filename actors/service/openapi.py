"""Whether a service's description is an OpenAPI document: its form, and where its references lead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from pydantic import BaseModel, ValidationError

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_MOST_VALUES = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A description: what is wrong with it, empty where nothing is, and its operations."""

    fault: str = ""
    title: str = ""
    version: str = ""
    routes: tuple[str, ...] = ()


def described(text: str) -> Described:
    """The OpenAPI 3 document in `text`, checked; nothing in it is followed outside of it."""
    try:
        document = json.loads(text)
        if fault := _fault(document):
            return Described(fault=fault)
    except ValueError as error:
        return Described(fault=f"it is not JSON: {error}")
    except RecursionError:
        return Described(fault="it is nested too deeply")
    routes = tuple(
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method in _METHODS
        if method in item
    )
    info = document["info"]
    if not routes:
        return Described(fault="it describes no operation")
    return Described(title=str(info["title"])[:200], version=str(info["version"])[:100], routes=routes)


def _fault(document: Any) -> str:
    if not isinstance(document, dict):
        return "it is no JSON object"
    if not str(document.get("openapi", "")).startswith("3."):
        return f"`openapi` is {document.get('openapi')!r:.40}, and 3.x is asked for"
    return _form_fault(document) or _reference_fault(document)


def _form_fault(document: Mapping[str, Any]) -> str:
    """What FastAPI's own model of the form says, and what that leaves open."""
    from fastapi.openapi.models import OpenAPI, PathItem

    if fault := _model_fault(OpenAPI, document):
        return fault
    paths = document.get("paths")
    if not isinstance(paths, dict):
        return "`paths` is missing"
    for path, item in paths.items():
        # That model lets anything be a path's.
        if fault := _model_fault(PathItem, item, "paths", path):
            return fault
        if not path.startswith("/"):
            return f"path {path!r:.80} does not begin with a slash"
        for method in _METHODS:
            if method in item and not item[method].get("responses"):
                return f"`{method.upper()} {path:.80}` names no responses"
    return ""


def _model_fault(model: type[BaseModel], value: Any, *above: str) -> str:
    try:
        model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part)[:80] for part in (*above, *first["loc"]))
        return f"`{place}`: {first['msg'][:300]}"
    return ""


def _reference_fault(document: Mapping[str, Any]) -> str:
    for reference in _references(document):
        if not reference.startswith("#/"):
            return f"reference {reference!r:.80} leads out of it"
        at: Any = document
        for part in reference[2:].split("/"):
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if not isinstance(at, dict) or name not in at:
                return f"reference {reference!r:.80} leads nowhere"
            at = at[name]
    return ""


def _references(document: Any) -> Iterator[str]:
    waiting, seen = [document], 0
    while waiting and seen < _MOST_VALUES:
        value = waiting.pop()
        seen += 1
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
