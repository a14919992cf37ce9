"""What every run of pytest begins with, done once before the runs are forked; trusted.

pytest makes a configuration object and registers its own plugins with it before it looks at its arguments.
That object is made here, and handed to the run in place of an equal one.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import _pytest.config as pytest_config


class Ahead:
    """`before` is the reporter's look at pytest's functions, taken now."""

    def __init__(self, reporter: types.ModuleType) -> None:
        self._get_config: Callable[..., Any] = pytest_config.get_config
        words = {"prog": "pytest.main()"} if "prog" in inspect.signature(self._get_config).parameters else {}
        self._config = self._get_config(**words)
        self.before = reporter.snapshot()

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
