"""How the original behaves: outcomes, durations, loop turns, lines, types and failures per test."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import children, fuel, tracing
from .guard import Guard
from .slate import Slate
from .state import State
from .suite import Suite

# A suite in which everything hangs is measured in seconds, not in minutes.
_SECOND_HANG_S = 0.5
_FEW_HANGS = 4
_BASE_TURNS = 3_000_000
_STARTS = frozenset(("subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.system"))


class Watch:
    """Whether tests read the task's files again or start processes that may; a hook that stays for good."""

    def __init__(self, filenames: Iterable[str]) -> None:
        self._files = frozenset(filenames)
        self.seen = False
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STARTS:
            self.seen = True
        elif event == "open" and isinstance(arguments[0], str):
            self.seen = self.seen or os.path.abspath(arguments[0]) in self._files  # noqa: PTH100


class Measuring:
    """A collected suite, measured in forked children. `_suite` and `_state` are set once it is collected."""

    _suite: Suite
    _state: State

    def __init__(self, channel: socket.socket, guard: Guard, sources: Sequence[str], root: str) -> None:
        self._channel = channel
        self._guard = guard
        self._filenames = {path: f"{root}/{path}" for path in sources}
        self._at_import: set[tuple[str, int, str]] = set()
        self._durations: dict[str, float] = {}
        self._seen: set[str] = set()
        self._slate = Slate()
        self._size = 1 << 20
        self._fixed_order = False
        self._wrote = False
        self._reads_files = True
        self._turns: dict[str, int] = {}
        self._quick_s: dict[str, float] = {}
        self._base: dict[str, list[Any]] = {}

    def do_baseline(
        self, timeout_s: float, reordered: bool | None, first: Sequence[str], total_s: float
    ) -> dict[str, Any]:
        """Outcomes of the original in the file's order and with failing tests first.

        Args:
            timeout_s: CPU seconds that a test may take.
            reordered: Whether another order changes outcomes, where that is known already.
            first: Tests whose outcome is wanted in any case.
            total_s: CPU seconds; tests that are not reached in them have no outcome.
        """
        before = children.cpu_used()
        measured = self._measure(list(self._suite.items), timeout_s, before + total_s)
        unreached = [test for test in first if test in self._suite.items and test not in measured]
        measured.update(self._measure(unreached, timeout_s, before + total_s * 2))
        tests = [test for test in self._suite.items if test in measured]
        if len(tests) < len(self._suite.items) or children.cpu_used() - before > total_s / 2:
            # No time to compare two orders: candidates are tried in the order that was measured.
            reordered = bool(reordered)
        results = {test: result[:5] for test, result in measured.items()}
        failing = [test for test in tests if results[test][0] in ("failed", "error")]
        others = [test for test in tests if test not in set(failing)]
        hung = {test for test in tests if results[test][1] in ("Timeout", "Exhausted")}
        self._turns = {test: measured[test][5] for test in tests if test not in hung}
        self._reads_files = any(measured[test][6] for test in tests)
        wrote = self._wrote
        order = [test for test in [*failing, *others] if test not in hung]
        again = self._measure(order, timeout_s, before + total_s * 2) if reordered is None else results
        self._fixed_order = bool(reordered) or any(
            test in again and results[test][0] != again[test][0] for test in order
        )
        self._durations = {
            test: max(results[test][4], again.get(test, results[test])[4]) / 1000 for test in order
        }
        self._quick_s = dict(self._durations)
        self._measure_probes([test for test in failing if test not in hung])
        return {"results": results, "fixed_order": self._fixed_order, "writes": wrote}

    def _measure_probes(self, tests: Sequence[str]) -> None:
        """How failing tests fail when they are tried the quick way, twice in one process."""

        def body(report: children.Report) -> None:
            self._close_channel()
            for test in tests:
                started = time.process_time()
                quick, second = self._suite.quick(test), None
                spent = time.process_time() - started
                if quick is not None:
                    self._state.restore()
                    second = self._suite.quick(test)
                report([quick, second, spent])
                self._state.restore()

        child = children.Child(body)
        self._base = {}
        try:
            for test in tests:
                quick, second, spent = child.next(self._time([test]) * 10 + 1, 20)
                if quick is None:
                    continue
                self._quick_s[test] = spent
                if quick[0] == "passed":
                    self._suite.forget_quick(test)
                elif quick == second:
                    self._base[test] = quick
                else:
                    self._base[test] = [*quick[:3], "", 0]
        except (children.Ended, children.Overran):
            for test in tests:
                self._suite.forget_quick(test)
        self._finish(child)

    def _measure(self, tests: Sequence[str], timeout_s: float, end_cpu_s: float) -> dict[str, Any]:
        """Outcomes of `tests` in their order, of the first ones where the time is over before all ran."""
        results: dict[str, Any] = {}
        hangs = 0
        left = list(tests)
        while left and children.cpu_used() < end_cpu_s:
            todo = tuple(left)
            child = children.Child(lambda report, todo=todo: self._run_all(report, todo))  # type: ignore[misc]
            try:
                while left and children.cpu_used() + child.cpu_s < end_cpu_s:
                    results[left[0]] = child.next(timeout_s, timeout_s * 2)
                    left.pop(0)
            except children.Overran:
                results[left.pop(0)] = ["failed", "Timeout", 0, "", 0, 0, True]
                # Few hangs leave the others their time.
                end_cpu_s += timeout_s if hangs < _FEW_HANGS else 0.0
                hangs += 1
                timeout_s = min(timeout_s, _SECOND_HANG_S)
            except children.Ended:
                results[left.pop(0)] = ["error", "Died", 0, "", 0, 0, True]
            self._finish(child)
        return results

    def _run_all(self, report: children.Report, tests: Sequence[str]) -> None:
        self._close_channel()
        watch = Watch(self._filenames.values())
        for test, following in zip(tests, [*tests[1:], None], strict=True):
            fuel.fill(_BASE_TURNS)
            result = self._suite.run(test, following)
            report([*result, _BASE_TURNS - max(fuel.left(), 0), watch.seen])

    def do_trace(self, tests: Sequence[str], test_s: float, total_s: float) -> dict[str, Any]:
        """Lines that each of `tests` executes, type names per function, and how failing tests fail."""
        limit = children.cpu_used() + total_s
        lines: dict[str, Any] = {}
        types: dict[str, dict[str, list[str]]] = {}
        failures: dict[str, Any] = {}
        calls: dict[str, list[list[str]]] = {}
        visits: dict[str, Any] = {}
        left = list(tests)
        while left and children.cpu_used() < limit:
            child = children.Child(
                lambda report, todo=tuple(left): self._trace_all(report, todo, test_s)  # type: ignore[misc]
            )
            try:
                while left and children.cpu_used() < limit:
                    told = child.next(test_s * 3 + 0.5, test_s * 6 + 2)
                    test = left.pop(0)
                    lines[test] = told["lines"]
                    visits[test] = told["visits"]
                    failures.update({test: told["failure"]} if told["failure"] else {})
                    _merge(types, told["types"])
                    for function, some in told["calls"].items():
                        known = calls.setdefault(function, [])
                        known += [one for one in some if one not in known]
                    if told["overrun"]:
                        break
            except (children.Overran, children.Ended):
                left.pop(0)
            self._finish(child)
        return {"lines": lines, "types": types, "failures": failures, "calls": calls, "visits": visits}

    def _trace_all(self, report: children.Report, tests: Sequence[str], test_s: float) -> None:
        self._close_channel()

        def overrun() -> None:
            tracer.stop()
            report(self._traced(tracer, overrun=True))
            os._exit(0)

        tracer = tracing.Tracer(self._filenames, overrun, test_s)
        for test, following in zip(tests, [*tests[1:], None], strict=True):
            tracer.start()
            try:
                self._suite.run(test, following)
            finally:
                tracer.stop()
            report(self._traced(tracer, overrun=False))

    def _traced(self, tracer: tracing.Tracer, *, overrun: bool) -> dict[str, Any]:
        call = None if overrun else self._suite.last_call
        failure: dict[str, Any] | None = {"type": "Timeout", "message": "", "frames": []} if overrun else None
        if call is not None and call.excinfo is not None:
            error = call.excinfo.value
            paths = {filename: path for path, filename in self._filenames.items()}
            failure = {
                "type": type(error).__name__,
                "message": str(error)[:2000],
                "frames": tracing.locations(error.__traceback__, paths),
            }
        return {
            "lines": {path: sorted(lines) for path, lines in tracer.lines.items()},
            "types": tracer.types,
            "calls": tracer.calls,
            "visits": {"values": tracer.visits, "truncated": tracer.truncated},
            "failure": failure,
            "overrun": overrun,
        }

    def _time(self, tests: Sequence[str]) -> float:
        return sum(self._durations.get(test, 0.0) for test in tests)

    def _close_channel(self) -> None:
        self._channel.close()

    def _finish(self, child: children.Child, laid: Iterable[str] = ()) -> None:
        child.kill()
        children.reap_strays()
        for path in sorted(set(laid)):
            self._guard.put_back({path: None})
        self._wrote = self._guard.restore() > 0


def _merge(into: dict[str, dict[str, list[str]]], more: Mapping[str, Mapping[str, list[str]]]) -> None:
    for function, names in more.items():
        known = into.setdefault(function, {})
        for name, kinds in names.items():
            known[name] = sorted({*known.get(name, ()), *kinds})
