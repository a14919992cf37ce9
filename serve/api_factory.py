"""A factory as Python code holds it: hands work over, follows runs, gives typed results."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from orchestrator.errors import TaskError
from orchestrator.events import Event
from orchestrator.tree import File, Tree
from serve.results import Result, error_from, refusal, result_from

if TYPE_CHECKING:
    from cluster.client import Factory as Client
    from orchestrator.task import Task
    from serve.batch import Tally
    from serve.config import Config, Loaded

Folder = str | PathLike[str]
_WAIT_S = 5.0


class Options(TypedDict, total=False):
    """What one task is done with; what is not given is as configured.

    Attributes:
        tests: What selects tests, as `--tests` takes it.
        protect: Globs that no patch may change, beside the tests.
        python: Interpreter of the project's own environment.
        model: Who writes and repairs, as `--model` names it.
        attempts: Passes of the repair loop.
        budget_s: Wall seconds of the run.
    """

    tests: str | Sequence[str]
    protect: str | Sequence[str]
    python: str | None
    model: str | None
    attempts: int | None
    budget_s: float | None


class Run:
    """A run that was asked for: its events as they happen, and its result.

    `await run` gives the result and `async for event in run` the events; neither blocks the event loop.
    """

    def __init__(self, client: Client, run_id: str, *, base: Tree | None = None, path: Path | None = None):
        self.run_id = run_id
        self._client = client
        self._base = base
        self._path = path

    def events(self, after_seq: int = 0) -> Iterator[Event]:
        """The run's events from `after_seq` on, up to its end."""
        return self._client.follow(self.run_id, after_seq)

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the end.

        Raises:
            TimeoutError: It was not there in `timeout_s`; the run goes on.
            TaskError: The task is wrong; the caller can mend it.
            MachineError: This machine lacks something.
            ReplicaLost: The factory is gone; the run's log stays.
        """
        import time

        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = _WAIT_S if deadline is None else deadline - time.monotonic()
            if found := self._client.wait([self.run_id], max(0.0, min(left_s, _WAIT_S))):
                break
            if left_s <= 0:
                raise TimeoutError(f"run {self.run_id} did not end within {timeout_s:g} s")
        state = found[self.run_id]
        if (error := refusal(state)) is not None:
            raise error
        return result_from(
            self._client.result(self.run_id),
            changes=_contents(self._changes(state.report.get("patch"))),
            error=error_from(state.report.get("error")),
        )

    def cancel(self, reason: str = "") -> Result:
        """Stop it; its best patch so far is kept."""
        self._client.cancel(self.run_id, reason)
        return self.result()

    def pause(self, *, by: str = "python", why: str = "", now: bool = False) -> str:
        """Let it rest; its status, which is `parked` once its last step has ended.

        Raises:
            TaskError: It has ended, or waits for a person.
        """
        return str(self._client.pause(self.run_id, by=by, why=why, now=now).status)

    def resume(self) -> None:
        """Carry it on; one that succeeded stays as it is."""
        self._client.resume([self.run_id])

    def retry(self, node: str) -> Run:
        """Do its failed `node` anew, and all that needs it, in a new run that inherits the rest.

        Raises:
            TaskError: It has not ended, or the node did not fail.
        """
        return self._next(self._client.retry(self.run_id, node))

    def replay(self, start: str, *, graph: Mapping[str, Any] | None = None) -> Run:
        """A new run that inherits what came before the node or step `start`, and goes on from there.

        Args:
            start: It came to its end.
            graph: Another graph's declaration.

        Raises:
            TaskError: There is no such step, or the graph does not fit.
        """
        return self._next(self._client.fork(self.run_id, start, graph))

    def decide(self, approved: bool, *, node: str | None = None, by: str = "python", why: str = "") -> None:
        """Say yes or no at a gate of its graph; `node` may be left out where one is open.

        Raises:
            TaskError: It has ended, the node asks nothing, or it was decided before.
        """
        self._client.decide(self.run_id, node, approved=approved, by=by, why=why)

    def _next(self, run_id: str) -> Run:
        return Run(self._client, run_id, base=self._base, path=self._path)

    def apply(self) -> tuple[str, ...]:
        """Write the patch of a run that succeeded into the folder that it was made from; its paths.

        Raises:
            TaskError: The run had no folder or did not succeed, or the folder has changed meanwhile;
                nothing is written.
        """
        from actors.apply import apply_changes

        if self._path is None or self._base is None:
            raise TaskError(f"run {self.run_id} has no folder here", "use the result's `changes`")
        result = self.result()
        if not result.succeeded:
            raise TaskError(
                f"run {self.run_id} ended as {result.status} ({result.reason}) and is not applied",
                "its best patch is the result's `diff`",
            )
        return apply_changes(
            self._path, self._base, self._changes(self._client.state(self.run_id).report.get("patch"))
        )

    def write(self, out: Folder) -> Result:
        """Write report.json and patch.diff into the folder `out`, as the commands do."""
        from serve.commands.running import write_results

        result = self.result()
        told = {**result.json, "out": str(Path(out).absolute())}
        write_results(Path(out).absolute(), told, result.diff.encode("utf-8", "surrogateescape"))
        return replace(result, out=told["out"], json=told)

    def __await__(self) -> Generator[Any, None, Result]:
        import asyncio

        return asyncio.to_thread(self.result).__await__()

    async def __aiter__(self) -> AsyncIterator[Event]:
        import asyncio

        events = self.events()
        while (event := await asyncio.to_thread(next, events, None)) is not None:
            yield event

    def _changes(self, digest: str | None) -> Mapping[str, File | None]:
        from orchestrator.report import changes_from

        return changes_from(self._client.artifact(digest)) if digest else {}


class Factory:
    """A living factory, as `connect` gives it. Every method hands work over and returns at once."""

    def __init__(self, client: Client, loaded: Loaded, note: Callable[[str], None]) -> None:
        self._client = client
        self._loaded = loaded
        self._note = note

    @property
    def started_here(self) -> bool:
        """Whether it ends with the block that it was started in."""
        return self._client.started_here

    def repair(self, path: Folder, **options: Unpack[Options]) -> Run:
        """Make the failing tests of the folder `path` pass, without touching tests.

        Raises:
            TaskError: Not a folder, nothing to test in it, or an option that cannot be.
        """
        return self._on_folder("repair", path, options)

    def test(self, path: Folder, **options: Unpack[Options]) -> Run:
        """Run the tests of the folder `path` in the sandbox; raises as `repair`."""
        return self._on_folder("test", path, options)

    def verify(self, base: Folder, candidate: Folder, **options: Unpack[Options]) -> Run:
        """Judge the folder `candidate` by the protected tests of `base`; raises as `repair`."""
        from actors.workspace import snapshot

        other = snapshot(Path(candidate), self._config.snapshot, self._note)
        return self._on_folder("verify", base, options, candidate=other)

    def run(
        self,
        goal: str,
        *,
        path: Folder | None = None,
        graph: str = "story",
        name: str | None = None,
        inputs: Mapping[str, str] | None = None,
        **options: Unpack[Options],
    ) -> Run:
        """Take a goal in words through code, test, run and repair.

        Args:
            goal: What to build.
            path: A folder to start from; None for an empty one.
            graph: How to go about it.
            name: The task's name.
            inputs: Values that go with the task into its events.
            **options: See `Options`.

        Raises:
            TaskError: The goal is empty, or an option cannot be.
            EngineMissing: There is no model, or no engine that serves it.
        """
        from cluster.graphs import shipped
        from orchestrator.graph_check import inputs_of
        from serve.tasks import need_goal_and_model, take

        chosen = shipped(graph)
        inputs_of(chosen, inputs or {})
        config = _configured(self._config, options)
        if chosen.needs("goal"):
            need_goal_and_model(goal, config.model)
        folder = None if path is None else Path(path)
        tree = Tree()
        if folder is not None:
            tree = take(
                config, folder, _words(options.get("tests")), self._note, testable=chosen.needs("folder")
            )
        task = _task(config, folder, graph, options, name=name, goal=goal)
        return self._submit(replace(task, inputs=dict(inputs or {})), tree, folder)

    def batch(
        self,
        tasks: Folder | Iterable[Mapping[str, object]],
        *,
        out: Folder | None = None,
        on_change: Callable[[Tally], None] = lambda _tally: None,
    ) -> list[Result]:
        """Run many tasks and wait for them; the same call again goes on where it was interrupted.

        Args:
            tasks: A file of JSON lines, or the lines' objects (docs/howto/batch.md); paths in objects are
                relative to the working folder.
            out: Where results are written; default: FILE-out beside a file, else a folder in RAYSMITH_HOME.
            on_change: Called with the counts whenever they change.

        Returns:
            A result per task, in order; none is raised.

        Raises:
            TaskError: A line is no task; nothing was run.
        """
        from serve.batch import BatchRun, Results
        from serve.tasks import take_entry

        entries, folder = self._entries(tasks, out)
        folder.mkdir(parents=True, exist_ok=True)
        results = Results(folder / "results.jsonl")
        results.load()
        run = BatchRun(
            factory=self._client,
            results=results,
            out=folder,
            take=lambda entry: take_entry(self._config, entry, self._note),
            most_in_flight=self._config.orchestrator.max_active_runs,
            on_change=on_change,
        )
        told = run.execute(entries)
        results.compact(entry.task.id for entry in entries)
        return [result_from(line) for line in told]

    def get(self, run_id: str) -> Run:
        """An earlier run by its id, or the start of it.

        Raises:
            TaskError: There is none, or there are several.
        """
        return Run(self._client, self._client.state(run_id).run_id)

    def status(self) -> dict[str, Any]:
        """The fleet, its queue, and the runs in hand."""
        return self._client.status()

    @property
    def _config(self) -> Config:
        return self._loaded.config

    def _on_folder(self, graph: str, path: Folder, options: Options, *, candidate: Tree | None = None) -> Run:
        from serve.tasks import check_model, take

        config, folder = _configured(self._config, options), Path(path)
        check_model(config.model)
        tree = take(config, folder, _words(options.get("tests")), self._note)
        return self._submit(_task(config, folder, graph, options), tree, folder, candidate)

    def _submit(self, task: Task, tree: Tree, path: Path | None, candidate: Tree | None = None) -> Run:
        return Run(self._client, self._client.submit(task, tree, candidate=candidate), base=tree, path=path)

    def _entries(
        self, tasks: Folder | Iterable[Mapping[str, object]], out: Folder | None
    ) -> tuple[Sequence[Any], Path]:
        import json

        from serve.tasks import batch_of, read_batch

        if isinstance(tasks, str | PathLike):
            file = Path(tasks)
            batch = read_batch(self._config, file)
            folder = file.with_name(f"{file.stem}-out")
        else:
            text = "\n".join(json.dumps(dict(task), default=str) for task in tasks)
            batch = batch_of(self._config, text, Path.cwd())
            name = batch.entries[0].task.inputs["batch"] if batch.entries else "batch"
            folder = self._loaded.home / "out" / str(name)
        if batch.broken:
            wrong = "; ".join(f"line {line.number}: {line.message}" for line in batch.broken[:5])
            raise TaskError(wrong, "mend them; nothing was run")
        return batch.entries, (Path(out) if out is not None else folder).absolute()


def check_known(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse options that nobody would heed.

    Raises:
        TaskError: Names the first and those that are known.
    """
    names = list(known)
    for name in given:
        if name not in names:
            raise TaskError(f"{name!r} is no option", f"known: {', '.join(names)}")


