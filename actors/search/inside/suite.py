"""The task's suite inside one process: collected by pytest, run item by item. It never edits code.

A result is `[outcome, exception type, line in the test, message, milliseconds]`; the type is `Exhausted`
where the test used up its loop fuel.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from _pytest.outcomes import OutcomeException
from _pytest.reports import TestReport
from _pytest.runner import CallInfo

from . import fuel

Result = list[Any]
_MESSAGE = 600
#: Where an object lies differs from run to run and means nothing.
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")


class Suite:
    """A pytest plugin that takes over after collection and hands the items to `serve`."""

    def __init__(self, serve: Callable[[Suite], None]) -> None:
        self._serve = serve
        self.items: dict[str, pytest.Item] = {}
        self.errors: list[dict[str, Any]] = []
        self.last_call: CallInfo[None] | None = None
        self._reports: list[TestReport] = []
        self._quick: dict[str, Callable[[], object] | None] = {}

    @pytest.hookimpl
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what cannot be collected."""
        if report.failed:
            self.errors.append({"path": report.nodeid, "detail": report.longreprtext[-4000:]})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Serve instead of running everything once."""
        self.items = {item.nodeid: item for item in session.items}
        self._serve(self)
        return True

    @pytest.hookimpl
    def pytest_runtest_makereport(self, item: pytest.Item, call: CallInfo[None]) -> TestReport:
        """A report without the costly text of a traceback."""
        error = call.excinfo
        outcome, detail = "passed", None
        if error is not None:
            if self.last_call is None or not isinstance(error.value, OutcomeException):
                self.last_call = call
            outcome = "skipped" if isinstance(error.value, pytest.skip.Exception) else "failed"
            detail = ("", 0, str(error.value)) if outcome == "skipped" else _message(error.value)
        return TestReport(
            item.nodeid,
            item.location,
            dict.fromkeys(item.keywords, 1),
            outcome,  # type: ignore[arg-type]
            detail,
            call.when,  # type: ignore[arg-type]
            [],
            call.duration,
            start=call.start,
            stop=call.stop,
        )

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: TestReport) -> None:
        """Keep the report of each phase."""
        self._reports.append(report)

    def run(self, test: str, following: str | None = None) -> Result:
        """Run one item by pytest's own protocol; `following` keeps wider fixtures alive for it."""
        item = self.items[test]
        self._reports.clear()
        self.last_call = None
        started = time.perf_counter()
        nextitem = self.items[following] if following is not None else None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        spent = round((time.perf_counter() - started) * 1000, 3)
        outcome = _outcome(self._reports)
        if outcome not in ("failed", "error") or self.last_call is None or self.last_call.excinfo is None:
            return [outcome, "", 0, "", spent]
        return [outcome, *describe(self.last_call.excinfo.value, str(item.path)), spent]

    def quick(self, test: str) -> Result | None:
        """Call a test function that needs nothing of pytest; None when it may need something."""
        if test not in self._quick:
            self._quick[test] = _plain_call(self.items[test])
        call = self._quick[test]
        if call is None:
            return None
        try:
            call()
        except (SystemExit, Exception, OutcomeException, fuel.Exhausted) as error:
            return ["failed", *describe(error, str(self.items[test].path)), 0]
        return ["passed", "", 0, "", 0]

    def forget_quick(self, test: str) -> None:
        """Always use the protocol for this test: calling it plainly gave another outcome."""
        self._quick[test] = None


def run_pytest(suite: Suite, arguments: Sequence[str], options: Sequence[str], plugins: Sequence[str]) -> int:
    """Collect in this process as `python -m pytest` in the current folder would, and serve."""
    root = os.getcwd()  # noqa: PTH109
    sys.path.insert(0, root)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    named = [word for plugin in plugins for word in ("-p", plugin)]
    line = [*named, "-o", "addopts=", *options, *arguments]
    # Output goes nowhere and nothing below the root is written for pytest's own sake.
    line += ["--capture=no", "-p", "no:cacheprovider", "--tb=short", "-qq"]
    if not any(option.startswith("--rootdir") for option in options):
        line.append(f"--rootdir={root}")
    sys.argv = [pytest.__file__, *line]
    return int(pytest.main(line, plugins=[suite]))


def describe(error: BaseException, test_path: str) -> list[Any]:
    """Type, line in the test's own file (the outermost), and message of an exception."""
    line = 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == test_path:
            line = trace.tb_lineno
            break
        trace = trace.tb_next
    return [type(error).__name__, line, _message(error)]


def _message(error: BaseException) -> str:
    try:
        return _ADDRESS.sub("0x0", str(error)[:_MESSAGE])
    except Exception:
        return ""


def _outcome(reports: Sequence[TestReport]) -> str:
    outcome = "error" if not reports else "passed"
    for report in reports:
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.skipped else "xpassed"
        elif report.failed:
            # A tear-down that breaks does not make up for a failed test.
            outcome = "failed" if report.when == "call" or outcome == "failed" else "error"
        elif report.skipped:
            outcome = "skipped"
    return outcome


def _plain_call(item: pytest.Item) -> Callable[[], object] | None:
    """The item's function with its parameters, when no fixture, class or mark has a say."""
    if type(item) is not pytest.Function or item.cls is not None:
        return None
    if any(mark.name != "parametrize" for mark in item.iter_markers()):
        return None
    function, spec = item.obj, getattr(item, "callspec", None)
    parameters = dict(spec.params) if spec is not None else {}
    if set(item.fixturenames) != set(parameters) or inspect.iscoroutinefunction(function):
        return None
    if inspect.isgeneratorfunction(function) or not all(map(_is_direct, _definitions(item, parameters))):
        return None
    return lambda: function(**parameters)


def _definitions(item: pytest.Function, names: Sequence[str] | dict[str, object]) -> list[Any]:
    return [item._fixtureinfo.name2fixturedefs.get(name, [None])[-1] for name in names]


def _is_direct(definition: Any) -> bool:
    name = getattr(getattr(definition, "func", None), "__name__", "get_direct_param_fixture_func")
    return bool(name == "get_direct_param_fixture_func")
