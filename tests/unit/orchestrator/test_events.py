from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.errors import StoreDamaged, StoreError
from orchestrator.events import VERSIONS, Event, Kind, RunState, Status, apply, canonical, chain_hash, fold


def history(*facts: tuple[Kind, Mapping[str, Any]], **envelope: Any) -> list[Event]:
    """Events as a log would hold them, `step` and `attempt` taken from the data where given."""
    events: list[Event] = []
    for seq, (kind, data) in enumerate(facts, 1):
        fields: dict[str, Any] = {
            "run_id": "r-1",
            "seq": seq,
            "type": kind,
            "version": 1,
            "at": f"2026-01-01T00:00:{seq:02}.000000Z",
            "step": data.get("step"),
            "attempt": data.get("attempt", 0),
            "epoch": data.get("epoch", 0),
            "dispatch_id": data.get("dispatch_id"),
            "tenant": "default",
            "prev_hash": events[-1].hash if events else "",
            **envelope,
        }
        events.append(Event(**fields, hash=chain_hash(**fields, data=canonical(data)), data=data))
    return events


SUBMITTED = (Kind.RUN_SUBMITTED, {"task": {"id": "t"}, "key": "k", "life": "l-1"})


def test_every_type_has_a_version() -> None:
    assert set(VERSIONS) == set(Kind)


def test_a_submitted_run_waits() -> None:
    state = fold(history(SUBMITTED))

    assert (state.status, state.task, state.key, state.life) == (Status.PENDING, {"id": "t"}, "k", "l-1")
    assert state.submitted_at == state.updated_at == "2026-01-01T00:00:01.000000Z"


def test_steps_are_told_apart_by_attempt() -> None:
    state = fold(
        history(
            SUBMITTED,
            (Kind.RUN_STARTED, {}),
            (Kind.STEP_DISPATCHED, {"step": "run", "epoch": 1, "dispatch_id": "d-1", "replica": "run-0"}),
            (Kind.STEP_FAILED, {"step": "run", "error": {"code": "sandbox"}}),
            (Kind.ATTEMPT_STARTED, {"attempt": 1}),
            (Kind.STEP_DISPATCHED, {"step": "run", "attempt": 1, "epoch": 1, "dispatch_id": "d-2"}),
            (Kind.STEP_PROGRESS, {"step": "run", "attempt": 1, "n": 1}),
            (Kind.STEP_REQUEUED, {"step": "run", "attempt": 1, "epoch": 2}),
            (Kind.STEP_DISPATCHED, {"step": "run", "attempt": 1, "epoch": 2, "dispatch_id": "d-2"}),
            (Kind.STEP_COMPLETED, {"step": "run", "attempt": 1, "result": "abc"}),
        )
    )

    first, second = state.steps["run", 0], state.steps["run", 1]
    assert (first.status, first.error, first.replica, first.progress) == (
        "failed",
        {"code": "sandbox"},
        "run-0",
        (),
    )
    assert (second.status, second.result, second.epoch, second.dispatch_id) == ("completed", "abc", 2, "d-2")
    assert [dict(each)["n"] for each in second.progress] == [1]
    assert (state.attempt, state.status, state.last_seq) == (1, Status.RUNNING, 10)


def test_a_resumed_run_is_unfinished_again() -> None:
    end = {"status": "cancelled", "reason": "cancelled_by_user", "wall_s": 3}
    facts = [SUBMITTED, (Kind.CANCEL_REQUESTED, {}), (Kind.RUN_FINISHED, end)]
    ended = fold(history(*facts))

    resumed = fold(history(*facts, (Kind.RUN_RESUMED, {"life": "l-2"})))

    assert (ended.status, ended.reason, ended.report, ended.cancel_requested) == (
        Status.CANCELLED,
        "cancelled_by_user",
        end,
        True,
    )
    assert ended.finished_at == "2026-01-01T00:00:03.000000Z"
    assert (resumed.status, resumed.reason, resumed.report, resumed.cancel_requested) == (
        Status.RUNNING,
        None,
        {},
        False,
    )
    assert (resumed.finished_at, resumed.resumed, resumed.life) == (None, 1, "l-2")


def test_applying_an_event_leaves_the_state_before_it_alone() -> None:
    events = history(SUBMITTED, (Kind.STEP_PROGRESS, {"step": "run"}), (Kind.STEP_PROGRESS, {"step": "run"}))
    before = fold(events[:2])
    copy = replace(before, steps=dict(before.steps))

    after = apply(before, events[2])

    assert before == copy
    assert len(after.steps["run", 0].progress) == 2


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda events: events[:1] + events[2:], id="gap"),
        pytest.param(lambda events: [events[0], events[0], *events[1:]], id="twice"),
        pytest.param(lambda events: [events[0], events[2], events[1]], id="order"),
        pytest.param(lambda events: events[1:], id="no start"),
        pytest.param(lambda events: [events[0], replace(events[1], prev_hash="x"), events[2]], id="chain"),
        pytest.param(lambda events: [*events[:2], replace(events[2], run_id="r-2")], id="other run"),
        pytest.param(lambda _: [], id="nothing"),
    ],
)
def test_a_broken_run_is_refused(break_it: Any) -> None:
    events = history(SUBMITTED, (Kind.RUN_STARTED, {}), (Kind.ATTEMPT_STARTED, {}))

    with pytest.raises(StoreDamaged):
        fold(break_it(events))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"type": "run_teleported"}, "'run_teleported' version 1"), ({"version": 2}, "'run_started' version 2")],
)
def test_what_only_a_newer_raysmith_knows_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    events = history(SUBMITTED, (Kind.RUN_STARTED, {}))

    with pytest.raises(StoreError, match=f"event 2 of run r-1 has type {named}.*upgrade"):
        fold([events[0], replace(events[1], **change)])


@pytest.mark.parametrize(
    "bad",
    [
        (Kind.RUN_SUBMITTED, {}),
        (Kind.RUN_FINISHED, {"status": "won", "reason": "x"}),
        (Kind.STEP_COMPLETED, {}),
        (Kind.VERDICT_REACHED, {}),
    ],
)
def test_data_that_a_type_cannot_have_is_damage(bad: tuple[Kind, dict[str, Any]]) -> None:
    with pytest.raises(StoreDamaged, match="event 2 of run r-1 has data that no"):
        fold(history(SUBMITTED, bad))


def test_canonical_text_does_not_depend_on_order_or_encoding() -> None:
    assert canonical({"b": 1, "a": "é\ud800"}) == canonical({"a": "é\ud800", "b": 1})
    assert canonical({"a": "é"}) == '{"a":"\\u00e9"}'


def test_the_hash_changes_with_every_field() -> None:
    fields: dict[str, Any] = {
        "run_id": "r",
        "seq": 1,
        "type": "run_started",
        "version": 1,
        "at": "now",
        "step": None,
        "attempt": 0,
        "epoch": 0,
        "dispatch_id": None,
        "tenant": "default",
        "prev_hash": "",
        "data": "{}",
    }
    hashes = {chain_hash(**fields)}
    for name, value in fields.items():
        hashes.add(chain_hash(**{**fields, name: value + 1 if isinstance(value, int) else f"{value}x"}))

    assert len(hashes) == len(fields) + 1


def test_an_empty_state_is_pending() -> None:
    assert RunState(run_id="r").status is Status.PENDING
    assert [status for status in Status if not status.is_finished] == [Status.PENDING, Status.RUNNING]
