"""One failed node done anew: what a new run inherits of the old one is all that does not follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.declaration import Declaration, SubGraph
from orchestrator.errors import TaskError
from orchestrator.events import OF_A_NODE, Event, Kind, NodeState, RunState, Status
from orchestrator.graph_check import in_order, needed
from orchestrator.pausing import is_paused


def kept_by_retry(events: Sequence[Event], state: RunState, graph: Declaration, node: str) -> list[Event]:
    """The events of a run that stay when its `node` is done anew.

    Gone are those of the node and of every node that needs it. A graph without node events is cut off
    where the step of that name first began.

    Args:
        node: A path, such as `fixers/python`; with `[NUMBER]` behind it one item of a fan-out.

    Raises:
        TaskError: The run has not ended, or there is no such node or it did not fail.
    """
    if not state.status.is_finished or is_paused(state):
        raise TaskError(
            f"run {state.run_id} has not ended ({state.status}{': paused' if is_paused(state) else ''})",
            f"`raysmith resume {state.run_id}` goes on with it",
        )
    if not graph.checkpoints:
        return list(events[: _first(events, state, graph, node) - 1])
    gone = _gone(events, state, graph, node)
    _check_failed(state, node)
    return [event for event in events if not gone.holds(event)]


@dataclass(kw_only=True)
class _Gone:
    """Attributes: `nodes` go with all that is theirs, of `ends` only the end; `plain_from` is the number of
    the first event that goes of those that name no node."""

    nodes: set[str] = field(default_factory=set)
    ends: set[str] = field(default_factory=set)
    plain_from: int | None = None

    def holds(self, event: Event) -> bool:
        if event.type is Kind.NODE_ENDED and event.step in self.ends:
            return True
        owner = event.step or event.data.get("node")
        if owner is None or ("/" not in owner and event.type not in OF_A_NODE and event.step is not None):
            return self.plain_from is not None and event.seq >= self.plain_from
        return any(owner == each or owner.startswith((f"{each}/", f"{each}[")) for each in self.nodes)


def _gone(events: Sequence[Event], state: RunState, graph: Declaration, path: str) -> _Gone:
    gone, above = _Gone(), ""
    parts = path.split("/")
    for number, part in enumerate(parts):
        name, bracket, _ = part.partition("[")
        node = graph.nodes.get(name)
        if node is None:
            raise _unknown(state, path)
        after = _dependents(graph, name)
        gone.nodes |= {above + each for each in after}
        is_last = number == len(parts) - 1
        if is_last:
            gone.nodes.add(above + part)
            if any(graph.nodes[each].plain_steps for each in {name, *after}):
                gone.plain_from = _begun(events, above + name)
        if not is_last or bracket:
            gone.ends.add(above + name)
        if not is_last:
            if not isinstance(node, SubGraph):
                raise _unknown(state, path)
            graph, above = graph.graphs[node.graph], f"{above}{part}/"
    return gone


def _begun(events: Sequence[Event], node: str) -> int:
    return next((each.seq for each in events if each.type is Kind.NODE_STARTED and each.step == node), 0)


def _dependents(graph: Declaration, name: str) -> set[str]:
    """The nodes that need `name`, also through others."""
    found: set[str] = set()
    for each in in_order(graph):
        if needed(graph.nodes[each]) & (found | {name}):
            found.add(each)
    return found


def _check_failed(state: RunState, path: str) -> None:
    known = state.nodes.get(path.partition("[")[0] if path.endswith("]") else path)
    if known is None:
        raise _unknown(state, path)
    if known.ended_at is not None and known.status != "failed":
        raise TaskError(
            f"node {path!r} of run {state.run_id} did not fail: {known.status}",
            f"`raysmith replay {state.run_id} --from {path}` does it again, and all that came after it",
        )


def _first(events: Sequence[Event], state: RunState, graph: Declaration, node: str) -> int:
    """The number of the event with which the step began that `node` names in a graph without node events."""
    if state.status is Status.SUCCEEDED:
        raise TaskError(
            f"run {state.run_id} succeeded; no node of it failed",
            f"`raysmith replay {state.run_id} --from STEP` goes on from one of its steps",
        )
    dispatched = [event for event in events if event.type is Kind.STEP_DISPATCHED]
    for event in dispatched:
        if event.step == node:
            return event.seq
    if node == in_order(graph)[0]:
        return dispatched[0].seq if dispatched else len(events) + 1
    known = ", ".join(dict.fromkeys(str(event.step) for event in dispatched)) or "nothing"
    raise TaskError(f"run {state.run_id} has no node or step {node!r:.100}", f"what began: {known}")


def _unknown(state: RunState, path: str) -> TaskError:
    bad = [name for name, node in state.nodes.items() if _is_bad(node)]
    return TaskError(
        f"run {state.run_id} has no node {path!r:.100} that began",
        f"nodes that failed or were cut off: {', '.join(bad) or 'none'}",
    )


def _is_bad(node: NodeState) -> bool:
    return node.ended_at is None or node.status == "failed"
