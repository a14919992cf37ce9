"""Values and conditions of a graph file: references to other nodes, and what they stand for in a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import TaskError

# What a reference may begin with besides a node's name.
INPUTS, TASK, ITEM = "inputs", "task", "item"
ROOTS = frozenset({INPUTS, TASK, ITEM})
_OPERATORS = ("not", "all", "any", "equal")


@dataclass(frozen=True, slots=True)
class Reference:
    """`$root.field.field`, as it is written somewhere in a node."""

    root: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return "$" + ".".join((self.root, *self.path))


def parse(text: str) -> Reference | str:
    """What a text of a graph file means: a reference, or itself without its escape."""
    if text.startswith("$$") or not text.startswith("$"):
        return text.removeprefix("$") if text.startswith("$$") else text
    root, *path = text[1:].split(".")
    return Reference(root, tuple(path))


def references(value: Any) -> Iterator[Reference]:
    """Every reference in `value`, however deep."""
    if isinstance(value, str):
        if isinstance(found := parse(value), Reference):
            yield found
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from references(each)


def resolved(value: Any, scope: Mapping[str, Any]) -> Any:
    """`value` with its references replaced by what they stand for.

    Args:
        scope: What every root is: a node's output, `inputs`, `task` and `item`.

    Raises:
        TaskError: There is nothing at the place that a reference names.
    """
    if isinstance(value, str):
        found = parse(value)
        return _looked_up(found, scope) if isinstance(found, Reference) else found
    if isinstance(value, Mapping):
        return {key: resolved(each, scope) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [resolved(each, scope) for each in value]
    return value


def _looked_up(reference: Reference, scope: Mapping[str, Any]) -> Any:
    at: Any = scope.get(reference.root, _NOTHING)
    for part in reference.path:
        if isinstance(at, Mapping):
            at = at.get(part, _NOTHING)
        elif isinstance(at, list) and part.isdecimal() and int(part) < len(at):
            at = at[int(part)]
        else:
            at = _NOTHING
    if at is _NOTHING:
        raise TaskError(f"`{reference}` stands for nothing in this run", "name a field that the node gives")
    return at


_NOTHING = object()


def holds(condition: Any, scope: Mapping[str, Any]) -> bool:
    """Whether a checked condition is true; a plain value is true as Python takes it."""
    if not isinstance(condition, Mapping):
        return bool(resolved(condition, scope))
    ((operator, inner),) = condition.items()
    if operator == "not":
        return not holds(inner, scope)
    if operator == "all":
        return all(holds(each, scope) for each in inner)
    if operator == "any":
        return any(holds(each, scope) for each in inner)
    left, right = resolved(inner, scope)
    return bool(left == right)


def condition_fault(condition: Any) -> str:
    """Why `condition` is none, empty where it is one."""
    if not isinstance(condition, Mapping):
        return "" if isinstance(condition, bool | str) else "has to be a reference or true, false"
    if len(condition) != 1 or next(iter(condition)) not in _OPERATORS:
        return f"has to hold one of {', '.join(_OPERATORS)}"
    ((operator, inner),) = condition.items()
    if operator == "not":
        return condition_fault(inner)
    if not isinstance(inner, list | tuple) or not inner:
        return f"`{operator}` takes a list"
    if operator == "equal":
        return "" if len(inner) == 2 else "`equal` takes two values"
    return next(filter(None, map(condition_fault, inner)), "")


def is_never(condition: Any) -> bool:
    """Whether a condition cannot hold in any run."""
    if isinstance(condition, Mapping):
        ((operator, inner),) = condition.items()
        if operator == "not":
            return inner is True
        if operator == "all":
            return any(map(is_never, inner))
        if operator == "equal":
            return not any(references(inner)) and inner[0] != inner[1]
        return operator == "any" and all(map(is_never, inner))
    return condition is False or condition == ""
