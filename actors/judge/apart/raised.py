"""Exceptions of the code under test on the side of its tests: their classes by name, their words as data."""

from __future__ import annotations

import builtins
import sys
from typing import Any

_TEST_TOOLS = ("pytest", "_pytest", "unittest", "pluggy")
_DEEPEST = 20


class Raised:
    """Makes exceptions that `pytest.raises` knows by the class that a test imported."""

    def __init__(self, link: Any) -> None:
        self.link = link
        self.made: dict[tuple[str, str, type], type] = {}

    def error(self, data: dict[str, Any]) -> BaseException:
        """An exception of the class that the other side names, with its arguments and text."""
        kind = self.error_class(data["class"])
        args = self.link.decode(data["args"])
        args = args if type(args) is tuple else ()
        if "_raysmith" not in vars(kind):
            try:
                return kind(*args)  # type: ignore[no-any-return]
            except Exception:
                return kind.__new__(kind)  # type: ignore[no-any-return]
        made: BaseException = kind.__new__(kind)
        made.args = args
        made.__dict__["_raysmith"] = (self.link, data.get("of", {}).get("ref"), str(data.get("text")))
        return made

    def error_class(self, line: Any) -> Any:
        """The class of an exception, given its own and its parents' modules and names.

        The interpreter's own is itself; every other is made for its name below the nearest parent that
        this process has, so that its attributes can be asked for.
        """
        names = [(str(module), str(name)) for module, name in line][:_DEEPEST]
        for place, (module, name) in enumerate(names):
            found = _known(module, name, self.link)
            if found is None:
                continue
            own = found.__module__ == "builtins"
            for above in reversed(names[: place if own else place + 1]):
                found = self._below(found, *above)
            return found
        return Exception

    def _below(self, parent: type, module: str, name: str) -> type:
        """A class under the name of one on the other side, the same one each time."""
        if (module, name, parent) not in self.made:
            content = {"__module__": module, "__str__": _text, "__getattr__": _attribute, "_raysmith": None}
            self.made[module, name, parent] = type(name.rpartition(".")[2], (parent,), content)
        return self.made[module, name, parent]


def _text(error: BaseException) -> str:
    said = error.__dict__.get("_raysmith")
    return said[2] if said else Exception.__str__(error)


def _attribute(error: BaseException, name: str) -> Any:
    said = error.__dict__.get("_raysmith")
    if name.startswith("__") or not said or type(said[1]) is not int:
        raise AttributeError(name)
    link = said[0]
    return link.decode(link.ask("get", ref=said[1], name=name)["value"])


def _known(module: str, name: str, link: Any) -> Any:
    """An exception class that this process has by itself; never one of the tools that run tests."""
    if module.partition(".")[0] in _TEST_TOOLS:
        return None
    found: Any = builtins if module == "builtins" else sys.modules.get(module)
    if found is None or link.is_stand_in(found):
        return None
    for part in name.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) and issubclass(found, BaseException) else None