def _configured(config: Config, options: Options) -> Config:
    """The configuration with the task's own model and budget."""
    check_known(options, Options.__annotations__)
    budget = config.budget
    if (attempts := options.get("attempts")) is not None:
        budget = replace(budget, attempts=_at_least(attempts, 1, "attempts", int))
    if (budget_s := options.get("budget_s")) is not None:
        budget = replace(budget, wall_s=_at_least(budget_s, 0.001, "budget_s", int | float))
    model = options.get("model")
    return config.model_copy(update={"budget": budget, "model": config.model if model is None else model})


def _at_least(value: Any, least: float, name: str, kind: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value < float("inf"):
        what = "whole number" if kind is int else "number"
        raise TaskError(f"`{name}` is {value!r}", f"give a {what} of {least:g} or more")
    return value


def _task(config: Config, path: Path | None, graph: str, options: Options, **more: Any) -> Task:
    from serve.tasks import task_for

    return task_for(
        config,
        path,
        graph=graph,
        tests=_words(options.get("tests")),
        protect=_words(options.get("protect")),
        python=options.get("python"),
        **more,
    )


def _words(given: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)


def _contents(changes: Mapping[str, File | None]) -> dict[str, bytes | None]:
    return {path: None if file is None else file.content for path, file in changes.items()}
