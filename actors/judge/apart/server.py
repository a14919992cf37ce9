"""The side of the code under test: imports it, calls it, answers with plain values. Holds no test and no key.

Code under test shares this interpreter and may send what it likes; whatever it sends is data, compared
with what is expected by a process that it cannot reach. Reads one JSON line with its paths on
standard input, then serves the stream whose descriptor is in RAYSMITH_CHANNEL_FD until it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import io
import json
import os
import sys
import types
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any


class Server:
    """Objects by number, and what may be asked of them."""

    def __init__(self, wire: Any, applications: Any) -> None:
        self.wire = wire
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self.protocol_of = applications.protocol_of
        self.applications = applications.Applications(self)

    # ---- references

    def refer(self, value: Any) -> dict[str, Any]:
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return {"ref": number, **_described(value, self.protocol_of)}

    def resolve(self, data: dict[str, Any]) -> Any:
        return self.objects[data["ref"]]

    def encode(self, value: Any) -> Any:
        return self.wire.encode(value, self.refer)

    def decode(self, data: Any) -> Any:
        return self.wire.decode(data, self.resolve)

    # ---- answering

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Do what a message asks; what was printed meanwhile goes with the result."""
        out, err = io.StringIO(), io.StringIO()
        reply: dict[str, Any]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                name = message["do"]
                does = getattr(self, f"do_{name}", None) or getattr(self.applications, name)
                reply = does(message)
            except BaseException as error:  # everything a candidate raises is the test's to judge
                reply = {"error": self.error(error)}
        for name, text in (("out", out.getvalue()), ("err", err.getvalue())):
            if text:
                reply[name] = text
        return reply

    def error(self, error: BaseException) -> dict[str, Any]:
        try:
            text = str(error)
        except Exception:
            text = ""
        return {
            "class": _classes(type(error)),
            "args": self.encode(tuple(error.args)),
            "text": text,
            "of": self.refer(error),
        }

    def do_import(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"value": self.refer(importlib.import_module(message["name"]))}

    def do_get(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"value": self.encode(getattr(self.resolve(message), message["name"]))}

    def do_names(self, message: dict[str, Any]) -> dict[str, Any]:
        module = self.resolve(message)
        names = getattr(module, "__all__", None) or [name for name in vars(module) if name[0] != "_"]
        return {"value": self.encode(list(names))}

    def do_set(self, message: dict[str, Any]) -> dict[str, Any]:
        setattr(self.resolve(message), message["name"], self.decode(message["value"]))
        return {"value": None}

    def do_call(self, message: dict[str, Any]) -> dict[str, Any]:
        args = self.decode({"list": message["args"]})
        named = {name: self.decode(value) for name, value in message["named"].items()}
        reply = {"value": self.encode(self.resolve(message)(*args, **named))}
        changed = [self._bare(value) != given for value, given in zip(args, message["args"], strict=True)]
        if any(changed):
            reply["args"] = [
                self.encode(value) if differs else given
                for value, given, differs in zip(args, message["args"], changed, strict=True)
            ]
        return reply

    def _bare(self, value: Any) -> Any:
        """A value as the other side gives it: references by number alone."""
        return self.wire.encode(value, lambda thing: {"ref": self.refer(thing)["ref"]})

    def do_operate(self, message: dict[str, Any]) -> dict[str, Any]:
        args = self.decode({"list": message["args"]})
        return {"value": self.encode(_OPERATIONS[message["name"]](self.resolve(message), *args))}

    # ---- coroutines and applications

    def run(self, work: Any) -> Any:
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        return self.loop.run_until_complete(work)

    def do_await(self, message: dict[str, Any]) -> dict[str, Any]:
        awaitable = self.resolve(message)

        async def wait() -> Any:
            return await awaitable

        return {"value": self.encode(self.run(wait()))}


_OPERATIONS: dict[str, Any] = {
    "len": len,
    "iter": iter,
    "next": next,
    "str": str,
    "repr": repr,
    "int": int,
    "float": float,
    "format": format,
    "getitem": lambda value, key: value[key],
    "setitem": lambda value, key, item: value.__setitem__(key, item),
    "delitem": lambda value, key: value.__delitem__(key),
    "enter": lambda value: value.__enter__(),
    "exit": lambda value, *args: value.__exit__(*args),
}


def _described(value: Any, protocol_of: Any) -> dict[str, Any]:
    """What the other side has to know of a thing to stand in for it."""
    if isinstance(value, types.ModuleType):
        return {"kind": "module"}
    if isinstance(value, type):
        if issubclass(value, BaseException):
            return {"kind": "error", "class": _classes(value)}
        return {"kind": "class"}
    if inspect.isawaitable(value):
        return {"kind": "awaitable"}
    plain = isinstance(value, (types.FunctionType, types.BuiltinFunctionType, types.MethodType))
    return {"kind": protocol_of(value) or ("function" if plain else "object")}


def _classes(kind: type) -> list[list[str]]:
    """Module and name of an exception's class and of its parents, itself first."""
    return [[str(each.__module__), str(each.__qualname__)] for each in kind.__mro__[:-1]]


def _beside(folder: str, name: str) -> Any:
    """A module that lies beside this file, under a name that the code under test cannot have."""
    loader = SourceFileLoader(f"raysmith_{name}", str(Path(folder, f"{name}.py")))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def main() -> None:
    """Serve until the stream ends."""
    asked = json.loads(sys.stdin.buffer.readline())
    wire, applications = (_beside(asked["trusted"], name) for name in ("wire", "applications"))
    stream = wire.Stream(int(os.environ.pop("RAYSMITH_CHANNEL_FD")))
    server = Server(wire, applications)
    sys.path[:0] = asked["paths"]
    sys.argv = ["pytest"]
    while True:
        try:
            message = stream.receive()
        except EOFError:
            return
        reply = server.answer(message)
        try:
            stream.send(reply)
        except wire.Broken as error:
            stream.send({"unable": str(error)})


if __name__ == "__main__":
    main()
