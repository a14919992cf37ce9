"""The commands that do work on a folder or a goal: repair, test, verify, run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.errors import TaskError
from orchestrator.tree import File, Tree
from serve.commands import options
from serve.commands.door import Door, open_door
from serve.commands.running import Written, carry_out, finish, store_folder
from serve.tasks import check_model, need_goal_and_model, take, task_for

if TYPE_CHECKING:
    from orchestrator.task import Budget

Folder = Annotated[Path, typer.Argument(metavar="PATH", help="A folder or git work tree with pytest tests.")]


def repair(
    path: Folder,
    tests: options.Tests = None,
    protect: options.Protect = None,
    model: options.Model = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write the patch into PATH; otherwise PATH is never modified.")
    ] = False,
    budget_s: options.BudgetS = None,
    attempts: options.Attempts = None,
    python: options.Python = None,
    out: options.Out = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Make the failing tests of PATH pass, without touching tests."""
    door = open_door(
        as_json=as_json,
        verbose=verbose,
        file=config,
        settings=settings,
        model=model,
        budget__wall_s=budget_s,
        budget__attempts=attempts,
    )
    check_model(door.config.model)
    tree = take(door.config, path, tests, door.note)
    task = task_for(door.config, path, graph="repair", tests=tests, protect=protect, python=python)
    defaults(door)
    with door.factory() as factory:
        state, result = carry_out(door, factory, task, tree)
        written = store_folder(door, factory, state, result, out)
    applied = _apply(path, tree, written) if apply else None
    return finish(door, written, path=path, applied=applied)


def test(
    path: Folder,
    tests: options.Tests = None,
    protect: options.Protect = None,
    budget_s: options.BudgetS = None,
    python: options.Python = None,
    out: options.Out = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Run the tests of PATH in the sandbox and say what they show."""
    door = open_door(
        as_json=as_json, verbose=verbose, file=config, settings=settings, budget__wall_s=budget_s
    )
    tree = take(door.config, path, tests, door.note)
    task = task_for(door.config, path, graph="test", tests=tests, protect=protect, python=python)
    defaults(door)
    with door.factory() as factory:
        state, result = carry_out(door, factory, task, tree)
        written = store_folder(door, factory, state, result, out)
    return finish(door, written)


def verify(
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="The folder whose tests and configuration count.")
    ],
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE", help="The folder to judge.")],
    tests: options.Tests = None,
    protect: options.Protect = None,
    budget_s: options.BudgetS = None,
    python: options.Python = None,
    out: options.Out = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Judge the folder CANDIDATE against the protected tests of BASE, as a patch would be."""
    from actors.workspace import snapshot

    door = open_door(
        as_json=as_json, verbose=verbose, file=config, settings=settings, budget__wall_s=budget_s
    )
    tree = take(door.config, base, tests, door.note)
    other = snapshot(candidate, door.config.snapshot, door.note)
    task = task_for(door.config, base, graph="verify", tests=tests, protect=protect, python=python)
    defaults(door)
    with door.factory() as factory:
        state, result = carry_out(door, factory, task, tree, candidate=other)
        written = store_folder(door, factory, state, result, out)
    return finish(door, written)


def run(
    goal: Annotated[str | None, typer.Argument(metavar="[GOAL]", help="What to build, in words.")] = None,
    graph: Annotated[
        str | None,
        typer.Option(
            "--graph",
            metavar="NAME|FILE",
            help="How to go about it: a graph that ships, or a YAML or JSON file; default: story for a goal.",
        ),
    ] = None,
    path: Annotated[
        Path | None, typer.Option("--path", metavar="DIR", help="A folder to start from.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="K=V", help="A value that goes with the task. Repeatable."),
    ] = None,
    model: options.Model = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The task's name.")] = None,
    tests: options.Tests = None,
    protect: options.Protect = None,
    budget_s: options.BudgetS = None,
    attempts: options.Attempts = None,
    python: options.Python = None,
    out: options.Out = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Take a goal in words, or a folder, through a graph."""
    from cluster.graphs import graph_of, is_file
    from orchestrator.graph_check import inputs_of

    door = open_door(
        as_json=as_json,
        verbose=verbose,
        file=config,
        settings=settings,
        model=model,
        budget__wall_s=budget_s,
        budget__attempts=attempts,
    )
    if goal is None and path is None:
        raise TaskError(
            "there is neither a GOAL nor a --path", "say what to build, or name a folder to start from"
        )
    chosen = graph_of(graph or ("story" if goal is not None else "repair"))
    if chosen.needs("goal"):
        need_goal_and_model(goal, door.config.model)
    tree = Tree()
    if path is not None:
        tree = take(door.config, path, tests, door.note, testable=not chosen.needs("goal"))
    task = task_for(
        door.config,
        path,
        graph=chosen.name,
        name=name,
        tests=tests,
        protect=protect,
        python=python,
        goal=goal,
    )
    declaration = json.loads(chosen.canonical_json()) if graph and is_file(graph) else None
    task = replace(task, inputs=_inputs(inputs or ()), declaration=declaration)
    # Before a factory is started for it.
    inputs_of(chosen, task.inputs)
    defaults(door)
    with door.factory() as factory:
        state, result = carry_out(door, factory, task, tree)
        written = store_folder(door, factory, state, result, out)
    return finish(door, written, path=path)


def _inputs(pairs: Sequence[str]) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise TaskError(f"--input {pair!r} is not K=V", "write --input name=value")
        if key == "candidate":
            raise TaskError("the input `candidate` is Raysmith's own", "choose another name")
        inputs[key] = value
    return inputs


def defaults(door: Door) -> None:
    """Say what counts for this command."""
    config = door.config
    budget: Budget = config.budget
    door.screen.line(
        f"{budget.attempts} attempts, {budget.wall_s:g} s in all, {budget.test_timeout_s:g} s per test run, "
        f"{budget.search_cpu_s:g} CPU-s of search; sandbox at least {config.sandbox.minimum}, "
        f"judge at least {config.judge.minimum}; state in {door.home}",
        "dim",
    )


def _apply(path: Path, base: Tree, written: Written) -> tuple[str, ...] | None:
    from actors.apply import apply_changes

    if written.result["status"] != "succeeded" or not written.changes:
        return None
    changes: dict[str, File | None] = written.changes
    try:
        return apply_changes(path, base, changes)
    except TaskError as error:
        raise TaskError(f"not applied: {error.message}", f"{error.next_move} ({written.patch})") from error
