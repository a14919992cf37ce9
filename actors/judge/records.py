"""Reads what a reporter told: every signature, number and phase is checked, nothing is believed twice."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.judge.text import clean
from orchestrator.verdict import CollectionError, Outcome, TestCase

_PHASES = ("setup", "call", "teardown")
_MOST_IRREGULAR = 20
_MOST_MODULES = 5000
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Where a collection error began: a workspace file, and whether it is a syntax error."""

    culprit: str | None = None
    syntax: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The content of one reporter's records.

    `causes` has one entry per collection error; `inexact` are ids named with stand-ins.
    """

    cases: tuple[TestCase, ...] = ()
    collected: tuple[str, ...] = ()
    collection_errors: tuple[CollectionError, ...] = ()
    causes: tuple[Cause, ...] = ()
    inexact: frozenset[str] = frozenset()
    complete: bool = False
    irregular: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    started: bool = False


def read(data: bytes, key: bytes) -> Told:
    """Check and fold the records of one run.

    Args:
        data: What arrived on the private descriptor.
        key: The run's own key.
    """
    fold = _Fold()
    for line in data.splitlines():
        record = _verified(line, key)
        if record is None:
            fold.wrong(f"a record without a valid signature: {clean(line[:60].decode(errors='replace'))!r}")
            continue
        try:
            fold.take(record)
        except (KeyError, TypeError, ValueError, AttributeError):
            fold.wrong("a signed record that no reporter writes")
    return fold.told()


def _verified(line: bytes, key: bytes) -> dict[str, Any] | None:
    signature, _, text = line.partition(b" ")
    if not hmac.compare_digest(signature, hmac.digest(key, text, "sha256").hex().encode()):
        return None
    try:
        record: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record


@dataclass(slots=True)
class _Fold:
    """The state while records are read in order."""

    expected: int = 0
    collected: list[str] | None = None
    inexact: frozenset[str] = frozenset()
    errors: list[CollectionError] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    phases: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    subtests: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    irregular: dict[str, None] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    ended: bool = False

    def wrong(self, what: str) -> None:
        if len(self.irregular) < _MOST_IRREGULAR:
            self.irregular[what] = None

    def take(self, record: Mapping[str, Any]) -> None:
        if record["n"] != self.expected:
            self.wrong(f"record {record['n']} where {self.expected} was due")
        self.expected = record["n"] + 1
        if self.ended:
            self.wrong(f"a {record['kind']} record after the closing one")
        getattr(self, f"_{record['kind']}")(record)

    def _collected(self, record: Mapping[str, Any]) -> None:
        if self.collected is not None:
            self.wrong("tests were collected twice")
        self.collected = list(record["ids"])
        self.inexact = frozenset(record["inexact"])

    def _collect_error(self, record: Mapping[str, Any]) -> None:
        self.errors.append(
            CollectionError(
                path=record["path"],
                detail=clean(record["detail"]),
                missing_module=record.get("missing"),
            )
        )
        self.causes.append(Cause(culprit=record.get("culprit"), syntax=bool(record.get("syntax"))))

    def _phase(self, record: Mapping[str, Any]) -> None:
        seen = self.phases.setdefault(record["id"], {})
        if record["when"] in seen:
            self.wrong(f"{record['id']} reported its {record['when']} twice")
        if record["when"] not in _PHASES:
            self.wrong(f"{record['id']} reported an unknown phase")
        seen[record["when"]] = dict(record)

    def _subtest(self, record: Mapping[str, Any]) -> None:
        self.subtests.setdefault(record["id"], []).append(dict(record))

    def _irregular(self, record: Mapping[str, Any]) -> None:
        for what in record["what"]:
            self.wrong(what)

    def _modules(self, record: Mapping[str, Any]) -> None:
        names = [str(name) for name in record["names"]]
        self.modules = tuple(name for name in names if _MODULE.fullmatch(name))[:_MOST_MODULES]

    def _end(self, _: Mapping[str, Any]) -> None:
        self.ended = True

    def told(self) -> Told:
        collected = tuple(clean_id(test) for test in self.collected or ())
        known = set(self.collected or ())
        cases = []
        for test, phases in self.phases.items():
            if test not in known:
                self.wrong(f"{clean(test, 200)} reported without being collected")
            case = _case(test, phases, self.subtests.get(test, []))
            if case is not None:
                cases.append(case)
            elif self.ended:
                self.wrong(f"{clean(test, 200)} did not report every phase")
        return Told(
            cases=tuple(cases),
            collected=collected,
            collection_errors=tuple(self.errors),
            causes=tuple(self.causes),
            inexact=self.inexact,
            complete=self.ended,
            irregular=tuple(self.irregular),
            modules=self.modules,
            started=self.expected > 0,
        )


def clean_id(test: str) -> str:
    """An id that can be shown; pytest escapes what cannot, so an honest id stays as it is."""
    return clean(test, 2000)


def _case(
    test: str, phases: Mapping[str, Mapping[str, Any]], subtests: list[dict[str, Any]]
) -> TestCase | None:
    """One test's outcome, or None when it did not report every phase that it owes."""
    setup, call, teardown = (phases.get(when) for when in _PHASES)
    if setup is None or teardown is None or (setup["outcome"] == "passed" and call is None):
        return None
    telling, outcome = _outcome(setup, call, teardown)
    failed = [sub for sub in subtests if sub["outcome"] == "failed"]
    detail = telling["detail"]
    if failed and outcome in (Outcome.PASSED, Outcome.FAILED):
        outcome, detail = Outcome.FAILED, "\n".join([sub["detail"] for sub in failed] + [detail])
    return TestCase(
        id=clean_id(test),
        outcome=outcome,
        duration_s=sum(float(phase["duration"]) for phase in phases.values()),
        detail=clean(detail),
    )


def _outcome(
    setup: Mapping[str, Any], call: Mapping[str, Any] | None, teardown: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Outcome]:
    """The phase that tells, and what it tells."""
    if setup["outcome"] == "failed":
        return setup, Outcome.ERROR
    if call is not None and call["outcome"] == "failed":
        return call, Outcome.FAILED
    if teardown["outcome"] == "failed":
        return teardown, Outcome.ERROR
    telling = setup if setup["outcome"] == "skipped" or call is None else call
    if telling["outcome"] == "skipped":
        return telling, Outcome.XFAILED if telling["xfail"] else Outcome.SKIPPED
    return telling, Outcome.XPASSED if telling["xfail"] else Outcome.PASSED
