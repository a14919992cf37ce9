"""Values as JSON and back, checked on the way in; the form in which step results are kept."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import StoreDamaged

T = TypeVar("T")


def to_json(value: object, type_: Any = None) -> bytes:
    """`value` as JSON; `type_` where its class does not tell its shape (a mapping, a tuple)."""
    shape: Any = type(value) if type_ is None else type_
    return _adapter(shape).dump_json(value)


def from_json(type_: Any, content: bytes) -> Any:
    """The `type_` that `to_json` wrote as `content`.

    Raises:
        StoreDamaged: `content` is not one.
    """
    try:
        return _adapter(type_).validate_json(content)
    except ValidationError as error:
        name = getattr(type_, "__name__", str(type_))
        raise StoreDamaged(
            f"a stored {name} cannot be read: {error}", "restore the store from a backup"
        ) from error


@lru_cache(maxsize=64)
def _adapter(type_: Any) -> TypeAdapter[Any]:
    return TypeAdapter(type_)
