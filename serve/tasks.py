"""What every caller makes a task of: a folder, a goal, a selection of tests. No screen, no factory."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import EngineMissing, TaskError
from orchestrator.plan import PlanWhen
from orchestrator.steps import Role
from orchestrator.task import AgentSettings, Task, check_id, parse_tests
from orchestrator.tree import Tree

if TYPE_CHECKING:
    from serve.batch import Batch, Entry
    from serve.config import Config

Note = Callable[[str], None]


def need_goal_and_model(goal: str | None, model: str) -> None:
    """Refuse what cannot be written.

    Raises:
        TaskError: There is no goal.
        EngineMissing: There is no model to write with, or no engine that serves it.
    """
    from actors.engines.names import KNOWN

    if not goal or not goal.strip():
        raise TaskError("the goal is empty", "say in words what to build")
    if not model:
        raise EngineMissing(
            "a goal in words needs a model that writes code, and none is configured",
            f"give --model {KNOWN}, or set RAYSMITH_MODEL; `raysmith repair` works without a model",
        )
    check_model(model)


def check_model(model: str) -> None:
    """Refuse a model that no engine serves, before anything is started for it.

    Raises:
        EngineMissing: None does.
        TaskError: Its address is wrong.
    """
    from actors.engines.names import parse_model

    if model and (named := parse_model(model)).kind == "recorded":
        from actors.engines.recorded import RecordedEngine

        RecordedEngine.named(named.name)


def take(
    config: Config, path: Path, tests: Sequence[str] | None, note: Note, *, testable: bool = True
) -> Tree:
    """A snapshot of the folder `path`, refused when there is nothing to test in it.

    Raises:
        TaskError: It cannot be taken, or holds nothing to test.
    """
    from actors.workspace import check_testable, snapshot

    tree = snapshot(path, config.snapshot, note)
    if testable:
        check_testable(str(path), tree, selection(tests))
    return tree


def selection(tests: Sequence[str] | None) -> tuple[str, ...]:
    """What every `--tests` gave, checked.

    Raises:
        TaskError: An option that does not select tests, or unbalanced quotes.
    """
    try:
        return parse_tests([word for given in tests or () for word in shlex.split(given)])
    except ValueError as error:
        raise TaskError(f"--tests cannot be split into words: {error}", "balance its quotes") from error


def task_for(
    config: Config,
    path: Path | None,
    *,
    graph: str,
    name: str | None = None,
    tests: Sequence[str] | None = None,
    protect: Sequence[str] | None = None,
    python: str | None = None,
    goal: str | None = None,
) -> Task:
    """A task under the configured budget.

    Raises:
        TaskError: A name, test selection or interpreter that cannot be.
    """
    return Task(
        id=check_id(name) if name else name_of(path),
        graph=graph,
        goal=goal,
        tests=selection(tests),
        protect=tuple(protect or ()),
        python=interpreter(python),
        model=config.model or None,
        tenant=config.tenant,
        budget=config.budget,
        agents=agents_of(config),
        judge_minimum=config.judge.minimum,
        judge_strength=config.judge.strength,
        origin=str(path.absolute()) if path else "",
    )


def agents_of(config: Config) -> AgentSettings:
    """The configured agents, as far as the fleet has them.

    Raises:
        TaskError: One that has to take part has no replica group.
    """
    agents, roles = config.agents, {role for group in config.fleet for role in group.roles}
    for key, wanted, role in (
        ("agents.plan", agents.plan is PlanWhen.ALWAYS, Role.PLAN),
        ("agents.review", agents.review, Role.REVIEW),
    ):
        if wanted and role not in roles:
            raise TaskError(
                f"`{key}` is on and no replica group has the role {str(role)!r}",
                f"add {str(role)!r} to the roles of a group in `fleet`",
            )
    return agents if Role.PLAN in roles else replace(agents, plan=PlanWhen.NEVER)


def name_of(path: Path | None) -> str:
    """A task's name from its folder's."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", path.absolute().name if path else "goal")
    return (plain.replace("..", "-").lstrip("._-") or "task")[:100]


def interpreter(python: str | None) -> str | None:
    """The absolute path of the interpreter that `--python` named.

    Raises:
        TaskError: There is none.
    """
    import shutil

    if python is None:
        return None
    found = shutil.which(python)
    if found is None:
        raise TaskError(
            f"--python {python!r} is not an executable", "name the interpreter of the project's environment"
        )
    # Not resolved: a virtual environment is recognised by the path of its link.
    return str(Path(found).absolute())


def read_batch(config: Config, file: Path, *, model: str | None = None) -> Batch:
    """The tasks of a batch file; `model` stands in where none is configured.

    Raises:
        TaskError: The file cannot be read, or holds no line.
    """
    try:
        text = file.read_text("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise TaskError(f"batch file {file} cannot be read: {error.strerror}", "check the path") from error
    tasks = batch_of(config, text, file.absolute().parent, model=model)
    if not tasks.entries and not tasks.broken:
        raise TaskError(f"batch file {file} holds no task", 'write a line such as {"id": "a", "path": "a"}')
    return tasks


def batch_of(config: Config, text: str, folder: Path, *, model: str | None = None) -> Batch:
    """The tasks of a batch file's text; their paths are relative to `folder`."""
    from serve.batch import parse

    pattern = task_for(config, None, graph="repair")
    return parse(text, folder=folder, pattern=replace(pattern, model=pattern.model or model))


def take_entry(config: Config, entry: Entry, note: Note) -> Tree | None:
    """A snapshot of the folder that the entry names, None where it names none.

    Raises:
        TaskError: It cannot be taken, or holds nothing to test.
    """
    from actors.workspace import check_testable, snapshot

    if entry.path is None:
        return None
    tree = snapshot(entry.path, config.snapshot, lambda text: note(f"{entry.task.id}: {text}"))
    if entry.task.goal is None:
        check_testable(str(entry.path), tree, entry.task.tests)
    return tree
