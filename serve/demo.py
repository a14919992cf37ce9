"""The factory shown at work in two acts: a story from words to a certified patch, then a package repaired."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import TaskError
from orchestrator.tree import Tree
from serve.commands.door import Door
from serve.commands.running import Written, carry_out, finish, store_folder
from serve.commands.work import defaults
from serve.tasks import take, task_for

if TYPE_CHECKING:
    from cluster.client import Factory

_STORY_MODEL = "recorded:add_story"
_GOAL = Path("add_story", "goal.txt")
_PACKAGE = "buggy_shop"


def show(door: Door, *, examples: Path | None = None) -> int:
    """Both acts on one factory; 0 when both ended certified.

    Raises:
        TaskError: The examples are not here: they come with a checkout, not with a wheel.
    """
    folder = examples or Path(__file__).parents[1] / "examples"
    if not folder.is_dir():
        raise TaskError(f"the examples are not in {folder}", "run `make run` in a checkout")
    out = Path.cwd() / "out"
    defaults(door)
    with door.factory(dashboard=True) as factory:
        story = _story(door, factory, (folder / _GOAL).read_text().strip(), out / "story")
        package = folder / _PACKAGE
        repaired = _repair(door, factory, package, out / _PACKAGE)
        dashboard = factory.dashboard_url
    code = max(
        _told(door, "act one: a goal in words", story, None),
        _told(door, "act two: a package", repaired, package),
    )
    if door.screen.as_json:
        results = [dict(story.result), dict(repaired.result)]
        door.screen.object({"results": results, "dashboard": dashboard, "out": str(out)})
    return code


def _story(door: Door, factory: Factory, goal: str, out: Path) -> Written:
    door.screen.line(
        "\nAct one: a goal in words. Code and tests come from a recording, the repair is found live.", "bold"
    )
    door.screen.line(goal)
    task = task_for(door.config, None, graph="story", name="add_story", goal=goal)
    return _run(door, factory, replace(task, model=_STORY_MODEL), Tree(), out)


def _repair(door: Door, factory: Factory, package: Path, out: Path) -> Written:
    door.screen.line(f"\nAct two: {package} has bugs in several files. Nothing is recorded.", "bold")
    tree = take(door.config, package, None, door.note)
    return _run(door, factory, task_for(door.config, package, graph="repair"), tree, out)


def _run(door: Door, factory: Factory, task: Any, tree: Tree, out: Path) -> Written:
    state, result = carry_out(door, factory, task, tree)
    shutil.rmtree(out, ignore_errors=True)
    return store_folder(door, factory, state, result, out)


def _told(door: Door, title: str, written: Written, path: Path | None) -> int:
    if door.screen.as_json:
        return 0 if written.result["status"] == "succeeded" else 1
    door.screen.line(f"\n=== {title}", "bold")
    return finish(door, written, path=path)
