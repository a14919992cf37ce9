"""What a run begins with: its graph, when the task brings what that needs, and its first events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cluster.artifacts import ArtifactStore
from cluster.graphs import shipped
from cluster.live_run import task_to_json
from orchestrator.declaration import Declaration, declared
from orchestrator.errors import TaskError
from orchestrator.events import Kind, NewEvent, RunState
from orchestrator.graph_check import checked, inputs_of
from orchestrator.task import Task, new_run_id
from orchestrator.tree import Tree


def graph_for(task: Task, tree: Tree | None, candidate: Tree | None) -> Declaration:
    """The task's graph.

    Raises:
        TaskError: The graph is none, or needs what the task does not bring.
    """
    if task.declaration is not None:
        source = f"graph {task.graph!r}"
        graph = checked(declared(task.declaration, source), source)
    else:
        graph = shipped(task.graph)
    if graph.needs("folder") and tree is None:
        raise TaskError(f"graph {graph.name!r} needs a folder", "give --path DIR")
    if graph.needs("goal") and not task.goal:
        raise TaskError(f"graph {graph.name!r} needs a goal in words", "say what to build")
    if graph.needs("candidate") and candidate is None:
        raise TaskError(f"graph {graph.name!r} needs a candidate folder", "give BASE and CANDIDATE")
    inputs_of(graph, task.inputs)
    return graph


async def submission(
    task: Task,
    graph: Declaration,
    tree: Tree | None,
    candidate: Tree | None,
    artifacts: ArtifactStore,
    **known_by: Any,
) -> NewEvent:
    """The first event of a new run, its contents stored; `known_by` goes into its data."""
    digest = await asyncio.to_thread(artifacts.save_tree, tree or Tree())
    inputs = dict(task.inputs)
    if candidate is not None:
        inputs["candidate"] = await asyncio.to_thread(artifacts.save_tree, candidate)
    # A running run keeps its graph, whatever ships later under its name.
    version = await asyncio.to_thread(artifacts.put, graph.canonical_json())
    task = replace(task, graph=graph.name, tree=digest, inputs=inputs, declaration=None)
    data = {"task": task_to_json(task), "graph_version": version, **known_by}
    return NewEvent(run_id=new_run_id(), type=Kind.RUN_SUBMITTED, data=data, tenant=task.tenant)


async def branch(
    parent: RunState,
    graph: Declaration,
    events: Sequence[NewEvent],
    artifacts: ArtifactStore,
    *,
    life: str,
    key: str | None,
    **place: Any,
) -> list[NewEvent]:
    """The first events of a new run that goes on from `parent`, at `place`; it inherits `events`."""
    version = await asyncio.to_thread(artifacts.put, graph.canonical_json())
    run_id = new_run_id()
    data = {
        "task": {**parent.task, "graph": graph.name},
        "graph_version": version,
        "key": key,
        "life": life,
        "parent": {"run": parent.run_id, **place},
    }
    first = NewEvent(run_id=run_id, type=Kind.RUN_SUBMITTED, data=data, tenant=parent.tenant)
    return [first, *(replace(event, run_id=run_id) for event in events)]
