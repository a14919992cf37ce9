"""Random histories: the fold, its steps one by one, and the list of runs never disagree."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from event_log_conformance import fact, submitted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.event_log import EventLog, open_log
from cluster.event_log_memory import MemoryEventLog
from cluster.event_log_projection import RunSummary, summary_of
from cluster.store_settings import StoreSettings
from orchestrator.events import OF_A_NODE, Event, Kind, NewEvent, RunState, Status, apply, fold

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAME = st.sampled_from(["code", "test", "run", "repair"])
COUNT = st.integers(0, 10**9)
NEEDED: dict[Kind, dict[str, st.SearchStrategy[Any]]] = {
    Kind.RUN_SUBMITTED: {
        "task": st.fixed_dictionaries(
            {}, optional={"id": JSON, "graph": JSON, "origin": JSON, "priority": JSON}
        )
    },
    Kind.PATCH_KEPT: {"patch": JSON, "failing": JSON},
    Kind.VERDICT_REACHED: {"verdict": JSON},
    Kind.RUN_FINISHED: {"status": st.sampled_from(list(map(str, Status))), "reason": JSON},
    Kind.EFFECT_INTENDED: {"effect": st.text(), "key": NAME},
    Kind.EFFECT_DONE: {"effect": st.text(), "key": NAME, "outcome": st.text()},
    Kind.ENGINE_CALLED: {
        "engine": st.text(),
        "tokens": st.fixed_dictionaries(dict.fromkeys(("prompt", "completion", "cached"), COUNT)),
        "gpu_s": st.floats(0, 1e6),
        "cost_usd": st.floats(0, 1e6),
        "requests": COUNT,
        "retries": COUNT,
    },
    Kind.NODE_ENDED: {"status": JSON, "artifact": JSON},
    Kind.APPROVAL_ASKED: {"message": JSON},
    Kind.APPROVAL_DECIDED: {"approved": JSON, "by": JSON},
    Kind.PAUSE_REQUESTED: {"by": JSON},
}
SOMETIMES = {"replica": JSON, "result": JSON, "error": JSON, "key": JSON, "life": JSON, "unheard_of": JSON}


@st.composite
def new_events(draw: st.DrawFn) -> NewEvent:
    kind = draw(st.sampled_from(list(Kind)))
    needed = NEEDED.get(kind, {})
    optional = {key: value for key, value in SOMETIMES.items() if key not in needed}
    return NewEvent(
        run_id="r-1",
        type=kind,
        data=draw(st.fixed_dictionaries(needed, optional=optional)),
        step=draw(NAME) if kind.startswith("step_") or kind in OF_A_NODE else draw(st.none() | NAME),
        attempt=draw(st.integers(0, 3)),
        epoch=draw(st.integers(0, 5)),
        dispatch_id=draw(st.none() | NAME),
        tenant=draw(st.sampled_from(["default", "acme"])),
    )


HISTORIES = st.lists(st.lists(new_events(), min_size=1, max_size=6), min_size=1, max_size=6)
numbers = itertools.count()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventLog]:
    with open_log(StoreSettings(synchronous="NORMAL"), tmp_path_factory.mktemp("home")) as log:
        yield log


def one_by_one(events: Sequence[Event]) -> RunState:
    state = RunState(run_id=events[0].run_id, tenant=events[0].tenant)
    for event in events:
        state = apply(state, event)
    return state


@given(HISTORIES)
@settings(max_examples=150, deadline=None)
def test_the_fold_is_the_steps_one_by_one_and_the_row_is_the_fold(history: list[list[NewEvent]]) -> None:
    log = MemoryEventLog()

    for new in history:
        log.append_blocking(new)

    events = log.events("r-1")
    state = fold(events)
    assert one_by_one(events) == state
    row = RunSummary(run_id="r-1", tenant=events[0].tenant)
    for event in events:
        row = row.after(event)
    assert row == summary_of(state) == log.run("r-1")


@given(history=HISTORIES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_database_s_row_is_the_fold(log: EventLog, history: list[list[NewEvent]]) -> None:
    run_id = f"r-{next(numbers)}"

    for new in history:
        log.append_blocking([NewEvent(**{**_fields(each), "run_id": run_id}) for each in new])

    state = log.state(run_id)
    assert log.run(run_id) == summary_of(state)
    assert one_by_one(log.events(run_id)) == state
    assert log.check(run_id).problems == ()


def _fields(event: NewEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in NewEvent.__slots__}


def test_all_rows_are_the_same_when_made_anew(log: EventLog, tmp_path: Path) -> None:
    log.append_blocking([submitted("r-anew")])
    before = log.runs(limit=None)

    log.rebuild_projection()

    assert log.runs(limit=None) == before


def test_folding_takes_time_linear_in_the_events() -> None:
    log = MemoryEventLog()
    for n in range(3000):
        step = NewEvent(run_id="r-1", type=Kind.STEP_DISPATCHED, step="run", attempt=n)
        log.append_blocking([step, fact("r-1", n=n)])
    events = log.events("r-1")

    def cpu_s(part: Sequence[Event]) -> float:
        started = time.process_time()
        fold(part)
        return time.process_time() - started

    small = min(cpu_s(events[:600]) for _ in range(5))
    large = min(cpu_s(events) for _ in range(5))

    assert large < 40 * small
