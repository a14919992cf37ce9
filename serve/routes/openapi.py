"""What the framework cannot know about the OpenAPI: both kinds of body, problems, and the key."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from serve import schemas

_REF = "#/components/schemas/{model}"


def complete(api: FastAPI, *, is_open: bool) -> None:
    """Add to the generated document of `api` what its routes read and refuse by themselves."""
    generated = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is not None:
            return api.openapi_schema
        document = generated()
        components = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (schemas.RunRequest, schemas.Upload, schemas.ProblemOut):
            schema = model.model_json_schema(ref_template=_REF)
            components |= schema.pop("$defs", {})
            components[model.__name__] = schema
        key = {"type": "http", "scheme": "bearer", "description": "From `raysmith keys create`."}
        document["components"]["securitySchemes"] = {"key": key}
        document["security"] = [{}, {"key": []}] if is_open else [{"key": []}]
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if path.endswith(("/health", "/health/ready")):
                    operation["security"] = []
                _drop_framework_refusals(operation["responses"])
        for name in ("HTTPValidationError", "ValidationError"):
            components.pop(name, None)
        api.openapi_schema = document
        return document

    api.openapi = openapi  # type: ignore[method-assign]


def _drop_framework_refusals(responses: dict[str, Any]) -> None:
    """The framework documents refusals in a form of its own, which nobody here ever gets."""
    for status, response in list(responses.items()):
        schema = response.get("content", {}).get("application/json", {}).get("schema", {})
        if schema.get("$ref", "").endswith("/HTTPValidationError"):
            del responses[status]
