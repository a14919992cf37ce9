"""Fan-out: what is done once for each item, who shares budgets with whom, what comes of all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.declaration import Agent, Declaration, Node, RepairLoop, SubGraph
from orchestrator.errors import TaskError
from orchestrator.events import Status
from orchestrator.graph_check import needed
from orchestrator.loop import Outcome
from orchestrator.node_output import NodeStatus, Output, output_of
from orchestrator.steps import Usage

MOST_ITEMS = 1000
# Roles that may ask an engine.
_ASKING = frozenset({"code", "test", "plan", "review", "repair"})


def items_of(name: str, items: Any) -> list[Any]:
    """What a node is done for; nothing for null.

    Raises:
        TaskError: It is no list, or too long.
    """
    if items is None:
        return []
    if not isinstance(items, list):
        raise TaskError(f"`nodes.{name}.for_each` stands for {items!r:.100}", "refer to a list")
    if len(items) > MOST_ITEMS:
        raise TaskError(f"`nodes.{name}.for_each` has {len(items)} items", f"{MOST_ITEMS} at most")
    return items


def asks_engines(node: Node) -> bool:
    """Whether what it does may cost tokens."""
    return isinstance(node, RepairLoop | SubGraph) or (isinstance(node, Agent) and node.role in _ASKING)


def beside(graph: Declaration) -> Mapping[str, frozenset[str]]:
    """By node, the others that may ask engines while it works: neither comes after the other."""
    after: dict[str, set[str]] = {name: set() for name in graph.nodes}
    for name in graph.nodes:
        waiting = [*needed(graph.nodes[name])]
        while waiting:
            if (each := waiting.pop()) not in after[name]:
                after[name].add(each)
                waiting += needed(graph.nodes[each])
    asking = [name for name, node in graph.nodes.items() if asks_engines(node)]
    return {
        name: frozenset(
            each for each in asking if each != name and each not in after[name] and name not in after[each]
        )
        for name in graph.nodes
    }


def together(outputs: Sequence[Output]) -> Output:
    """One output of all items': their changes as one patch, and each as `items`."""
    usage = sum((each.usage for each in outputs), Usage())
    # One that waits for a person is no end, whatever else failed.
    bad = [each for each in outputs if not each.green]
    bad.sort(key=lambda each: each.status is not NodeStatus.WAITING)
    outcomes = [each.outcome for each in outputs if each.outcome is not None]
    outcome = bad[0].outcome if bad else None
    if outcome is None and (clashing := clashes(outcomes)):
        told = f"items change {', '.join(clashing)} in different ways; take one by a `select`"
        outcome = Outcome(status=Status.FAILED, reason="conflict", explanation=told)
    elif outcome is None:
        told = "; ".join(filter(None, (each.explanation for each in outcomes)))
        outcome = Outcome(status=Status.SUCCEEDED, reason="done", explanation=told)
    if outcome.reason != "conflict":
        merged = {path: file for each in outcomes for path, file in each.changes.items()}
        outcome = replace(outcome, changes=merged)
    data = {"items": [each.fields() for each in outputs]}
    cpu_s = sum(each.cpu_s for each in outputs)
    return replace(output_of(outcome, data, usage), items=tuple(outputs), cpu_s=cpu_s)


def clashes(outcomes: Sequence[Outcome]) -> list[str]:
    """Paths that two of them change in different ways."""
    seen: dict[str, Any] = {}
    found = []
    for outcome in outcomes:
        for path, file in outcome.changes.items():
            if seen.setdefault(path, file) != file:
                found.append(path)
    return sorted(set(found))
