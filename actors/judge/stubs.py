"""Stand-ins for code under repair that cannot be imported, so that pytest itself can name the tests.

Used for `--collect-only` on a broken base, inside its sandbox, never for a run that counts. A module
of the workspace that raises becomes a stand-in; one that lacks a name gives a stand-in for it.
Protected files are never replaced. An id that depends on a stand-in's value is called inexact.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class _Meta(type):
    """A class whose every attribute is a stand-in too."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith(("__", "pytest")) or name == "_pytestfixturefunction":
            raise AttributeError(name)
        return Stub

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is not Stub:
            return super().__call__(*args, **kwargs)
        plain = len(args) == 1 and not kwargs and isinstance(args[0], (types.FunctionType, type))
        return args[0] if plain else Stub

    def __iter__(cls) -> Iterator[Any]:
        return iter(())

    def __len__(cls) -> int:
        return 0

    def __bool__(cls) -> bool:
        return True

    def __getitem__(cls, _: object) -> Any:
        return Stub

    def __contains__(cls, _: object) -> bool:
        return False

    def __enter__(cls) -> Any:
        return cls

    def __exit__(cls, *_: object) -> None:
        return None

    def _same(cls, *_: object) -> Any:
        return Stub

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _same
    __or__ = __ror__ = __and__ = __rand__ = __mod__ = __rmod__ = __pow__ = __neg__ = __floordiv__ = _same


class Stub(metaclass=_Meta):
    """Stands for anything: called, subscripted, subclassed or used as a decorator."""

    def __init__(self, *_: object, **__: object) -> None:
        pass


def _attribute(name: str) -> Any:
    if name.startswith(("__", "pytest")):
        raise AttributeError(name)
    return Stub


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def create_module(self, spec: Any) -> types.ModuleType | None:
        made: types.ModuleType | None = self.inner.create_module(spec) if self.inner else None
        return made

    def exec_module(self, module: types.ModuleType) -> None:
        if self.inner:
            try:
                self.inner.exec_module(module)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
        spec = module.__spec__
        if (
            spec is not None
            and spec.submodule_search_locations is not None
            and not hasattr(module, "__path__")
        ):
            module.__path__ = []
        vars(module).setdefault("__getattr__", _attribute)


class Finder(importlib.abc.MetaPathFinder):
    """Finds what is there and wraps it; finds a stand-in for what should be there."""

    def __init__(self, names: list[str], work: str, protected: list[str], *, blind: bool) -> None:
        self.names, self.work, self.protected = set(names), work, set(protected)
        self.blind = blind

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.partition(".")[0] not in self.names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None:
            if path is not None and self._near_protected(path):
                return None
            return importlib.machinery.ModuleSpec(fullname, _Loader(None), is_package=True)
        origin = spec.origin or ""
        if spec.loader is None or not origin.startswith(self.work + "/"):
            return spec if spec.loader is not None else None
        if os.path.relpath(origin, self.work) in self.protected:
            return spec
        spec.loader = _Loader(None if self.blind else spec.loader)
        return spec

    def _near_protected(self, path: Any) -> bool:
        folders = {os.path.relpath(folder, self.work) for folder in path if folder.startswith(self.work)}
        return any(str(Path(name).parent) in folders for name in self.protected)


def install(names: list[str], work: str, protected: list[str], *, blind: bool) -> None:
    """Put the finder before the ordinary ones; blind, it runs nothing of the code under repair."""
    sys.meta_path.insert(0, Finder(names, work, protected, blind=blind))


def is_inexact(item: Any) -> bool:
    """Whether an item's id was made from a stand-in."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return False
    return "NOTSET" in item.nodeid or any(
        value is Stub or (isinstance(value, type) and issubclass(value, Stub))
        for value in callspec.params.values()
    )
