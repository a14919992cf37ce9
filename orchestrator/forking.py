"""A new run from a past one's step on: which events it inherits, and what may differ in its graph."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.declaration import Declaration
from orchestrator.errors import TaskError
from orchestrator.events import ASIDE, Event, Kind, NewEvent, RunState, fold

# What a run's own life was like, and what it told and cost: not what was worked out in it.
_OWN = ASIDE | {
    *(Kind.RUN_SUBMITTED, Kind.RUN_RESUMED, Kind.RUN_FINISHED),
    *(Kind.CANCEL_REQUESTED, Kind.PAUSE_REQUESTED),
}


def start_of(events: Sequence[Event], start: str) -> int:
    """The number of the event with which the node or step `start` began.

    Args:
        events: All of one run, in order.
        start: A node's path; or a step's name, with `.ATTEMPT` for another than its first.

    Raises:
        TaskError: There is no such node or step, or it did not come to its end.
    """
    state = fold(events)
    if start in state.nodes:
        if state.nodes[start].ended_at is None:
            raise _unfinished(state, start)
        return next(each.seq for each in events if each.step == start and each.type in _OF_NODES)
    name, _, attempt = start.rpartition(".")
    step, number = (
        (name, int(attempt)) if name and attempt.isdecimal() and len(attempt) < 7 else (start, None)
    )
    for event in events:
        if (
            event.type is Kind.STEP_DISPATCHED
            and event.step == step
            and (number is None or event.attempt == number)
        ):
            if state.steps[step, event.attempt].status != "completed":
                raise _unfinished(state, start)
            return event.seq
    known = ", ".join(list(_ended(state))[:20]) or "nothing"
    raise TaskError(
        f"run {state.run_id} has no node or step {start!r:.100}", f"what came to its end: {known}"
    )


_OF_NODES = (Kind.NODE_STARTED, Kind.NODE_ENDED)


def _unfinished(state: RunState, start: str) -> TaskError:
    return TaskError(
        f"{start!r} of run {state.run_id} did not come to its end",
        f"`raysmith resume {state.run_id}` goes on with it",
    )


def _ended(state: RunState) -> dict[str, None]:
    nodes = [name for name, node in state.nodes.items() if node.ended_at is not None]
    steps = [step for (step, _), done in state.steps.items() if done.status == "completed"]
    return dict.fromkeys([*nodes, *steps])


def inherited(events: Iterable[Event]) -> list[NewEvent]:
    """What a new run takes over of `events` of another; their data stays as it is."""
    return [
        NewEvent(
            run_id=event.run_id,
            type=event.type,
            data=event.data,
            step=event.step,
            attempt=event.attempt,
            epoch=event.epoch,
            dispatch_id=event.dispatch_id,
            tenant=event.tenant,
        )
        for event in events
        if event.type not in _OWN
    ]


def check_same_past(old: Declaration, new: Declaration, events: Sequence[Event], seq: int) -> None:
    """Refuse a graph that declares otherwise what has ended before the event `seq`.

    Raises:
        TaskError: It does; the node is named.
    """
    for event in events[: seq - 1]:
        if event.type is not Kind.NODE_ENDED or event.step is None:
            continue
        name = event.step.partition("/")[0]
        if new.nodes.get(name) != old.nodes.get(name):
            raise TaskError(
                f"node {name!r} ended before that step, and the new graph declares it otherwise",
                f"replay from {name!r}, or leave it as it is",
            )


def with_settings(graph: Declaration, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The declaration of `graph` with some of its nodes' policies changed, to be checked anew.

    Args:
        settings: Values by dotted key, `NODE.policy.KEY…`.

    Raises:
        TaskError: A key names no node, or goes on below a plain value.
    """
    values = copy.deepcopy(graph.model_dump(mode="json", by_alias=True))
    for key, value in settings.items():
        name, *path = key.split(".")
        if name not in values["nodes"]:
            raise TaskError(f"`{key}` names no node of {graph.name}", f"nodes: {', '.join(values['nodes'])}")
        at = values["nodes"][name]
        for part in path[:-1]:
            at = at.get(part) if isinstance(at, dict) else None
        if not isinstance(at, dict):
            raise TaskError(f"`{key}` is not a key of a policy", "write NODE.policy.KEY=VALUE")
        at[path[-1]] = value
    return values
