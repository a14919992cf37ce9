"""Runs pytest inside a sandbox and tells the outside what happened; trusted, stdlib and pytest only.

pytest and what it needs are imported before the workspace can be found; then the workspace comes
first on sys.path, as under `python -m pytest`. Every record goes to descriptor 3 as one line: an
HMAC under a key that came on standard input, a space, JSON with a running number.

What it cannot do: code under test runs in this interpreter, so in principle it can read the key and
call anything here. This raises the price of a lie; `tripwire.py` and the exit code are the other two.
"""

from __future__ import annotations

import builtins
import doctest  # noqa: F401 - imported early, so that the workspace cannot shadow it
import hmac
import json
import os
import random
import sys
import types
import unittest  # noqa: F401
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from _pytest import runner
from _pytest.assertion.rewrite import AssertionRewritingHook

Send = Callable[..., None]
Key = Callable[[pytest.Item], str]
Wrapper = Iterator[None]
Snapshot = dict[tuple[str, ...], tuple[Any, Any]]

_BESIDE: dict[str, types.ModuleType] = {}
_DETAIL = 12_000
_WATCHED = ("_pytest.", "pluggy.", "unittest.", "pytest.", "iniconfig.", "hmac.", "json.")


def sender(fd: int, key: bytes) -> Send:
    """A function that writes signed, numbered records; everything it uses is bound now."""
    write, digest, encode, getpid = os.write, hmac.digest, json.JSONEncoder().encode, os.getpid
    owner, sequence = getpid(), 0

    def send(kind: str, **data: object) -> None:
        nonlocal sequence
        if getpid() != owner:  # a child forked by a test has nothing to say
            return
        text = encode({"n": sequence, "kind": kind, **data}).encode()
        line = digest(key, text, "sha256").hex().encode() + b" " + text + b"\n"
        sequence += 1
        while line:
            line = line[write(fd, line) :]

    return send


def cut(text: str) -> str:
    """Head and tail of a long text."""
    if len(text) <= _DETAIL:
        return text
    half = _DETAIL // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"


def snapshot() -> Snapshot:
    """Identity of every function that pytest's own modules and builtins hold."""
    seen: Snapshot = {}
    for name, module in list(sys.modules.items()):
        if module is None or not (name + ".").startswith(_WATCHED):
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, types.FunctionType):
                seen[name, attribute] = (value, value.__code__)
            elif isinstance(value, type) and value.__module__ == name:
                for method, function in list(vars(value).items()):
                    if isinstance(function, types.FunctionType):
                        seen[name, attribute, method] = (function, function.__code__)
                    elif isinstance(function, (classmethod, staticmethod, property)):
                        seen[name, attribute, method] = (function, None)
    for attribute, value in vars(builtins).items():
        if isinstance(value, (types.BuiltinFunctionType, type)):
            seen["builtins", attribute] = (value, None)
    return seen


def current(key: tuple[str, ...]) -> tuple[Any, Any]:
    """What a snapshot holds under a key, as it is now; None for what is gone."""
    holder: Any = sys.modules.get(key[0])
    if len(key) == 3:
        holder = vars(holder).get(key[1]) if holder else None
    value = vars(holder).get(key[-1]) if holder is not None else None
    return value, getattr(value, "__code__", None)


def changed(before: Snapshot) -> list[tuple[str, ...]]:
    """Keys from `before` under which something else is by now."""
    # `current` for each of some thousand keys would be half of a quick run's own work.
    holders: dict[tuple[str, ...], Any] = {}
    found = []
    for key, (value, code) in before.items():
        place = key[:-1]
        if place not in holders:
            module: Any = vars(sys.modules[key[0]]) if key[0] in sys.modules else {}
            holders[place] = module if len(key) == 2 else getattr(module.get(key[1]), "__dict__", {})
        now = holders[place].get(key[-1])
        if now is not value or (code is not None and getattr(now, "__code__", None) is not code):
            found.append(key)
    return found


def shuffled(items: list[pytest.Item], seed: int) -> list[pytest.Item]:
    """Another order: modules, then classes and functions inside; variants of a test stay together."""
    chance = random.Random(seed)  # noqa: S311 - an order, not a secret

    def regroup(members: list[pytest.Item], keys: list[Key]) -> list[pytest.Item]:
        if not keys:
            return members
        groups: dict[str, list[pytest.Item]] = {}
        for member in members:
            groups.setdefault(keys[0](member), []).append(member)
        order = list(groups.values())
        chance.shuffle(order)
        return [member for group in order for member in regroup(group, keys[1:])]

    def block(item: pytest.Item) -> str:
        parts = item.nodeid.partition("[")[0].split("::")
        return parts[1] if len(parts) > 1 else item.nodeid

    return regroup(
        list(items),
        [lambda item: item.nodeid.split("::")[0], block, lambda item: item.nodeid.partition("[")[0]],
    )


