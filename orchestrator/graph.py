"""The graphs that ship, by name: which steps a run of each goes through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orchestrator import loop
from orchestrator.errors import TaskError
from orchestrator.ports import Run
from orchestrator.review import with_review
from orchestrator.story import story


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A named way to execute a task; `needs_*` say what the task has to bring."""

    name: str
    execute: Callable[[Run], Awaitable[loop.Outcome]]
    needs_tree: bool = False
    needs_goal: bool = False
    needs_candidate: bool = False


_GRAPHS = {
    graph.name: graph
    for graph in (
        Graph(name="repair", execute=with_review(loop.repair), needs_tree=True),
        Graph(name="story", execute=with_review(story), needs_goal=True),
        Graph(name="test", execute=loop.test, needs_tree=True),
        Graph(name="verify", execute=loop.verify, needs_tree=True, needs_candidate=True),
    )
}


def graph_named(name: str) -> Graph:
    """The graph called `name`.

    Raises:
        TaskError: There is none.
    """
    if name not in _GRAPHS:
        raise TaskError(f"no graph is called {name!r}", f"choose one of {', '.join(sorted(_GRAPHS))}")
    return _GRAPHS[name]
