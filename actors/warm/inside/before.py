"""What pytest's functions were before a run was forked, and which of them to look at when it ends; trusted.

A look at each of some thousand functions copies every page they lie on, which is most of what a small run
costs. The interpreter counts the changes of each dictionary and tells of functions that get other code: what
neither speaks of is what it was.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

Key = tuple[str, ...]
Snapshot = dict[Key, tuple[Any, Any]]
# A dictionary begins with its object's head and the number of its entries.
_OFFSET = object.__basicsize__ + ctypes.sizeof(ctypes.c_ssize_t)


class Before:
    """`held` is the reporter's snapshot."""

    def __init__(self, reporter: types.ModuleType) -> None:
        reporter.beside("watch", str(reporter.__file__).rpartition("/")[0])
        self.held: Snapshot = reporter.snapshot()
        self._recoded: set[str] = set()
        self._owners = {id(value): key[0] for key, (value, code) in self.held.items() if code is not None}
        self._keys: dict[str, list[Key]] = {}
        for key in self.held:
            self._keys.setdefault(key[0], []).append(key)
        self._modules = {name: sys.modules[name] for name in self._keys}
        self._counts = {name: Counts(_dictionaries(module)) for name, module in self._modules.items()}
        self._is_counted = counts_changes()

    def watch(self) -> None:
        """In the run: listen to changes of code from now on; it cannot be ended."""
        owners, recoded = self._owners, self._recoded

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "object.__setattr__" and arguments[1] == "__code__":
                recoded.add(owners.get(id(arguments[0]), ""))

        sys.addaudithook(hook)

    def suspects(self) -> Snapshot:
        """The part of `held` that may have changed."""
        return {
            key: self.held[key]
            for name in self._modules
            if self._may_differ(name)
            for key in self._keys[name]
        }

    def _may_differ(self, name: str) -> bool:
        if not self._is_counted or name in self._recoded:
            return True
        return sys.modules.get(name) is not self._modules[name] or self._counts[name].have_moved()


class Counts:
    """How often each of some dictionaries has changed, as the interpreter counts it."""

    def __init__(self, dictionaries: Iterator[dict[str, Any]]) -> None:
        self._cells = [ctypes.c_uint64.from_address(id(each) + _OFFSET) for each in dictionaries]
        self._before = self._now()

    def have_moved(self) -> bool:
        """Whether any has changed since this was made."""
        return self._now() != self._before

    def _now(self) -> list[int]:
        return [cell.value for cell in self._cells]


def counts_changes() -> bool:
    """Whether this interpreter counts the changes of a dictionary where it did when this was written."""
    one: dict[str, int] = {"a": 1, "b": 2}
    changes: tuple[Callable[[], object], ...] = (
        lambda: one.__setitem__("a", 2),
        lambda: one.__setitem__("c", 3),
        lambda: one.pop("b"),
        lambda: one.update(a=3),
        one.clear,
    )
    for change in changes:
        count = Counts(iter([one]))
        if count.have_moved():
            return False
        change()
        if not count.have_moved():
            return False
    return True


def _dictionaries(module: types.ModuleType) -> Iterator[dict[str, Any]]:
    """Of a module and of the classes in it."""
    yield vars(module)
    for value in list(vars(module).values()):
        if isinstance(value, type) and value.__module__ == module.__name__:
            # A class shows its dictionary behind a proxy, and a proxy has but one referent.
            yield gc.get_referents(vars(value))[0]