def chain(error: BaseException | None) -> list[BaseException]:
    """An exception and what caused it, innermost last."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return seen


def missing_module(error: BaseException) -> str | None:
    """Name of the module that an import did not find, or None."""
    for link in reversed(chain(error)):
        if isinstance(link, ModuleNotFoundError):
            return link.name
    return None


def culprit(error: BaseException, work: str) -> str | None:
    """The workspace file where an exception began."""
    found = None
    for link in chain(error):
        trace = link.__traceback__
        while trace is not None:
            name = trace.tb_frame.f_code.co_filename
            if name.startswith(work + "/"):
                found = name
            trace = trace.tb_next
        if isinstance(link, SyntaxError) and (link.filename or "").startswith(work + "/"):
            found = link.filename
    return os.path.relpath(found, work) if found else None


class Reporter:
    """The plugin: it only watches, except for the order of a shuffled run."""

    def __init__(self, send: Send, asked: dict[str, Any], seen: list[str], before: Any = None) -> None:
        # Taken long before the workspace could be found, it is as good at the end as in between.
        self.is_quick = before is not None
        self.__send = send
        self.asked = asked
        self.seen = seen
        self.told = 0
        self.causes: dict[str, dict[str, Any]] = {}
        self.ahead = before
        self.before = snapshot() if before is None else before.held
        self.exit: int | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        """Plugins of the environment may patch pytest while they load; from here on nothing may."""
        for key in self.changed():
            value, code = current(key)
            place = getattr(code, "co_filename", self.asked["work"])
            if not place.startswith((self.asked["work"], "<")):
                self.before[key] = (value, code)

    def changed(self) -> list[tuple[str, ...]]:
        """Keys under which something else is than was before."""
        return changed(self.before if self.ahead is None else self.ahead.suspects())

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.asked["seed"]:
            items[:] = shuffled(items, self.asked["seed"])

    def pytest_exception_interact(self, node: pytest.Collector, call: Any, report: Any) -> None:
        if report.when == "collect" and call.excinfo is not None:
            error = call.excinfo.value
            self.causes[node.nodeid] = {
                "missing": missing_module(error),
                "culprit": culprit(error, self.asked["work"]),
                "syntax": any(isinstance(link, SyntaxError) for link in chain(error)),
            }

    @pytest.hookimpl(trylast=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            detail = cut(report.longreprtext or str(report.longrepr))
            self.__send(
                "collect_error", path=report.nodeid, detail=detail, **self.causes.get(report.nodeid, {})
            )

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        ids = [item.nodeid for item in session.items]
        inexact = []
        if self.asked["stubs"]:
            inexact = [item.nodeid for item in session.items if self.asked["is_inexact"](item)]
        self.__send("collected", ids=ids, inexact=inexact)
        if not self.is_quick:
            self.check(session.config)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        detail = "" if report.passed else cut(report.longreprtext or "")
        if report.skipped and isinstance(report.longrepr, tuple):
            detail = str(report.longrepr[2])
        self.__send(
            "subtest" if hasattr(report, "context") else "phase",
            id=report.nodeid,
            when=report.when,
            outcome=report.outcome,
            xfail=hasattr(report, "wasxfail"),
            duration=report.duration,
            detail=detail,
        )

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Wrapper:
        yield
        if self.is_quick:
            return
        module = item.nodeid.split("::")[0]
        if nextitem is None or nextitem.nodeid.split("::")[0] != module:
            self.check(item.config)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Wrapper:
        yield
        self.exit = int(session.exitstatus)
        self.check(session.config)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        if self.asked["learn"]:
            self.__send("modules", names=foreign_modules(self.asked["work"]))
        self.__send("end", exit=self.exit)

    def check(self, config: pytest.Config) -> None:
        """Tell of internals that are not what they were, and of hooks from where none may come."""
        wrong = [f"{'.'.join(key)} was replaced" for key in self.changed()[:5]]
        wrong += [f"{where} hooked itself into pytest" for where in self.strange_hooks(config)[:5]]
        wrong += self.seen[self.told :]
        self.told = len(self.seen)
        if wrong:
            self.__send("irregular", what=wrong)

    def strange_hooks(self, config: pytest.Config) -> list[str]:
        """Files of the workspace that hook into pytest and are neither protected nor declared."""
        manager, work = config.pluginmanager, self.asked["work"] + "/"
        declared: set[str] = set()
        for plugin in manager.get_plugins():
            names = getattr(plugin, "pytest_plugins", ()) if isinstance(plugin, types.ModuleType) else ()
            declared.update([names] if isinstance(names, str) else names)
        found = set()
        for hook in vars(manager.hook).values():
            for implementation in getattr(hook, "get_hookimpls", list)():
                code = getattr(implementation.function, "__code__", None)
                if code is None or not code.co_filename.startswith(work):
                    continue
                path = code.co_filename[len(work) :]
                if path not in self.asked["protected"] and implementation.plugin_name not in declared:
                    found.add(path)
        return sorted(found)


def keep_names() -> None:
    """Say in PYTEST_CURRENT_TEST that a test runs, but not which: code under test has no use for it."""

    def update(_: pytest.Item, when: str | None) -> None:
        if when:
            os.environ["PYTEST_CURRENT_TEST"] = f"a test ({when})"
        else:
            os.environ.pop("PYTEST_CURRENT_TEST", None)

    vars(runner)["_update_current_test_var"] = update


def foreign_modules(work: str) -> list[str]:
    """Modules that were imported from outside of the workspace, in order; none that pytest rewrote."""
    found = []
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if spec is None or spec.name != name or isinstance(spec.loader, AssertionRewritingHook):
            continue
        places = [spec.origin or "", *(spec.submodule_search_locations or ())]
        if not any(str(place).startswith(work) for place in places):
            found.append(name)
    return found


def arguments(asked: dict[str, Any]) -> list[str]:
    """The command line that `python -m pytest` would have had, with the base's own choices."""
    given = ["-o", "addopts=", f"--rootdir={asked['work']}", "--color=no"]
    for plugin in asked["plugins"]:
        given += ["-p", plugin]
    if asked["stubs"]:
        given.append("--collect-only")
    return [*given, *asked["options"], *asked["arguments"]]


