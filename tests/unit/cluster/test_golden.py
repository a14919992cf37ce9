"""Logs that earlier releases wrote load for ever, and damage to one is told with its place."""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cluster.event_log_chain import from_lines, to_line
from cluster.event_log_projection import summary_of
from orchestrator.errors import StoreDamaged, StoreError
from orchestrator.events import VERSIONS, RunState, fold

GOLDEN = sorted((Path(__file__).parents[2] / "golden").glob("events-v*.jsonl"))


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def shown(state: RunState) -> dict[str, Any]:
    """The state in the words of the golden files."""
    fields = {name: getattr(state, name) for name in RunState.__slots__}
    fields["steps"] = [
        {name: getattr(step, name) for name in type(step).__slots__} for step in state.steps.values()
    ]
    return json.loads(json.dumps(fields, default=asdict))  # type: ignore[no-any-return]


def known_then(now: Any, then: Any) -> Any:
    """`now` without the fields that later releases added."""
    if isinstance(then, dict) and isinstance(now, dict):
        return {key: known_then(value, then[key]) for key, value in now.items() if key in then}
    if isinstance(then, list) and isinstance(now, list) and len(now) == len(then):
        return [known_then(*pair) for pair in zip(now, then, strict=True)]
    return now


def test_there_are_golden_files_with_every_type_and_version() -> None:
    seen = {(event.type, event.version) for path in GOLDEN for event in from_lines(lines_of(path), path.name)}

    assert seen == {(kind, version) for kind, last in VERSIONS.items() for version in range(1, last + 1)}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_log_folds_to_what_it_folded_to(path: Path) -> None:
    expected = json.loads(path.with_suffix(".state.json").read_text())

    state = fold(from_lines(lines_of(path), path.name))

    assert known_then(shown(state), expected) == expected
    assert summary_of(state).last_seq == len(lines_of(path))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_log_is_written_again_byte_for_byte(path: Path) -> None:
    lines = lines_of(path)

    assert [to_line(event) for event in from_lines(lines, path.name)] == lines


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_any_changed_character_is_found_in_its_line(path: Path) -> None:
    chance = random.Random(7)
    for _ in range(200):
        lines = lines_of(path)
        number = chance.randrange(len(lines))
        place = chance.randrange(len(lines[number]))
        new = chr((ord(lines[number][place]) + chance.randrange(1, 90) - 32) % 95 + 32)
        changed = lines[number][:place] + new + lines[number][place + 1 :]
        if changed == lines[number] or _same_json(changed, lines[number]):
            continue
        lines[number] = changed

        with pytest.raises(StoreError, match=re.escape(f"{path.name} line {number + 1}: ")):
            list(from_lines(lines, path.name))


def _same_json(one: str, other: str) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        (lambda lines: [*lines[:2], *lines[3:]], "line 3: event 4 .* comes after 2"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1: event 2 .* comes after 0"),
        (lambda lines: [*lines, lines[-1]], r"line \d+: event \d+ .* comes after"),
        (lambda lines: [*lines[:4], lines[4][:50], *lines[5:]], "line 5: is not an event"),
        (lambda lines: [*lines[:4], "", *lines[4:]], "line 5: is not an event"),
        (lambda lines: [lines[0].replace('"seq":1', '"seq":1,"x":1'), *lines[1:]], "line 1: is not an event"),
    ],
)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_damaged_copy_is_refused_with_its_place(path: Path, damage: Any, place: str) -> None:
    with pytest.raises(StoreDamaged, match=f"{re.escape(path.name)} {place}"):
        list(from_lines(damage(lines_of(path)), path.name))
