"""What task modules hold, put back between candidates that share a process: caches, containers, scalars."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import Any

_CONTAINERS = (dict, list, set, bytearray, deque, defaultdict, OrderedDict, Counter)
_SCALARS = (int, float, str, bytes, bool, type(None), tuple, frozenset)
_MAX_SIZE = 2000


class State:
    """Containers, scalars and caches of the task's modules as they were after collection."""

    def __init__(self, filenames: Iterable[str]) -> None:
        files = frozenset(filenames)
        self._caches: list[Any] = []
        self._containers: list[tuple[Any, Any]] = []
        self._namespaces: list[tuple[Any, dict[str, Any]]] = []
        modules = [
            module for module in list(sys.modules.values()) if getattr(module, "__file__", None) in files
        ]
        for module in modules:
            self._keep_namespace(module)
        names = {module.__name__ for module in modules}
        for thing in gc.get_objects():
            if isinstance(thing, functools._lru_cache_wrapper):
                code = getattr(getattr(thing, "__wrapped__", None), "__code__", None)
                if code is not None and code.co_filename in files:
                    self._caches.append(thing)
            elif type(thing) is FunctionType and thing.__code__.co_filename in files:
                self._keep_all(thing.__defaults__ or ())
                self._keep_all((thing.__kwdefaults__ or {}).values())
                self._keep_cells(thing)
            elif isinstance(thing, type) and thing.__module__ in names:
                self._keep_namespace(thing)

    def restore(self) -> None:
        """Put everything kept back in place."""
        for cache in self._caches:
            cache.cache_clear()
        for container, content in self._containers:
            with contextlib.suppress(Exception):
                if container != content:
                    _refill(container, _copied(content))
        for owner, values in self._namespaces:
            now = vars(owner)
            for name, value in values.items():
                if now.get(name, self) is not value:
                    setattr(owner, name, value)

    def _keep_namespace(self, owner: ModuleType | type) -> None:
        values = {name: value for name, value in vars(owner).items() if not name.startswith("__")}
        self._namespaces.append((owner, {k: v for k, v in values.items() if isinstance(v, _SCALARS)}))
        self._keep_all(values.values())

    def _keep_cells(self, function: FunctionType) -> None:
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):
                self._keep_all([cell.cell_contents])

    def _keep_all(self, values: Iterable[Any]) -> None:
        for value in values:
            if type(value) in _CONTAINERS and len(value) <= _MAX_SIZE:
                with contextlib.suppress(Exception):
                    self._containers.append((value, _copied(value)))


def _copied(container: Any) -> Any:
    # Objects with an identity stay the same objects.
    return copy.deepcopy(container) if _is_plain(container) else copy.copy(container)


def _is_plain(value: Any) -> bool:
    if type(value) in _CONTAINERS or type(value) in (tuple, frozenset):
        inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        return all(map(_is_plain, inner))
    return type(value) in _SCALARS


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, (dict, set)):
        container.update(content)
    else:
        container.extend(content)
