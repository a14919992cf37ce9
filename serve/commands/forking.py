"""A past run from one of its steps on: `raysmith replay RUN --from STEP`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.errors import TaskError
from orchestrator.events import Event, fold
from serve.commands.door import Door
from serve.commands.past import recall
from serve.commands.running import finish, follow, store_folder

if TYPE_CHECKING:
    from orchestrator.declaration import Declaration

_OF_POLICY = re.compile(r"[a-z][a-z0-9_-]*\.policy\..")


def split_settings(settings: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What `--set` says of nodes, `NODE.policy.KEY=VALUE`, and the settings that are left.

    Raises:
        TaskError: A value cannot be read.
    """
    policies: dict[str, Any] = {}
    others = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if equals and _OF_POLICY.match(key):
            policies[key] = _value(key, value)
        else:
            others.append(setting)
    return policies, others


def _value(key: str, text: str) -> Any:
    import yaml

    from cluster.strict_yaml import NoAliases

    try:
        return yaml.load(text, Loader=NoAliases)  # noqa: S506  # a SafeLoader, stricter
    except yaml.YAMLError as error:
        raise TaskError(f"--set {key}={text!r:.100} cannot be read", "quote the value") from error


def fork(door: Door, run: str, start: str, graph: str | None, policies: Mapping[str, Any]) -> int:
    """Make the new run, show it to its end, and write its folder."""
    from orchestrator.forking import start_of

    state, events = recall(door, run)
    # Before a factory is started for it.
    start_of(events, start)
    declaration = _declaration(door, fold(events).graph_version, graph, policies)
    with door.factory() as factory:
        run_id = factory.fork(state.run_id, start, declaration)
        door.screen.line(f"run {run_id} goes on from {start} of {state.run_id}")
        ended, result = follow(door, factory, run_id)
        written = store_folder(door, factory, ended, result, None)
    return finish(door, written)


def checked_graph(
    door: Door, events: Sequence[Event], start: str | None, graph: str | None, policies: Mapping[str, Any]
) -> Declaration | None:
    """The graph that a run of `events` is replayed by from `start` on; None for its own.

    Raises:
        TaskError: There is no such step, or the graph does not fit.
    """
    from cluster.export import graph_in
    from orchestrator.declaration import declared
    from orchestrator.forking import check_same_past, start_of

    state = fold(events)
    seq = start_of(events, start) if start is not None else 1
    values = _declaration(door, state.graph_version, graph, policies)
    if values is None:
        return None
    other = declared(values, "the changed graph")
    check_same_past(graph_in(state, door.artifacts().get), other, events, seq)
    return other


def _declaration(
    door: Door, version: str | None, graph: str | None, policies: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """The graph of the new run where it is not the old one's own."""
    from cluster.graphs import graph_of, stored
    from orchestrator.declaration import declared
    from orchestrator.forking import with_settings
    from orchestrator.graph_check import checked

    if graph is None and not policies:
        return None
    if graph is None and version is None:
        raise TaskError("the run is from before graphs were kept", "give --graph too")
    base = graph_of(graph) if graph is not None else stored(door.artifacts().get(version or ""))
    values = with_settings(base, policies)
    checked(declared(values, "the changed graph"), "the changed graph")
    return json.loads(json.dumps(values)) if values else None
