"""The side of the tests: stand-ins for the code under test, which runs in a process of its own.

A stand-in asks the other side and believes nothing but plain values. It never answers `==`, truth,
membership or `isinstance` from there: a test that needs those of something that is no plain value cannot
be judged apart. `Link.notes` then says why, and the caller takes the other judge.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

_MOST_NOTES = 20
_MOST_SHARED = 10_000
_MUTABLE = frozenset({list, dict, set, bytearray, tuple})
_UNTOLD = frozenset({"PYTEST_CURRENT_TEST", "PYTEST_VERSION"})


class Unable(Exception):
    """A test needs what cannot be judged from outside the process with the code."""


class Gone(Exception):
    """The process with the code has ended; a test that expects any exception may take it for that."""


class Link:
    """The stream to the other side, and the stand-ins made so far."""

    def __init__(self, wire: Any, raised: Any, stream: Any, work: str) -> None:
        self.wire, self.stream, self.work = wire, stream, work
        self.notes: list[str] = []
        self.doubts: list[str] = []
        # What both sides have a copy of, by its id, with what it held when it crossed.
        self.shared: dict[int, tuple[Any, Any]] = {}
        self.calls = self.requests = 0
        self.known: dict[int, Any] = {}
        self.raised = raised.Raised(self)
        self.lock = threading.RLock()
        self.owner = os.getpid()
        self.environment = _environment()
        self.folder = os.getcwd

    def is_stand_in(self, value: Any) -> bool:
        return issubclass(type(value), Remote)

    def note(self, what: str) -> None:
        if what not in self.notes and len(self.notes) < _MOST_NOTES:
            self.notes.append(what)

    def unable(self, what: str) -> NoReturn:
        self.note(what)
        raise Unable(what)

    def gone(self) -> NoReturn:
        self.note(what := "the process with the code under test has ended")
        raise Gone(what)

    def encode(self, value: Any) -> Any:
        data = self.wire.encode(value, self._refer)
        self.share(value)
        return data

    def share(self, value: Any) -> None:
        """Remember what a value holds that the code has, too."""
        if type(value) in _MUTABLE:
            if len(self.shared) >= _MOST_SHARED:
                self.compare()
            self.shared[id(value)] = (value, self.wire.encode(value, _told_apart))

    def compare(self) -> None:
        """Whether a test changed something that the code has a copy of; beside the test it would see that."""
        for value, held in self.shared.values():
            if self.wire.encode(value, _told_apart) != held:
                self.doubts = ["a test changes what the code gave it or was given"]
        self.shared.clear()

    def _refer(self, value: Any) -> dict[str, Any]:
        number = _number(value)
        if number is None:
            self.unable(f"a {type(value).__name__} of the test is given to the code")
        return {"ref": number}

    def decode(self, data: Any) -> Any:
        value = self.wire.decode(data, self._resolve)
        self.share(value)
        return value

    def _resolve(self, data: dict[str, Any]) -> Any:
        number, kind = data["ref"], data.get("kind")
        if type(number) is not int:
            raise self.wire.Broken("a reference without a number")
        if number not in self.known:
            made = self.raised.error_class(data["class"]) if kind == "error" else _KINDS[kind](self, number)
            self.known[number] = made
        return self.known[number]

    def ask(self, do: str, **message: Any) -> dict[str, Any]:
        """One question and its answer; raises what the code raised."""
        if os.getpid() != self.owner:
            self.unable("a process that a test forked uses the code")
        if _environment() != self.environment:
            self.unable("a test changes the environment of the code")
        if self.folder() != self.work:
            self.unable("a test changes the working folder of the code")
        self.calls += 1
        with self.lock:
            try:
                self.stream.send({"do": do, **message})
                reply: dict[str, Any] = self.stream.receive()
            except (EOFError, OSError):
                self.gone()
        for name in ("out", "err"):
            if isinstance(text := reply.get(name), str):
                getattr(sys, f"std{name}").write(text)
        if "gone" in reply:
            self.gone()
        if "unable" in reply:
            self.unable("the code answers with what does not cross")
        if "error" in reply:
            raise self.raised.error(reply["error"])
        return reply


def _told_apart(value: Any) -> dict[str, int]:
    return {"ref": id(value)}


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _UNTOLD}


# ---- stand-ins


class Remote:
    """Stands for anything that is no plain value."""

    def __init__(self, link: Link, number: int) -> None:
        object.__setattr__(self, "_raysmith", (link, number))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_pytest") or (name.startswith("__") and name not in _READABLE):
            raise AttributeError(name)
        return _asked(self, "get", name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        link = _link(self)
        _asked(self, "set", name=name, value=link.encode(value))

    def __call__(self, *args: Any, **named: Any) -> Any:
        link, number = object.__getattribute__(self, "_raysmith")
        given = [_checked(link, value) for value in args]
        sent = {name: _checked(link, value) for name, value in named.items()}
        reply = link.ask("call", ref=number, args=given, named=sent)
        for value, before, after in zip(args, given, reply.get("args", ()), strict=False):
            if before != after:
                _restore(link, value, link.decode(after))
                link.share(value)
        return link.decode(reply["value"])

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        # isinstance() asks for this; a test that does wants to know what it cannot be told.
        place = sys._getframe(1).f_code.co_filename
        if place.startswith(_link(self).work) or "/unittest/" in place:
            _link(self).note("a test asks for the class of something that is no plain value")
        return Remote

    def __iter__(self) -> Iterator[Any]:
        return _operate(self, "iter")  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return _plain(self, "str", str)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return _plain(self, "repr", str)  # type: ignore[no-any-return]

    def __format__(self, spec: str) -> str:
        return _plain(self, "format", str, spec)  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return _plain(self, "len", int)  # type: ignore[no-any-return]

    def __int__(self) -> int:
        return _plain(self, "int", int)  # type: ignore[no-any-return]

    def __float__(self) -> float:
        return _plain(self, "float", float)  # type: ignore[no-any-return]

    def __next__(self) -> Any:
        return _operate(self, "next")

    def __getitem__(self, key: Any) -> Any:
        return _operate(self, "getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _operate(self, "setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        _operate(self, "delitem", key)

    def __enter__(self) -> Any:
        return _operate(self, "enter")

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
        if error is not None:
            _link(self).unable("an exception of the test goes through a context manager of the code")
        return _operate(self, "exit", None, None, None)


_READABLE = frozenset({"__name__", "__doc__", "__qualname__", "__version__", "__all__"})


# fmt: off
_REFUSED = (
    "eq", "ne", "lt", "le", "gt", "ge", "hash", "bool", "contains", "add", "radd", "sub", "rsub",
    "mul", "rmul", "truediv", "rtruediv", "floordiv", "mod", "pow", "neg", "abs", "and", "or",
    "xor", "matmul", "index", "complex", "instancecheck", "subclasscheck", "mro_entries", "iadd",
    "isub", "imul", "reversed", "aenter", "aiter", "anext", "round",
)
# fmt: on


def _refusing(name: str) -> Any:
    def refuse(self: Remote, *_: Any) -> Any:
        _link(self).unable(f"a test needs {name} of something that is no plain value")

    return refuse


for _name in _REFUSED:
    setattr(Remote, f"__{_name}__", _refusing(f"__{_name}__"))


class _Module(Remote):
    """A module: what is in it may be read and not replaced."""

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system names what it has made, and puts a module into its package.
        if not name.startswith("__") and type(value) is not _Module:
            _link(self).unable("a test replaces something in a module of the code")
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return _asked(self, "names")
        return super().__getattr__(name)


class _Fixed(Remote):
    """A class or function."""

    def __setattr__(self, name: str, value: Any) -> None:
        _link(self).unable("a test replaces something in the code")


class _Awaitable(Remote):
    """A coroutine: it runs on the other side, to its end, when it is awaited."""

    def __await__(self) -> Iterator[Any]:
        return _asked(self, "await")  # type: ignore[no-any-return]
        yield


_KINDS: dict[Any, Any] = {
    "module": _Module,
    "class": _Fixed,
    "function": _Fixed,
    "awaitable": _Awaitable,
    "object": Remote,
}


def _link(value: Remote) -> Link:
    return object.__getattribute__(value, "_raysmith")[0]  # type: ignore[no-any-return]


def _number(value: Any) -> int | None:
    """The other side's number of what a stand-in, or one of its exceptions, stands for."""
    if issubclass(type(value), Remote):
        return object.__getattribute__(value, "_raysmith")[1]  # type: ignore[no-any-return]
    said = getattr(value, "__dict__", {}).get("_raysmith") if isinstance(value, BaseException) else None
    return said[1] if said else None


