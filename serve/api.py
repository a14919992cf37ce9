"""The Python API behind `import raysmith`: the commands' work without a screen. Imports nothing heavy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from orchestrator.errors import TaskError
from serve.api_factory import Factory, Folder, Options, Run, check_known
from serve.results import Result

if TYPE_CHECKING:
    from serve.config import Loaded
    from serve.replays import ReplayResult


class Place(TypedDict, total=False):
    """Which factory, and how it is configured.

    Attributes:
        config: A YAML file laid over the defaults, as `--config`.
        settings: Single settings by dotted key, as `--set`: `{"search.cpu_s": 20}`.
        home: Folder of all state; default: RAYSMITH_HOME.
        note: Called with a remark for a person, such as what a snapshot leaves out.
    """

    config: Folder | None
    settings: Mapping[str, object] | None
    home: Folder | None
    note: Callable[[str], None]


class Once(Place, Options, total=False):
    """Both, for the functions that do one thing and end."""


@contextlib.contextmanager
def connect(**place: Unpack[Place]) -> Iterator[Factory]:
    """Join the living factory, or start one for the time of the block; as the commands do.

    A factory that was started here waits at the end of the block for the runs of others that joined
    it; runs of one's own that are unfinished by then stay in the log, and `raysmith resume` carries them on.

    Raises:
        TaskError: A setting is wrong, or this process is connected to Ray already.
        StoreOwned: Another factory owns the store and cannot be joined.
        MachineError: Ray does not start here, or no cluster answers.
    """
    from cluster.connect import connect as enter
    from serve.commands.door import factory_settings

    _need_no_ray()
    loaded, note = _loaded(place), place.get("note", lambda _text: None)
    with enter(factory_settings(loaded), ray_settings=loaded.config.ray, say=note) as client:
        yield Factory(client, loaded, note)


def repair(path: Folder, *, apply: bool = False, **options: Unpack[Once]) -> Result:
    """Make the failing tests of the folder `path` pass; `apply` writes a certified patch into it.

    Raises:
        TaskError: The folder, an option or a setting is wrong.
        MachineError: This machine lacks something.
    """
    return _once(options, lambda factory, own: factory.repair(path, **own), apply=apply)


def test(path: Folder, **options: Unpack[Once]) -> Result:
    """Run the tests of the folder `path` in the sandbox; raises as `repair`."""
    return _once(options, lambda factory, own: factory.test(path, **own))


def verify(base: Folder, candidate: Folder, **options: Unpack[Once]) -> Result:
    """Judge the folder `candidate` by the protected tests of `base`; raises as `repair`."""
    return _once(options, lambda factory, own: factory.verify(base, candidate, **own))


def run(
    goal: str,
    *,
    path: Folder | None = None,
    graph: str = "story",
    inputs: Mapping[str, str] | None = None,
    **options: Unpack[Once],
) -> Result:
    """Take a goal in words through code, test, run and repair; see `Factory.run`."""
    return _once(
        options, lambda factory, own: factory.run(goal, path=path, graph=graph, inputs=inputs, **own)
    )


def new_app(goal: str, *, inputs: Mapping[str, str] | None = None, **options: Unpack[Once]) -> Result:
    """Build an application for a goal in words: `run` with the graph `new-app`.

    Its result has `success`, `files`, `checkpoints` (one per stage) and `quality`; raises as `run`.
    """
    return run(goal, graph="new-app", inputs=inputs, **options)


def batch(
    tasks: Folder | Iterable[Mapping[str, object]], *, out: Folder | None = None, **place: Unpack[Place]
) -> list[Result]:
    """Run many tasks; see `Factory.batch`."""
    with connect(**place) as factory:
        return factory.batch(tasks, out=out)


def export(run_id: str, out: Folder, **place: Unpack[Place]) -> Path:
    """Write everything of a past run into the file `out`; it is read from the log, and no factory is needed.

    Args:
        run_id: Its id, or the start of it.
        out: The file.
        **place: Whose log it is.

    Raises:
        TaskError: There is no such run, `out` cannot be written, or the run holds a secret of this machine.
    """
    from cluster.artifacts import ArtifactStore
    from cluster.event_log import EventReader
    from serve.replays import save_export
    from serve.secrets import known_secrets

    loaded, file = _loaded(place), Path(out).absolute()
    config = loaded.config
    with EventReader(config.store, loaded.home) as log:
        events = log.events(log.find_run(run_id))
    store = ArtifactStore(config.store.artifacts_url(loaded.home))
    save_export(file, events, store, known_secrets=known_secrets(config))
    return file


def import_run(file: Folder, **place: Unpack[Place]) -> str:
    """Take the run in `file`, which `export` wrote, into this store as it was; its id.

    Raises:
        TaskError: It is no whole export, the run had not ended, or another of that id is there.
        StoreOwned: Another process writes the store.
    """
    from cluster.artifacts import ArtifactStore
    from serve.commands.door import Door
    from serve.commands.importing import insert_run
    from serve.render import Screen
    from serve.replays import take_in

    loaded = _loaded(place)
    door = Door(loaded=loaded, screen=Screen(as_json=True))
    store = ArtifactStore(loaded.config.store.artifacts_url(loaded.home))
    return str(take_in(Path(file), store, lambda events: insert_run(door, events))["run_id"])


def compare(first: str, second: str, **place: Unpack[Place]) -> dict[str, Any]:
    """Two past runs side by side, see `orchestrator.comparison.compared`; no factory is needed.

    Raises:
        TaskError: There is no such run.
    """
    from cluster.artifacts import ArtifactStore
    from cluster.event_log import EventReader
    from orchestrator.comparison import compared
    from orchestrator.events import fold
    from orchestrator.report import result

    loaded = _loaded(place)
    store = ArtifactStore(loaded.config.store.artifacts_url(loaded.home))
    with EventReader(loaded.config.store, loaded.home) as log:
        one, other = (log.events(log.find_run(each)) for each in (first, second))
    return compared(one, other, (result(fold(one), store.get), result(fold(other), store.get)))


def replay(file: Folder, *, rerun_tests: bool = False, **place: Unpack[Place]) -> ReplayResult:
    """Do the run in `file`, which `export` wrote, again without a model, and compare; no factory is needed.

    Args:
        file: An export; nothing in it is trusted.
        rerun_tests: Really run its test runs again in the sandbox.
        **place: How the sandbox is configured.

    Raises:
        TaskError: It is no whole export of a run.
        MachineError: There is no sandbox to run tests in.
    """
    import asyncio

    from serve.replays import replay_file

    sandbox = _loaded(place).config.sandbox
    return asyncio.run(replay_file(Path(file), rerun=sandbox if rerun_tests else None))


def _once(options: Once, start: Callable[[Factory, Options], Run], *, apply: bool = False) -> Result:
    place: Any = {name: value for name, value in options.items() if name in Place.__annotations__}
    own: Any = {name: value for name, value in options.items() if name not in place}
    with connect(**place) as factory:
        work = start(factory, own)
        try:
            result = work.result()
        except KeyboardInterrupt:
            # A joined factory lives on; it must not go on with what nobody waits for.
            if not factory.started_here:
                work.cancel("interrupted")
            raise
        if apply and result.succeeded and result.changes:
            work.apply()
    return result


def _need_no_ray() -> None:
    import sys

    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        raise TaskError(
            "this process is connected to Ray already",
            "use one connect() at a time, and call ray.shutdown() before it",
        )


def _loaded(place: Place) -> Loaded:
    from serve.config import load

    check_known(place, Place.__annotations__)
    file, home = place.get("config"), place.get("home")
    settings = [f"{key}={_as_text(value)}" for key, value in (place.get("settings") or {}).items()]
    loaded = load(Path(file) if file is not None else None, settings)
    return loaded if home is None else replace(loaded, home=Path(home).expanduser().absolute())


def _as_text(value: object) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, default=str)
