"""What is wrong with a declared graph, said before anything runs; every fault with its node's path."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from orchestrator.declaration import (
    MOST_NODES,
    Agent,
    Approval,
    Declaration,
    Input,
    Node,
    NodeBudget,
    RepairLoop,
    Select,
    SubGraph,
)
from orchestrator.errors import TaskError
from orchestrator.graph_values import INPUTS, ITEM, TASK, Reference, condition_fault, is_never, references
from orchestrator.graph_works import COMMON, REPAIR_LOOP, SELECT, TASK_FIELDS, WORKS, Work

DEEPEST = 4


def checked(graph: Declaration, source: str) -> Declaration:
    """`graph` when it can run.

    Raises:
        TaskError: It cannot; every fault is named by its path.
    """
    if found := faults(graph):
        more = f"; and {len(found) - 10} more" if len(found) > 10 else ""
        raise TaskError(
            f"{source}: {'; '.join(found[:10])}{more}",
            "mend the paths that are named; `raysmith graph validate FILE` looks again",
        )
    return graph


def faults(graph: Declaration) -> list[str]:
    """Every fault of `graph` and the graphs in it, in words; none where it can run."""
    found = list(_faults(graph, "", 1))
    if not found and (size := _size(graph)) > MOST_NODES:
        found.append(f"`nodes` come to {size} with those of its sub-graphs; {MOST_NODES} at most")
    return found


def needed(node: Node) -> set[str]:
    """The nodes that have to end before `node` can start."""
    found = {each.root for each in _references(node)} - {INPUTS, TASK, ITEM}
    if isinstance(node, Select):
        found |= set(node.of)
    if on := getattr(node, "patch_of", None):
        found.add(on)
    return found | set(node.needs)


def valued(node: Node) -> set[str]:
    """The nodes whose values `node` cannot do without: it is skipped with them."""
    found = {each.root for value in _values(node) for each in references(value)} - {INPUTS, TASK, ITEM}
    if on := getattr(node, "patch_of", None):
        found.add(on)
    return found


def in_order(graph: Declaration) -> tuple[str, ...]:
    """The nodes of a checked graph, each behind those it needs."""
    return tuple(TopologicalSorter({name: needed(node) for name, node in graph.nodes.items()}).static_order())


def _values(node: Node) -> Iterator[Any]:
    yield getattr(node, "inputs", {})
    yield getattr(node, "for_each", None)
    if (model := node.policy.model) is not None and model.startswith("$"):
        yield model


def _references(node: Node) -> Iterator[Reference]:
    yield from references(node.when)
    for value in _values(node):
        yield from references(value)


def _faults(graph: Declaration, above: str, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        yield f"`{above}graphs` lie deeper than {DEEPEST}"
        return
    for name, given in graph.inputs.items():
        yield from (f"`{above}inputs.{name}{fault}" for fault in _default_faults(given))
    for name, node in graph.nodes.items():
        yield from (f"`{above}nodes.{name}{fault}" for fault in _node_faults(graph, name, node))
    for each in dict.fromkeys(graph.result):
        if graph.result.count(each) > 1:
            yield f"`{above}result` names {each!r} twice"
        if each not in graph.nodes:
            yield f"`{above}result` names {each!r}{_meant(each, graph.nodes)}"
    yield from (f"`{above}{fault}" for fault in _shape_faults(graph))
    yield from (f"`{above}{fault}" for fault in _budget_faults(graph))
    for name, inner in graph.graphs.items():
        yield from _faults(inner, f"{above}graphs.{name}.", depth + 1)


def _default_faults(each: Input) -> Iterator[str]:
    if each.default is None:
        return
    try:
        value = _typed("", each.type, each.default)
    except TaskError:
        yield f".default` is {each.default!r:.100}: it has to be a {each.type}"
        return
    if each.choices and value not in each.choices:
        yield f".default` is {value!r:.100}: it may be {', '.join(each.choices)}"


def _node_faults(graph: Declaration, name: str, node: Node) -> Iterator[str]:
    for field in ("needs", "of"):
        for each in dict.fromkeys(getattr(node, field, ())):
            if each not in graph.nodes:
                yield f".{field}` names {each!r}{_meant(each, graph.nodes)}"
            elif getattr(node, field).count(each) > 1:
                yield f".{field}` names {each!r} twice"
            elif each == name:
                yield f".{field}` names the node itself"
    on = getattr(node, "patch_of", None)
    if on is not None and on not in graph.nodes:
        yield f".patch_of` names {on!r}{_meant(on, graph.nodes)}"
    if fault := condition_fault(node.when):
        yield f".when` {fault}"
    items = getattr(node, "for_each", None)
    if items is not None and not isinstance(items, list | tuple) and not any(references(items)):
        yield f".for_each` is {items!r:.100}: it has to be a list, or refer to one"
    if node.plain_steps and getattr(node, "for_each", None) is not None:
        yield ".plain_steps` is set beside `for_each`; the steps of its items would get mixed up"
    yield from _reference_faults(graph, node)
    yield from _work_faults(graph, node)
    if node.policy.on_failure == "continue" and not graph.checkpoints:
        yield ".policy.on_failure` is `continue`, which needs `checkpoints`: a crash would try it again"


def _reference_faults(graph: Declaration, node: Node) -> Iterator[str]:
    for each in _references(node):
        if each.root == ITEM:
            if getattr(node, "for_each", None) is None:
                yield f"` refers to `{each}` and has no `for_each`"
        elif each.root == INPUTS:
            if not each.path or each.path[0] not in graph.inputs:
                yield f"` refers to `{each}`, which `inputs` does not declare"
        elif each.root == TASK:
            if not each.path or each.path[0] not in TASK_FIELDS:
                yield f"` refers to `{each}`; a task has {', '.join(TASK_FIELDS)}"
        elif each.root not in graph.nodes:
            yield f"` refers to `{each}`{_meant(each.root, graph.nodes)}"
        elif each.path and (known := given_by(graph.nodes[each.root], graph)) and each.path[0] not in known:
            yield f"` refers to `{each}`, and {each.root} gives {', '.join(known)}"


def given_by(node: Node, graph: Declaration) -> tuple[str, ...]:
    """The fields of the output of a node of `graph`; empty where its own declaration is wrong."""
    if getattr(node, "for_each", None) is not None:
        return (*COMMON, "items")
    if isinstance(node, SubGraph):
        inner = graph.graphs.get(node.graph)
        results = [inner.nodes[name] for name in inner.result if name in inner.nodes] if inner else []
        fields = [name for each in results if inner for name in given_by(each, inner)]
        return tuple(dict.fromkeys([*COMMON, *fields])) if results else ()
    if isinstance(node, Agent):
        works = WORKS.get(node.role, {})
        work = works.get(node.work or next(iter(works), ""))
        return (*COMMON, *work.gives) if work is not None else ()
    if isinstance(node, Approval):
        return (*COMMON, "by", "why")
    return (*COMMON, *(REPAIR_LOOP if isinstance(node, RepairLoop) else SELECT).gives)


def _work_faults(graph: Declaration, node: Node) -> Iterator[str]:
    if isinstance(node, SubGraph):
        yield from _sub_graph_faults(graph, node)
        return
    if isinstance(node, Approval):
        return
    if isinstance(node, RepairLoop | Select):
        yield from _input_faults(node.inputs, REPAIR_LOOP if isinstance(node, RepairLoop) else SELECT)
        return
    works = WORKS.get(node.role)
    if works is None:
        yield f".role` is {node.role!r}{_meant(node.role, WORKS, 'role')}"
        return
    work = works.get(node.work or next(iter(works)))
    if work is None:
        yield f".work` is {node.work!r}{_meant(node.work or '', works, 'work')} of role {node.role}"
        return
    if work.needs_patch and node.patch_of is None:
        yield ".patch_of` is missing: it works on another node's patch"
    yield from _input_faults(node.inputs, work)


# What inputs that name steps or hold texts have to be, where they are no references.
_TYPES: Mapping[str, type] = {"profile": str, "profiles": list, "fail_on": str, "part": str, "calls": list}


def _input_faults(inputs: Mapping[str, Any], work: Work) -> Iterator[str]:
    for name, value in inputs.items():
        wanted = _TYPES.get(name)
        if wanted is not None and value is not None and not isinstance(value, (wanted, str)):
            yield f".inputs.{name}` is {value!r:.100}: it has to be a {wanted.__name__}, or refer to one"
    for name in inputs:
        if name not in work.takes:
            known = f"it takes {', '.join(work.takes)}" if work.takes else "it takes none"
            yield f".inputs.{name}` is not known; {known}"
    for name in work.required:
        if name not in inputs:
            yield f".inputs.{name}` is missing"


def _sub_graph_faults(graph: Declaration, node: SubGraph) -> Iterator[str]:
    inner = graph.graphs.get(node.graph)
    if inner is None:
        yield f".graph` is {node.graph!r}{_meant(node.graph, graph.graphs, 'graph')}"
        return
    for name in node.inputs:
        if name not in inner.inputs:
            yield f".inputs.{name}` is not an input of {node.graph}{_meant(name, inner.inputs, 'input')}"
    for name, each in inner.inputs.items():
        if each.required and name not in node.inputs:
            yield f".inputs.{name}` is missing"


def _shape_faults(graph: Declaration) -> Iterator[str]:
    known = {name: needed(node) & graph.nodes.keys() - {name} for name, node in graph.nodes.items()}
    try:
        tuple(TopologicalSorter(known).static_order())
    except CycleError as error:
        # The sorter names each before one that needs it.
        circle = error.args[1][::-1]
        yield f"nodes.{circle[0]}` needs itself: {' needs '.join(circle)}"
        return
    for name, node in graph.nodes.items():
        if not condition_fault(node.when) and is_never(node.when):
            yield f"nodes.{name}` is never reached: its `when` cannot hold"
    leads = _ancestors(known, [each for each in graph.result if each in graph.nodes])
    for name in graph.nodes:
        if name not in leads:
            yield f"nodes.{name}` is unreachable: nothing leads from it to the result"
    plain = [name for name, node in graph.nodes.items() if node.plain_steps]
    if len(plain) > 1 and graph.checkpoints:
        yield f"nodes.{plain[1]}.plain_steps` is set on {plain[0]} too; their steps would get mixed up"


def _ancestors(known: Mapping[str, set[str]], names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += known[name]
    return found


_SUMMED = ("tokens", "gpu_s", "cost_usd", "search_cpu_s")


def _budget_faults(graph: Declaration) -> Iterator[str]:
    whole = graph.budget
    for name in _SUMMED:
        most = getattr(whole, name)
        shares = {each: _share(node, name) for each, node in graph.nodes.items()}
        total = sum(share for share in shares.values() if share)
        if most is not None and total > most:
            told = " + ".join(f"{each} {share:g}" for each, share in shares.items() if share)
            yield f"budget.{name}` is {most:g}, and its nodes may use {total:g} ({told})"
    for each, node in graph.nodes.items():
        budget = node.policy.budget
        for name in ("attempts", "wall_s"):
            most, asked = getattr(whole, name), getattr(budget, name)
            if most is not None and asked is not None and asked > most:
                yield f"nodes.{each}.policy.budget.{name}` is {asked:g}, over the graph's {most:g}"
        if isinstance(node, RepairLoop) and budget.attempts and (node.max_attempts or 0) > budget.attempts:
            yield (f"nodes.{each}.max_attempts` is {node.max_attempts}, over its budget's {budget.attempts}")
        if isinstance(node, SubGraph) and node.graph in graph.graphs:
            yield from _inner_budget_faults(each, budget, graph.graphs[node.graph].budget)
    yield from _path_faults(graph)


def _share(node: Node, name: str) -> float:
    return float(getattr(node.policy.budget, name) or 0) * _tries(node)


def _tries(node: Node) -> int:
    return node.policy.retry.attempts


def _inner_budget_faults(name: str, outer: NodeBudget, inner: NodeBudget) -> Iterator[str]:
    for field in NodeBudget.model_fields:
        most, asked = getattr(outer, field), getattr(inner, field)
        if most is not None and asked is not None and asked > most:
            yield f"nodes.{name}.policy.budget.{field}` is {most:g}, and its graph's own is {asked:g}"


def _path_faults(graph: Declaration) -> Iterator[str]:
    """Nodes one after the other may not have more wall time together than the graph."""
    if graph.budget.wall_s is None:
        return
    known = {name: needed(node) & graph.nodes.keys() - {name} for name, node in graph.nodes.items()}
    try:
        order = tuple(TopologicalSorter(known).static_order())
    except CycleError:
        return
    ends: dict[str, float] = {}
    for name in order:
        own = graph.nodes[name].policy.budget.wall_s or 0.0
        ends[name] = own + max((ends[each] for each in known[name]), default=0.0)
    longest = max(ends, key=lambda name: ends[name])
    if ends[longest] > graph.budget.wall_s:
        yield (
            f"budget.wall_s` is {graph.budget.wall_s:g}, and the way to {longest} may take {ends[longest]:g}"
        )


def inputs_of(graph: Declaration, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `$inputs` stands for in a task that brings `given`: each as its type, defaults filled in.

    Raises:
        TaskError: One is missing or of another type.
    """
    values = {}
    for name, each in graph.inputs.items():
        if given.get(name) is not None:
            values[name] = value = _typed(name, each.type, given[name])
            if each.choices and value not in each.choices:
                raise TaskError(f"input {name!r} is {value!r:.100}", f"it may be {', '.join(each.choices)}")
        elif each.required:
            raise TaskError(f"graph {graph.name!r} needs the input {name!r}", f"give --input {name}=VALUE")
        else:
            values[name] = each.default
    return values


_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")


def _typed(name: str, kind: str, value: Any) -> Any:
    """A value as its type; the command line knows texts only."""
    if kind == "text" and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if kind == "flag":
        value = _TRUTHS.get(value.lower(), value) if isinstance(value, str) else value
        if isinstance(value, bool):
            return value
    if kind == "number":
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = float(value) if "." in value else int(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    raise TaskError(f"input {name!r} is {value!r:.100}", f"it has to be a {kind}")


def _size(graph: Declaration) -> int:
    inner = (graph.graphs[node.graph] for node in graph.nodes.values() if isinstance(node, SubGraph))
    return len(graph.nodes) + sum(_size(each) for each in inner)


def _meant(name: str, known: Iterable[str], what: str = "node") -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f", and there is no such {what}; did you mean {close[0]!r}"
    return f", and there is no such {what}; there are {', '.join(names) or 'none'}"
