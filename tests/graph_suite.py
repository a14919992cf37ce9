"""The graph that fault tests run: every kind of node, and agents that keep a journal outside of the store.

A line of the journal is one `write` with O_APPEND: it stands whatever happens to the process afterwards.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fakes import improvement, repaired, tree
from orchestrator_house import ScriptedFleet

from cluster.graphs import parsed
from cluster.handles import Dispatch
from orchestrator.declaration import Declaration, SubGraph
from orchestrator.errors import SandboxError, TaskError
from orchestrator.graph_check import needed
from orchestrator.task import Task

TREE = tree(a="start", test_a="tests")
PROFILE = {"kind": "agent", "role": "run", "work": "profile"}
INNER = {
    "name": "inner",
    "nodes": {"first": PROFILE, "then": {**PROFILE, "needs": ["first"]}},
    "result": ["then"],
}
NODES: dict[str, Any] = {
    "plan": PROFILE,
    "fix": {
        "kind": "repair_loop", "inputs": {"profile": "$plan.profile"},
        "policy": {"budget": {"attempts": 2}},
    },
    "each": {**PROFILE, "for_each": "$plan.failing", "needs": ["plan"]},
    "flaky": {**PROFILE, "needs": ["plan"], "policy": {"retry": {"attempts": 2, "backoff_s": 0.001}}},
    "closed": {**PROFILE, "needs": ["plan"], "policy": {"on_failure": "continue"}},
    "unwanted": {**PROFILE, "when": "$closed.green"},
    "deeper": {"kind": "graph", "graph": "inner", "needs": ["flaky"]},
    "pick": {
        "kind": "select", "of": ["fix", "closed", "unwanted"], "rule": "best_patch",
        "inputs": {"profile": "$plan.profile"}, "needs": ["each", "deeper"],
    },
    "ann": {"kind": "approval", "message": "Is it right?", "patch_of": "pick"},
    "bob": {"kind": "approval", "message": "Is it safe?", "patch_of": "pick"},
    "check": {"kind": "agent", "role": "run", "work": "certify", "patch_of": "ann", "needs": ["bob"]},
}  # fmt: skip
GRAPH = parsed(
    json.dumps({"name": "suite", "nodes": NODES, "graphs": {"inner": INNER}, "result": ["check"]}),
    "suite.yaml",
)
TASK = Task(id="suite", graph="suite", declaration=json.loads(GRAPH.canonical_json()))


class Journal:
    """Lines that outlive the process that wrote them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, *words: object) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
        finally:
            os.close(descriptor)

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []


class JournaledFleet(ScriptedFleet):
    """Tells the journal what begins and ends; under `flaky/` the first try of all fails, `closed/` all."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.journal = journal

    async def execute(self, dispatch: Dispatch, *, on_dispatched: Callable[..., Any], **hooks: Any) -> Any:
        what = dispatch.dispatch_id.partition("/")[2]

        async def told(replica: str, epoch: int) -> None:
            await on_dispatched(replica, epoch)
            self.journal.add("began", what, epoch)

        if dispatch.step.endswith("/repair"):
            self.answers[dispatch.step] = repaired(improvement("fixed"))
        if dispatch.step.startswith("closed/"):
            self.answers[dispatch.step] = TaskError("this way is closed")
        if dispatch.step.startswith("flaky/"):
            is_first = ["tried", "flaky"] not in self.journal.lines()
            self.journal.add("tried", "flaky")
            self.answers[dispatch.step] = SandboxError("once only") if is_first else None
        try:
            return await super().execute(dispatch, on_dispatched=told, **hooks)
        finally:
            await asyncio.sleep(0)
            self.journal.add("ended", what, dispatch.epoch)


def node_of(step: str) -> str:
    """The path of the node that the step is of."""
    return step.rpartition("/")[0].partition("[")[0]


def before(graph: Declaration = GRAPH, above: str = "") -> dict[str, set[str]]:
    """The paths of nodes that have ended before a node of this path can start, those within graphs too."""
    found: dict[str, set[str]] = {}
    for name, node in graph.nodes.items():
        known = set(needed(node))
        for each in needed(node):
            known |= {path.removeprefix(above) for path in found[f"{above}{each}"]}
        found[f"{above}{name}"] = {f"{above}{each}" for each in known}
        if isinstance(node, SubGraph):
            inner = before(graph.graphs[node.graph], f"{above}{name}/")
            found |= {path: needs | found[f"{above}{name}"] for path, needs in inner.items()}
    whole = set(found)
    return {path: needs | {each for each in whole for need in needs if each.startswith(f"{need}/")}
            for path, needs in found.items()}  # fmt: skip


BEFORE = before()


def run_too_late(began: Iterable[str]) -> list[tuple[str, str]]:
    """Steps that began although one that needs their node's end had begun, with that one."""
    seen: list[str] = []
    found = []
    for step in began:
        found += [(step, each) for each in seen if node_of(step) in BEFORE[node_of(each)]]
        seen.append(step)
    return found