def as_main() -> str:
    """Make `__main__` what it is under `python -m pytest`, for tests that start processes."""
    place = str(Path(pytest.__file__).with_name("__main__.py"))
    module = types.ModuleType("__main__")
    module.__file__ = place
    module.__spec__ = spec_from_file_location("pytest.__main__", place)
    sys.modules["__main__"] = module
    return place


def beside(name: str, trusted: str) -> types.ModuleType:
    """A module that lies in the trusted folder, under a name that the workspace cannot have."""
    if name in _BESIDE:
        return _BESIDE[name]
    loader = SourceFileLoader(f"raysmith_{name}", str(Path(trusted, f"{name}.py")))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = _BESIDE[name] = module_from_spec(spec)
    loader.exec_module(module)
    return module


def farewell(link: Any, exit_code: int) -> None:
    """Tell the judge that the run is over, and wait to be ended by it."""
    sys.stdout.flush()
    link.compare()
    told = {name: getattr(link, name) for name in ("calls", "requests", "notes", "doubts")}
    link.stream.send({"do": "bye", "exit": exit_code, **told})
    link.stream.receive()


def run(before: Any = None) -> int:
    """Read what is asked, run pytest, end with its exit code.

    Args:
        before: `before.Before`, made before this process was forked.
    """
    if before is not None:
        before.watch()
    asked = json.loads(sys.stdin.buffer.read())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    send = sender(3, bytes.fromhex(asked.pop("key")))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    if asked["nameless"]:
        keep_names()
    given = arguments(asked)
    sys.argv = [as_main(), *given]
    sys.path[:0] = [asked["work"], *asked["paths"]]
    if asked["stubs"]:
        # Only for a base that cannot be imported, never for a candidate.
        stubs = beside("stubs", asked["trusted"])
        stubs.install(asked["stubs"], asked["work"], asked["protected"], blind=asked["blind"])
        asked["is_inexact"] = stubs.is_inexact
    link = None
    if asked["apart"]:
        others = (beside(name, asked["trusted"]) for name in ("wire", "raised", "service"))
        link = beside("remote", asked["trusted"]).install(*others, asked)
    decides = {"protected": asked["protected"], "data": asked["data"]}
    watch = beside("watch", asked["trusted"])
    seen = watch.install(asked["work"], asked["added"], asked["tests"], **decides)
    exit_code = int(pytest.main(given, plugins=[Reporter(send, asked, seen, before)]))
    if link is not None:
        farewell(link, exit_code)
    return exit_code


if __name__ == "__main__":
    sys.exit(run())
