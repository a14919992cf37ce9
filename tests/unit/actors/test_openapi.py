"""Which descriptions of a service are OpenAPI documents."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from actors.service.openapi import described


class Item(BaseModel):
    name: str
    parts: list[Item] = []


def document() -> dict[str, Any]:
    app = FastAPI(title="Shop", version="2.1")

    @app.post("/items/{number}")
    def add(number: int, item: Item) -> Item:
        return item

    return app.openapi()


def test_what_fastapi_describes_is_taken() -> None:
    found = described(json.dumps(document()))

    assert (found.fault, found.title, found.version, found.routes) == (
        "",
        "Shop",
        "2.1",
        ("POST /items/{number}",),
    )


def _without(*path: str) -> dict[str, Any]:
    changed = document()
    at = changed
    for part in path[:-1]:
        at = at[part]
    del at[path[-1]]
    return changed


def _with(value: Any, *path: str) -> dict[str, Any]:
    changed = document()
    at = changed
    for part in path[:-1]:
        at = at.setdefault(part, {})
    at[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("<html>", "not JSON"),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ({}, "`openapi` is None"),
        (_with("2.0", "openapi"), "3.x is asked for"),
        (_without("info"), "`info`"),
        (_without("info", "title"), "`info.title`"),
        (_with([], "paths"), "`paths`"),
        (_without("paths"), "`paths` is missing"),
        (_with({}, "paths"), "describes no operation"),
        (_with({}, "components", "schemas"), "leads nowhere"),
        (_with({"$ref": "https://e.org/x"}, "components", "schemas", "Item"), "leads out of it"),
        (_with({"get": {"responses": {}}}, "paths", "items"), "slash"),
        (_with({"get": {"responses": {}}}, "paths", "/x"), "names no responses"),
        (_with({"get": "x"}, "paths", "/x"), "`paths./x.get`"),
    ],
)
def test_what_is_none_is_told_why(given: Any, told: str) -> None:
    text = given if isinstance(given, str) else json.dumps(given)

    assert told in described(text).fault
