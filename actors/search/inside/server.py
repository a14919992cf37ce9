"""The session server: a process that holds one collected suite and forks a child per batch of candidates.

It answers `baseline`, `trace` and `evaluate`; the code of candidates runs in its children only.
"""

from __future__ import annotations

import gc
import hashlib
import marshal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import children, fuel, probing, swap, text, wire
from .measuring import Measuring
from .state import State
from .suite import Suite


@dataclass
class Prepared:
    """A candidate whose code is compiled and can be put into live functions."""

    number: int
    candidate: Mapping[str, Any]
    plan: swap.Plan = field(default_factory=list)
    edits: dict[str, list[text.Span]] = field(default_factory=dict)
    key: str = ""
    alone: bool = False


@dataclass
class Limits:
    """What one `evaluate` may use; read from the request.

    Attributes:
        until_cpu_s: No batch starts after that.
        end_cpu_s: Nothing goes on after that.
    """

    until_cpu_s: float
    end_cpu_s: float
    factor: float
    floor_s: float
    turns: int
    batch: int


#: CPU seconds of passing tests that a candidate has to pass before it is confirmed in a fork of its own.
_SCREEN_S = 0.03


class Server(Measuring):
    """Serves requests on a socket until it closes."""

    _screen: Sequence[str] = ()
    _screened: Sequence[str] | None = None

    def watch_import(self) -> None:
        """Note which functions of the task run while the suite is imported."""
        files = frozenset(self._filenames.values())
        noted = self._at_import

        def profile(frame: Any, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_filename in files:
                noted.add(swap.key(frame.f_code))

        fuel.install(files)
        sys.setprofile(profile)

    def serve(self, suite: Suite) -> None:
        """Answer requests; the first frame tells what was collected."""
        sys.setprofile(None)
        self._suite = suite
        self._swapper = swap.Swapper(self._filenames, frozenset(self._at_import), not suite.errors)
        self._state = State(self._filenames.values())
        gc.collect()
        gc.freeze()
        children.become_subreaper()
        wire.send(self._channel, {"items": list(suite.items), "errors": suite.errors})
        while (request := wire.receive(self._channel)) is not None:
            answer = getattr(self, f"do_{request['method']}")(**request["arguments"])
            wire.send(self._channel, {"result": answer, "cpu_s": children.cpu_used()})

    # -- compare ----------------------------------------------------------------

    def do_compare(
        self,
        candidates: Sequence[Mapping[str, Any]],
        path: str,
        name: str,
        calls: Sequence[Sequence[str]],
        cpu_s: float,
    ) -> dict[str, Any]:
        """What a function gives for `calls` under each candidate: a text per call; empty where unknown."""
        limit = children.cpu_used() + cpu_s
        vectors: list[list[str]] = []
        for number, candidate in enumerate(candidates):
            vector: list[str] = []
            try:
                prepared = self._prepare(number, {**candidate, "again": True})
            except (swap.NotSwappable, swap.Uncompilable, ValueError, KeyError):
                prepared = None
            if prepared is not None and children.cpu_used() < limit:
                child = children.Child(
                    lambda report, plan=prepared.plan: self._call_all(report, plan, path, name, calls)  # type: ignore[misc]
                )
                try:
                    vector = child.next(cpu_s / len(candidates) + 0.1, 5)
                except (children.Overran, children.Ended):
                    vector = []
                self._finish(child)
            vectors.append(vector)
        return {"vectors": vectors}

    def _call_all(
        self, report: children.Report, plan: swap.Plan, path: str, name: str, calls: Sequence[Sequence[str]]
    ) -> None:
        self._close_channel()
        filename = self._filenames[path]
        modules = [one for one in list(sys.modules.values()) if getattr(one, "__file__", None) == filename]
        function = getattr(modules[0], name)
        with probing.applied(plan):
            report([probing.behaviour(function, arguments) for arguments in calls])

    # -- evaluate ---------------------------------------------------------------

    def do_evaluate(
        self,
        candidates: Sequence[Mapping[str, Any]],
        failing: Sequence[str],
        others: Sequence[str],
        limits: Mapping[str, float],
    ) -> dict[str, Any]:
        """Try the candidates that are edits inside functions; tell results and which need a fresh import."""
        start = children.cpu_used()
        bounds = Limits(
            until_cpu_s=start + limits["cpu_s"],
            end_cpu_s=start + limits.get("left_s", limits["cpu_s"]),
            factor=limits.get("factor", 10.0),
            floor_s=limits.get("floor_s", 0.1),
            turns=int(limits.get("turns", 20_000)),
            batch=1 if self._fixed_order else int(limits.get("batch", 16)),
        )
        known = self._suite.items
        self._failing = [test for test in failing if test in known]
        self._others = [test for test in others if test in known]
        if self._screened != self._others:
            self._screened, self._screen = self._others, self._plain(self._others)
        done: dict[str, Any] = {}
        slow: list[int] = []
        ready: deque[Prepared] = deque()
        keys: set[str] = set()
        for number, candidate in enumerate(candidates):
            try:
                prepared = self._prepare(number, candidate)
            except swap.NotSwappable:
                slow.append(number)
            except (swap.Uncompilable, ValueError, KeyError):
                done[str(number)] = {"status": "rejected"}
            else:
                if not prepared.key:
                    done[str(number)] = {"status": "duplicate"}
                elif prepared.key in keys or (prepared.key in self._seen and not candidate.get("again")):
                    done[str(number)] = {"status": "duplicate", "key": prepared.key}
                else:
                    keys.add(prepared.key)
                    ready.append(prepared)
        self._tell(done=done, slow=slow)
        while ready and children.cpu_used() < bounds.until_cpu_s:
            self._size = min(self._size, bounds.batch)
            size = 1 if ready[0].alone else min(self._size, self._fitting(limits["cpu_s"]))
            batch = [ready.popleft() for _ in range(min(size, len(ready)))]
            self._tell(trying=[prepared.number for prepared in batch])
            done, rest = self._evaluate_batch(batch, bounds)
            ready.extendleft(reversed(rest))
            self._tell(done=done)
        return {}

    def _plain(self, tests: Sequence[str]) -> list[str]:
        """The quickest of the passing `tests` that also pass when they are tried the quick way."""
        chosen: list[str] = []
        for test in sorted(tests, key=lambda test: self._durations.get(test, 0.0)):
            if self._time([*chosen, test]) > _SCREEN_S:
                break
            chosen.append(test)

        def body(report: children.Report) -> None:
            self._close_channel()
            report([test for test in chosen if (self._suite.quick(test) or [""])[0] == "passed"])

        child = children.Child(body)
        try:
            return list(child.next(_SCREEN_S * 10 + 1, 20))
        except (children.Ended, children.Overran):
            return []
        finally:
            self._finish(child)

    def _tell(self, **frame: Any) -> None:
        wire.send(self._channel, {**frame, "cpu_s": children.cpu_used()})

    def _prepare(self, number: int, candidate: Mapping[str, Any]) -> Prepared:
        edits: dict[str, list[text.Span]] = {
            path: [(start, end, new) for start, end, new in spans]
            for path, spans in candidate["edits"].items()
        }
        prepared = Prepared(number=number, candidate=candidate, edits=edits)
        prints: list[tuple[object, ...]] = []
        for path, spans in edits.items():
            if path not in self._filenames:
                raise ValueError(path)
            draft = self._swapper.plan(path, self._guard.source(path), spans)
            prepared.plan += draft.plan
            prints += [(path, *draft.prints)] if draft.prints else []
        if prints:
            prepared.key = hashlib.blake2b(marshal.dumps(prints, 2), digest_size=12).hexdigest()
        return prepared

    def _evaluate_batch(self, batch: list[Prepared], bounds: Limits) -> tuple[dict[str, Any], list[Prepared]]:
        """Results by number, and what of the batch is still to be tried."""
        if self._fixed_order:
            return {str(one.number): {**self._confirm(one, bounds), "key": one.key} for one in batch}, []
        told, fault, clean = self._probe(batch, bounds)
        if not clean:
            # State that `State` does not know leaked from one candidate into the next.
            told, fault = told[:1], ""
            self._size = max(1, len(batch) // 4)
        elif len(batch) >= self._size:
            self._size = min(self._size * 2, bounds.batch)
        done: dict[str, Any] = {}
        for prepared, result in zip(batch, told, strict=False):
            wanted = result["fixed"] > result["broken"] or prepared.candidate.get("confirm")
            confirmed = self._confirm(prepared, bounds) if wanted else {}
            done[str(prepared.number)] = {**result, **confirmed, "key": prepared.key}
            self._seen.add(prepared.key)
        rest = batch[len(told) :]
        if fault and rest:
            victim = rest.pop(0)
            if fault == "timeout" or victim.alone or len(batch) == 1:
                done[str(victim.number)] = {"status": fault, "key": victim.key}
            else:
                victim.alone = True
                rest.insert(0, victim)
        return done, rest

    def _probe(self, batch: Sequence[Prepared], bounds: Limits) -> tuple[list[Any], str, bool]:
        """Results from the first on, why there are no more, and whether they are to be relied on."""
        limits = [self._limit([*self._chosen(one), *self._screen], bounds, self._quick_s) for one in batch]
        limits.append(self._limit(self._failing, bounds))
        self._slate.clear()
        child = children.Child(lambda _: self._probe_all(batch, bounds))
        left_s = bounds.end_cpu_s - children.cpu_used()
        fault = child.follow(self._slate, limits, left_s)
        self._finish(child, [path for one in batch for path in one.edits] if self._reads_files else ())
        told = self._slate.results()
        missing = len(batch) + (len(batch) > 1) - len(told)
        if fault == "ended":
            fault = "died" if missing else ""
        clean = len(batch) == 1 or len(told) <= len(batch) or bool(told.pop())
        return told, "" if fault == "spent" else fault, clean

    def _probe_all(self, batch: Sequence[Prepared], bounds: Limits) -> None:
        self._close_channel()
        tank = self._tank(bounds)
        disk = probing.Disk(self._guard)
        for number, prepared in enumerate(batch):
            self._slate.begin(number)
            if self._reads_files:
                disk.lay(self._guard.edited(prepared.edits))
            with probing.applied(prepared.plan):
                result = probing.probe(self._suite, self._chosen(prepared), self._base, tank, self._screen)
            self._state.restore()
            self._slate.add(result)
        if len(batch) > 1:
            self._slate.begin(len(batch))
            if self._reads_files:
                disk.lay({})
            result = probing.probe(self._suite, self._failing[: probing.MAX_FAILING], self._base, tank)
            self._slate.add(not (result["fixed"] or result["changed"]))

    def _confirm(self, prepared: Prepared, bounds: Limits) -> dict[str, Any]:
        """The full vector from a fresh fork, by pytest's own protocol."""
        order = list(self._suite.items) if self._fixed_order else [*self._failing, *self._others]
        child = children.Child(lambda report: self._confirm_all(report, prepared, order, bounds))
        outcomes: dict[str, str] = {}
        status = "ran"
        fixed = False
        wanted = set(self._failing)
        try:
            for test in order:
                cpu_s = self._limit([test], bounds)
                result = child.next(cpu_s, cpu_s * 4 + 1)
                outcomes[test] = result[0]
                status = "timeout" if result[1] == "Exhausted" else status
                fixed = fixed or (test in wanted and result[0] == "passed")
                wanted.discard(test)
                if not wanted and not fixed and not prepared.candidate.get("confirm"):
                    break
        except children.Overran:
            status = "timeout"
        except children.Ended:
            status = "died"
        self._finish(child, prepared.edits)
        return {"status": status, "outcomes": outcomes, "complete": len(outcomes) == len(order)}

    def _confirm_all(
        self, report: children.Report, prepared: Prepared, order: Sequence[str], bounds: Limits
    ) -> None:
        self._close_channel()
        tank = self._tank(bounds)
        probing.Disk(self._guard).lay(self._guard.edited(prepared.edits))
        with probing.applied(prepared.plan):
            for test, following in zip(order, [*order[1:], None], strict=True):
                fuel.fill(tank(test))
                report(self._suite.run(test, following))

    # -- helpers ----------------------------------------------------------------

    def _chosen(self, prepared: Prepared) -> list[str]:
        chosen = prepared.candidate.get("failing")
        wanted = self._failing if chosen is None else [test for test in chosen if test in self._suite.items]
        return wanted[: probing.MAX_FAILING]

    def _fitting(self, cpu_s: float) -> int:
        """How many candidates of slow tests one call has time for."""
        each_s = sum(self._quick_s.get(test, 0.0) for test in self._failing[: probing.MAX_FAILING])
        return max(1, int(cpu_s / max(each_s, 0.001)))

    def _tank(self, bounds: Limits) -> probing.Tank:
        return lambda test: int(self._turns.get(test, 0) * bounds.factor) + bounds.turns

    def _limit(self, tests: Sequence[str], bounds: Limits, known: Mapping[str, float] | None = None) -> float:
        left = max(bounds.end_cpu_s - children.cpu_used(), 0.001)
        usual = sum((self._durations if known is None else known).get(test, 0.0) for test in tests)
        return min(bounds.factor * usual + bounds.floor_s, left)
