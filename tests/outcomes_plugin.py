"""Writes the outcome of every test of a plain pytest to the file that OUTCOMES names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

_PLACE = Path(os.environ["OUTCOMES"]) if "OUTCOMES" in os.environ else Path(os.devnull)
_ENDED: dict[str, list[pytest.TestReport]] = {}


def _outcome(reports: list[pytest.TestReport]) -> str:
    by_phase = {report.when: report for report in reports}
    call = by_phase.get("call")
    if by_phase["setup"].failed:
        return "error"
    if call is not None and call.failed:
        return "failed"
    if by_phase["teardown"].failed:
        return "error"
    telling = call if call is not None else by_phase["setup"]
    if telling.skipped:
        return "xfailed" if hasattr(telling, "wasxfail") else "skipped"
    return "xpassed" if hasattr(telling, "wasxfail") else "passed"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if hasattr(report, "context"):  # a subtest
        if report.failed:
            _FAILED_PARTS.add(report.nodeid)
        return
    _ENDED.setdefault(report.nodeid, []).append(report)
    if report.when == "teardown":
        _tell()


_FAILED_PARTS: set[str] = set()


def _tell() -> None:
    """After every test: one of them may end the process."""
    told = {test: _outcome(reports) for test, reports in _ENDED.items() if len(reports) > 1}
    told |= {test: "failed" for test in _FAILED_PARTS if told.get(test) == "passed"}
    _PLACE.write_text(json.dumps(told))
