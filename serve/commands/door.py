"""What every command starts with: configuration, log, screen, and the way into a factory."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from orchestrator.errors import RaysmithError
from serve.render import Screen

if TYPE_CHECKING:
    from cluster.artifacts import ArtifactStore
    from cluster.client import Factory
    from cluster.event_log import EventReader
    from serve.config import Config, Loaded

NAMESPACE = "raysmith"


class Interrupted(Exception):
    """A person stopped the command; what is unfinished can be carried on."""

    def __init__(self, next_move: str) -> None:
        super().__init__(next_move)
        self.next_move = next_move


class Ended(RaysmithError):
    """A run ended in a way that is told as an error: bad input, or this machine cannot."""

    def __init__(self, message: str, next_move: str, code: str, exit_code: int) -> None:
        super().__init__(message, next_move)
        self.args = (message, next_move, code, exit_code)
        self.code = code
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One command's surroundings."""

    loaded: Loaded
    screen: Screen

    @property
    def config(self) -> Config:
        """All settings."""
        return self.loaded.config

    @property
    def home(self) -> Path:
        """RAYSMITH_HOME."""
        return self.loaded.home

    def note(self, text: str) -> None:
        """A remark for a person."""
        self.screen.line(f"note: {text}", "yellow")

    @contextlib.contextmanager
    def factory(self, *, dashboard: bool = False, starts: bool = True) -> Iterator[Factory]:
        """The living factory, or, where `starts`, one for the time of this block.

        SIGTERM and SIGHUP end the block as Ctrl-C does.
        """
        from cluster.connect import connect

        ray = self.config.ray
        if (ray.dashboard or dashboard) and not ray.address:
            ray = replace(ray, dashboard=True)
        # Ray prints what happens to a cluster's nodes, and the one object stands alone.
        quiet = contextlib.redirect_stdout(sys.stderr) if self.screen.as_json else contextlib.nullcontext()
        with _signals_interrupt() as again, quiet:
            opened = connect(
                factory_settings(self.loaded),
                ray_settings=ray,
                say=self.note,
                starts=starts,
            )
            with self.screen.waiting("starting the factory"):
                factory = opened.__enter__()
            with contextlib.ExitStack() as stack:
                stack.push(opened)
                # Ray sets a handler of its own while it starts.
                again()
                self._tell_about(factory)
                yield factory

    def _tell_about(self, factory: Factory) -> None:
        joined = "joined the factory" if factory.was_there else "started a factory that stays"
        how = "started a local factory" if factory.started_here else f"{joined} at {factory.address}"
        where = f", dashboard {factory.dashboard_url}" if factory.dashboard_url else ""
        self.screen.line(f"{how}{where}", "dim")

    def reads(self) -> EventReader:
        """The event log, also while nobody or somebody else writes it."""
        from cluster.event_log import EventReader

        return EventReader(self.config.store, self.home)

    def artifacts(self) -> ArtifactStore:
        """The stored contents, without a factory."""
        from cluster.artifacts import ArtifactStore

        return ArtifactStore(self.config.store.artifacts_url(self.home))


def open_door(
    *,
    as_json: bool = False,
    verbose: bool = False,
    file: Path | None = None,
    settings: Sequence[str] | None = None,
    **flags: Any,
) -> Door:
    """Load the configuration and start the log.

    Args:
        as_json: Whether `--json` was given.
        verbose: Whether log lines go to standard error too.
        file: What `--config` named.
        settings: What `--set` gave.
        flags: Dotted keys with `__` for the dot; None where the flag was not given.
    """
    from serve import logs
    from serve.config import load

    given = [f"{key.replace('__', '.')}={value}" for key, value in flags.items() if value is not None]
    loaded = load(file, [*(settings or ()), *given])
    logs.configure(loaded.home, verbose=verbose)
    return Door(loaded=loaded, screen=Screen(as_json=as_json, verbose=verbose))


def factory_settings(loaded: Loaded) -> Any:
    """What a factory is made from, as values that cross Ray."""
    from cluster.factory import FactorySettings
    from serve.bootstrap import AGENTS, agents_config, new_life

    config = loaded.config
    return FactorySettings(
        home=str(loaded.home),
        namespace=NAMESPACE,
        life=new_life(),
        build=AGENTS,
        agents=agents_config(config),
        groups=config.fleet,
        store=config.store,
        scheduling=config.scheduling,
        orchestrator=config.orchestrator,
        reporter=_reporter(config),
    )


def _reporter(config: Config) -> Any:
    if not config.slack.is_on:
        return None
    from cluster.reporter_spec import ReporterSpec
    from serve.slack import REPORTER, reporter_config

    return ReporterSpec(build=REPORTER, config=reporter_config(config.slack), flush_s=config.slack.flush_s)


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[Callable[[], None]]:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt inside; yields what sets them again.

    Setting them again raises for a signal that came before: a destructor or a callback that it
    met swallows the exception, and a person's Ctrl-C must not be lost.
    """
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in wanted}
    came: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    def install() -> None:
        for number in wanted:
            signal.signal(number, interrupt)
        if came:
            raise KeyboardInterrupt

    install()
    try:
        yield install
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
