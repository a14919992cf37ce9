"""Graphs as files: list those that ship, look at one, and say what is wrong with one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve.commands import options
from serve.render import Screen, clean

if TYPE_CHECKING:
    from orchestrator.declaration import Declaration

graph = typer.Typer(
    name="graph",
    help="List, show and validate the graphs that runs go through.",
    no_args_is_help=True,
    add_completion=False,
)

Given = Annotated[
    str, typer.Argument(metavar="GRAPH", help="The name of a graph that ships, or a YAML or JSON file.")
]


@graph.command("list")
def list_graphs(as_json: options.Json = False) -> int:
    """List the graphs that ship with Raysmith."""
    from cluster.graphs import shipped, shipped_names

    screen = Screen(as_json=as_json)
    found = [shipped(name) for name in shipped_names()]
    if as_json:
        screen.object({"graphs": [_told(each) for each in found]})
        return 0
    for each in found:
        screen.line(f"{each.name:20} {each.description}")
    return 0


@graph.command()
def show(given: Given, as_json: options.Json = False) -> int:
    """Show a graph's nodes in an order in which they could run."""
    from cluster.graphs import graph_of

    found = graph_of(given)
    screen = Screen(as_json=as_json)
    if as_json:
        screen.object({**_told(found), "declaration": json.loads(found.canonical_json())})
        return 0
    screen.line(f"{found.name}: {clean(found.description)}")
    screen.line(f"version {found.version}")
    if found.requires:
        screen.line(f"needs a task with {', '.join(found.requires)}")
    for name, each in found.inputs.items():
        how = "required" if each.required else f"default {each.default!r}"
        screen.line(f"input {name} ({each.type}, {how}): {clean(each.description)}")
    for line in _node_lines(found):
        screen.line(line)
    screen.line(f"result: {', else '.join(found.result)}")
    return 0


@graph.command()
def validate(given: Given, as_json: options.Json = False) -> int:
    """Say whether a graph can run; every fault is named by its path."""
    from cluster.graphs import graph_of

    found = graph_of(given)
    screen = Screen(as_json=as_json)
    if as_json:
        screen.object({"valid": True, **_told(found)})
    else:
        screen.line(f"{found.name} can run: {len(found.nodes)} nodes, version {found.version}")
    return 0


def _told(graph: Declaration) -> dict[str, Any]:
    return {
        "name": graph.name,
        "version": graph.version,
        "description": graph.description,
        "requires": list(graph.requires),
        "nodes": list(graph.nodes),
    }


def _node_lines(graph: Declaration) -> list[str]:
    from orchestrator.graph_check import in_order, needed

    lines = []
    for name in in_order(graph):
        node = graph.nodes[name]
        what = " ".join(filter(None, (getattr(node, "role", ""), getattr(node, "work", ""))))
        after = ", ".join(sorted(needed(node)))
        lines.append(
            f"  {name:16} {node.kind}{f' ({what})' if what else ''}{f' after {after}' if after else ''}"
        )
    return lines
