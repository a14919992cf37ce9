"""What every run of pytest begins with, done once before the runs are forked; trusted.

pytest makes a configuration object and registers its own plugins with it before it looks at its arguments.
That object is made here, and handed to the run in place of an equal one. Which names of its own plugins are
fixtures is looked up here too: a run that looks at every name in them copies the pages of each.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import _pytest.config as pytest_config
import _pytest.fixtures as pytest_fixtures
import pluggy


class Ahead:
    """One for all runs of a warm process."""

    def __init__(self, reporter: types.ModuleType) -> None:
        self._get_config: Callable[..., Any] = pytest_config.get_config
        words = {"prog": "pytest.main()"} if "prog" in inspect.signature(self._get_config).parameters else {}
        self._config = self._get_config(**words)
        vars(pytest_fixtures)["dir"] = FixtureNames(reporter)
        # It reads the metadata of a distribution each time it is asked.
        vars(pluggy)["__version__"] = pluggy.__version__

    def use(self) -> None:
        """In the run: the next configuration that pytest asks for is the one made ahead."""
        pytest_config.get_config = self._given

    def _given(
        self, args: Iterable[str] | None = None, plugins: Sequence[Any] | None = None, **words: Any
    ) -> Any:
        pytest_config.get_config = self._get_config
        given = tuple(args or ())
        if any(word.startswith(("no:", "-pno:")) for word in given):
            # It keeps out plugins that are registered already.
            return self._get_config(given, plugins, **words)
        self._config.invocation_params = pytest_config.Config.InvocationParams(
            args=given, plugins=plugins, dir=Path.cwd()
        )
        return self._config


class FixtureNames:
    """`dir` for pytest's search for fixtures: of pytest's own plugins it gives the fixtures' names only.

    Whatever else is looked at, and what grew or shrank since, is listed in full.
    """

    def __init__(self, reporter: types.ModuleType) -> None:
        # By id, and the holder kept, so that the id is nobody else's.
        self._known: dict[int, tuple[object, int, list[str]]] = {}
        # Older versions mark functions instead; there nothing is known, and all is listed.
        kind = getattr(pytest_fixtures, "FixtureFunctionDefinition", None)
        modules = [module for name, module in sys.modules.items() if name.startswith("_pytest.")]
        for module in [*modules, reporter] if kind is not None else ():
            for holder in (module, *(value for value in vars(module).values() if isinstance(value, type))):
                names = {name for name, value in _held(holder) if type(value) is kind}
                self._known[id(holder)] = (holder, _size(holder), sorted(names))

    def __call__(self, holder: object) -> list[str]:
        """The names to look at."""
        place = holder if issubclass(type(holder), (types.ModuleType, type)) else type(holder)
        _, size, names = self._known.get(id(place), (None, -1, []))
        return names if size >= 0 and size == _size(place) else dir(holder)


def _held(holder: Any) -> Iterator[tuple[str, object]]:
    """Names and values of a module, or of a class and those above it."""
    for each in getattr(holder, "__mro__", (holder,)):
        yield from list(vars(each).items())


def _size(holder: Any) -> int:
    return sum(len(vars(each)) for each in getattr(holder, "__mro__", (holder,)))
