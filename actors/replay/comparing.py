"""What of two records has to be equal, and where they first differ. Times are measured, not decided."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.codec import to_json
from orchestrator.steps import Profiled
from orchestrator.verdict import TestRun

# Keys under which times stand; `raced` tells who was quicker.
MEASURED = frozenset({"cpu_s", "wall_s", "duration_s", "raced"})
# What a test run shows beside times and free text.
_SHOWN = (
    *("collected", "complete", "irregular", "exit_code", "end"),
    *("findings", "dropped", "seed", "judge"),
)
_LONGEST = 160


def first_difference(then: Any, now: Any, *, ignore: frozenset[str] = MEASURED, at: str = "") -> str | None:
    """Where two JSON values first differ, in words; None where they are equal but for keys to ignore."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in sorted({*then, *now} - ignore):
            found = first_difference(
                then.get(key), now.get(key), ignore=ignore, at=f"{at}.{key}" if at else str(key)
            )
            if found:
                return found
        return None
    if isinstance(then, list) and isinstance(now, list):
        if len(then) != len(now):
            return f"{at or 'it'} has {len(now)} entries where {len(then)} were recorded"
        pairs = enumerate(zip(then, now, strict=True))
        found_in = (
            first_difference(old, new, ignore=ignore, at=f"{at}[{number}]") for number, (old, new) in pairs
        )
        return next((found for found in found_in if found), None)
    if type(then) is type(now) and then == now:
        return None
    return f"{at or 'it'} is {_short(now)} where {_short(then)} was recorded"


def result_difference(recorded: bytes, now: object, type_: Any, ignore: frozenset[str]) -> str | None:
    """Where a step's result differs from its record."""
    return first_difference(json.loads(recorded), json.loads(to_json(now, type_)), ignore=ignore)


def test_difference(then: TestRun, now: TestRun) -> str | None:
    """Where a test run that was done again shows something else."""
    before, after = then.outcomes, now.outcomes
    for test in dict.fromkeys([*before, *after]):
        if before.get(test) is not after.get(test):
            return f"{test} is {after.get(test, 'missing')} where {before.get(test, 'missing')} was recorded"
    if then.collection_errors or now.collection_errors:
        paths = [[error.path for error in run.collection_errors] for run in (then, now)]
        if paths[0] != paths[1]:
            return f"cannot collect {paths[1]} where {paths[0]} was recorded"
    for name in _SHOWN:
        if getattr(then, name) != getattr(now, name):
            return f"{name} is {_short(getattr(now, name))} where {_short(getattr(then, name))} was recorded"
    return None


def profile_difference(then: Profiled, now: Profiled) -> str | None:
    """Where a profile that was frozen again is another one."""
    old, new = (json.loads(to_json(each.profile)) for each in (then, now))
    for each in (old, new):
        each["protected"] = sorted(each["protected"])
    return first_difference(old, new) or test_difference(then.run, now.run)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