def _asked(of: Remote, do: str, **message: Any) -> Any:
    link, number = object.__getattribute__(of, "_raysmith")
    return link.decode(link.ask(do, ref=number, **message)["value"])


def _operate(value: Remote, name: str, *args: Any) -> Any:
    return _asked(value, "operate", name=name, args=[_checked(_link(value), arg) for arg in args])


def _plain(value: Remote, name: str, kind: type, *args: Any) -> Any:
    """An operation whose answer has to be of one plain kind."""
    answer = _operate(value, name, *args)
    if type(answer) is not kind:
        raise TypeError(f"__{name}__ returned non-{kind.__name__}")
    return answer


def _checked(link: Link, value: Any) -> Any:
    """A value on its way to the code; a path of this side means nothing there."""
    if type(value) is str and value.startswith(("/tmp/pytest-of-", link.work)):  # noqa: S108 - inside
        link.unable("a path of the test is given to the code")
    return link.encode(value)


def _restore(link: Link, value: Any, after: Any) -> None:
    """Make of a test's own list, dict or set what the code made of its copy."""
    if type(value) is list or type(value) is bytearray:
        value[:] = after
    elif type(value) in (dict, set):
        value.clear()
        value.update(after)
    else:
        link.unable(f"the code changes a {type(value).__name__} of the test inside")


# ---- imports


class _Loader(importlib.abc.Loader):
    def __init__(self, link: Link) -> None:
        self.link = link

    def create_module(self, spec: Any) -> Any:
        return self.link.decode(self.link.ask("import", name=spec.name)["value"])

    def exec_module(self, module: Any) -> None:
        pass


class Finder(importlib.abc.MetaPathFinder):
    """Finds on the other side what the tree of tests does not hold."""

    def __init__(self, link: Link, names: list[str], work: str) -> None:
        self.link, self.names, self.work = link, frozenset(names), work

    def find_spec(self, fullname: str, path: Any = None, _: Any = None) -> Any:
        top, *below = fullname.split(".")
        if top not in self.names:
            return None
        places = [Path(self.work, root, top, *below) for root in ("", "src")]
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        if found is not None and found.loader is not None:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, _Loader(self.link), is_package=True)
        spec.submodule_search_locations = [str(place) for place in places if place.is_dir()]
        return spec


def install(wire: Any, raised: Any, service: Any, asked: dict[str, Any]) -> Link:
    """Put stand-ins where the code under test would be imported from."""
    _KINDS.update(service.kinds(Remote))
    stream = wire.Stream(int(os.environ.pop("RAYSMITH_CHANNEL_FD")))
    link = Link(wire, raised, stream, asked["work"])
    sys.meta_path.insert(0, Finder(link, asked["apart"], asked["work"]))
    return link
