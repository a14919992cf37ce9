"""The worker's top process: keeps pytest loaded, forks session servers, and never imports the task's code."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import IO, Any

from . import children, fuel, wire
from .guard import Guard
from .server import Server
from .suite import Suite, run_pytest

_COLLECT_S = 120.0


def serve(channel: socket.socket) -> None:
    """Be the worker of the current folder until `channel` closes."""
    children.become_subreaper()
    channel.settimeout(None)
    Worker(os.getcwd(), channel).loop()  # noqa: PTH109


class Worker:
    """Answers the repairer's calls; survives whatever a session server or a candidate does."""

    def __init__(self, root: str, channel: socket.socket) -> None:
        self._channel = channel
        self._root = root
        self._guard = Guard(root)
        self._started: dict[str, Any] | None = None
        self._server: socket.socket | None = None
        self._pid = 0
        self._server_cpu_s = 0.0
        self._base: dict[str, Any] | None = None

    def loop(self) -> None:
        """Serve until the channel closes."""
        while (request := wire.receive(self._channel)) is not None:
            reply: dict[str, Any] = {"id": request.get("id")}
            try:
                method = getattr(self, f"do_{request['method']}")
                reply["result"] = method(**request["arguments"])
            except Exception as error:
                reply["error"] = f"{type(error).__name__}: {error}"
                reply["trace"] = traceback.format_exc(limit=8)
            reply["cpu_s"] = self.cpu_s
            wire.send(self._channel, reply)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of this process and everything it started, as far as told."""
        return children.cpu_used() + self._server_cpu_s

    # -- methods ----------------------------------------------------------------

    def do_start(
        self, arguments: Sequence[str], options: Sequence[str], plugins: Sequence[str], sources: Sequence[str]
    ) -> dict[str, Any]:
        """Collect the suite; `sources` are the files that candidates may change. Starting twice is once."""
        wanted = {"arguments": arguments, "options": options, "plugins": plugins, "sources": sources}
        if self._started is None or self._started["wanted"] != wanted:
            self._wanted = wanted
            self._started = {"wanted": wanted, "answer": self._open()}
        return dict(self._started["answer"])

    def do_baseline(
        self,
        timeout_s: float,
        reordered: bool | None = None,
        first: Sequence[str] = (),
        total_s: float = 1e9,
    ) -> dict[str, Any]:
        """Outcomes and durations on the base: of `first` in any case, of others while `total_s` lasts."""
        self._base = {"timeout_s": timeout_s, "reordered": reordered, "first": first, "total_s": total_s}
        if self._server is None:
            return {"results": {}, "fixed_order": False, "writes": False}
        return self._call("baseline", self._base)

    def do_trace(self, tests: Sequence[str], test_s: float = 0.5, total_s: float = 3.0) -> dict[str, Any]:
        """Lines executed per test, and how failing tests fail."""
        if self._server is None:
            return {"lines": {}, "types": {}, "failures": {}, "calls": {}, "visits": {}}
        return self._call("trace", {"tests": tests, "test_s": test_s, "total_s": total_s})

    def do_evaluate(
        self,
        candidates: Sequence[Mapping[str, Any]],
        failing: Sequence[str],
        others: Sequence[str],
        limits: Mapping[str, float],
    ) -> list[dict[str, Any]]:
        """One result per candidate, in order; `skipped` is what the limits left no time for."""
        until = self.cpu_s + limits["cpu_s"]
        end = self.cpu_s + limits.get("left_s", limits["cpu_s"])
        answer = self._try(candidates, failing, others, limits)
        results = {int(number): result for number, result in answer["results"].items()}
        for number in answer["slow"]:
            if self.cpu_s >= until:
                break
            results[number] = self._import_anew(
                candidates[number], [*failing, *others], len(failing), limits, end
            )
        return [results.get(number, {"status": "skipped"}) for number in range(len(candidates))]

    def do_compare(
        self,
        candidates: Sequence[Mapping[str, Any]],
        path: str,
        name: str,
        calls: Sequence[Sequence[str]],
        cpu_s: float,
    ) -> list[list[str]]:
        """What a function gives for `calls` under each candidate: a text per call; empty where unknown."""
        arguments = {"candidates": candidates, "path": path, "name": name, "calls": calls, "cpu_s": cpu_s}
        return list(self._call("compare", arguments)["vectors"])

    def do_rebase(self, edits: Mapping[str, Sequence[Sequence[Any]]]) -> dict[str, Any]:
        """Make an accepted edit part of the base and collect again."""
        spans = {path: [(start, end, new) for start, end, new in changed] for path, changed in edits.items()}
        self._guard.accept(self._guard.edited(spans))
        answer = self._open()
        self._started = {"wanted": self._wanted, "answer": answer}
        return answer

    # -- the session server -----------------------------------------------------

    def _open(self) -> dict[str, Any]:
        self._close()
        # A candidate that ended the server was never put back.
        self._guard.restore(self._wanted["sources"])
        started = time.monotonic()
        mine, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as log:
            self._pid = os.fork()
            if self._pid == 0:
                self._be_server(mine, theirs, log)
            theirs.close()
            mine.settimeout(_COLLECT_S)
            try:
                answer = wire.receive(mine)
            except (OSError, ValueError):
                answer = None
            if answer is None:
                self._server = mine
                self._close()
                log.seek(0)
                text = log.read()[-8000:].decode(errors="replace")
                answer = {"items": [], "errors": [{"path": "", "detail": text}]}
            else:
                self._server = mine
        self._guard.restore()
        self._collect_s = time.monotonic() - started
        return dict(answer)

    def _be_server(self, mine: socket.socket, theirs: socket.socket, log: IO[bytes]) -> None:
        try:
            os.setpgid(0, 0)
            self._channel.close()
            mine.close()
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            server = Server(theirs, self._guard, self._wanted["sources"], self._root)
            server.watch_import()
            run_pytest(Suite(server.serve), *self._pytest_words())
        finally:
            with contextlib.suppress(Exception):
                # What pytest said is the reason where nothing could be collected.
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(0)

    def _pytest_words(self) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
        return self._wanted["arguments"], self._wanted["options"], self._wanted["plugins"]

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._pid:
            for kill, who in ((os.killpg, self._pid), (os.kill, self._pid)):
                with contextlib.suppress(OSError):
                    kill(who, 9)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = 0
            # What it and its ended children used is now among our own ended children.
            self._server_cpu_s = 0.0
        children.reap_strays()

    def _call(self, method: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        told = list(self._frames(method, arguments, 600))
        if not told or "result" not in told[-1]:
            raise RuntimeError(f"the session server ended during {method}")
        return dict(told[-1]["result"])

    def _frames(self, method: str, arguments: Mapping[str, Any], timeout_s: float) -> list[dict[str, Any]]:
        """Everything the server says to one request; no last `result` when it died; it is back then."""
        told: list[dict[str, Any]] = []
        if self._server is None:
            return told
        try:
            self._server.settimeout(timeout_s)
            wire.send(self._server, {"method": method, "arguments": arguments})
            while (frame := wire.receive(self._server)) is not None:
                told.append(frame)
                self._server_cpu_s = frame.get("cpu_s", self._server_cpu_s)
                if "result" in frame:
                    return told
        except (OSError, ValueError):
            pass
        self._open()
        if self._base is not None and method != "baseline":
            self._frames("baseline", self._base, timeout_s)
        return told

    def _try(
        self,
        candidates: Sequence[Mapping[str, Any]],
        failing: Sequence[str],
        others: Sequence[str],
        limits: Mapping[str, float],
    ) -> dict[str, Any]:
        if self._server is None:
            return {"results": {}, "slow": list(range(len(candidates)))}
        arguments = {"candidates": candidates, "failing": failing, "others": others, "limits": limits}
        told = self._frames("evaluate", arguments, limits["cpu_s"] * 10 + 60)
        answer: dict[str, Any] = {"results": {}, "slow": []}
        for frame in told:
            answer["results"].update(frame.get("done", {}))
            answer["slow"] += frame.get("slow", [])
        if not told or "result" not in told[-1]:
            trying: list[int] = next((frame["trying"] for frame in reversed(told) if "trying" in frame), [])
            for number in trying:
                # One of them ended the server; tried alone, the others get their own result.
                alone = self._try([candidates[number]], failing, others, limits) if len(trying) > 1 else {}
                if alone.get("slow"):
                    answer["slow"].append(number)
                else:
                    result = alone.get("results", {}).get("0", {"status": "died"})
                    answer["results"].setdefault(str(number), result)
        return answer

    # -- candidates that take a fresh import ------------------------------------

    def _import_anew(
        self,
        candidate: Mapping[str, Any],
        order: Sequence[str],
        failing: int,
        limits: Mapping[str, float],
        end: float,
    ) -> dict[str, Any]:
        """The result of one candidate.

        Args:
            failing: How many tests at the start of `order` fail on the base.
            end: The CPU second at which it has to end.
        """
        try:
            contents = self._guard.edited(
                {path: [tuple(span) for span in spans] for path, spans in candidate["edits"].items()}
            )
            for path, content in contents.items():
                compile(content, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, KeyError, RecursionError, MemoryError):
            return {"status": "rejected"}
        self._guard.write(contents)
        child = children.Child(
            lambda report: self._collect_and_run(report, order, int(limits.get("turns", 20_000)) * 20)
        )
        outcomes: dict[str, str] = {}
        status = "ran"

        def following(cpu_s: float, wall_s: float) -> Any:
            return child.next(min(cpu_s, max(end - self.cpu_s - child.cpu_s, 0.001)), wall_s)

        test_s = limits.get("factor", 10.0) * limits.get("test_s", 0.05) + limits.get("floor_s", 0.1)
        try:
            collected = following(self._collect_s * 5 + 2, self._collect_s * 10 + 10)
            for number, test in enumerate(order, 1):
                result = following(test_s, test_s * 4 + 1) if test in collected["items"] else ["missing", ""]
                outcomes[test] = result[0]
                status = "timeout" if result[1] == "Exhausted" else status
                if number == failing and "passed" not in outcomes.values():
                    break
        except children.Overran:
            status = "skipped" if self.cpu_s + child.cpu_s >= end else "timeout"
        except children.Ended:
            status = "died"
        child.kill()
        children.reap_strays(keep=self._pid)
        self._guard.put_back(contents)
        self._guard.restore()
        return {"status": status, "outcomes": outcomes, "complete": len(outcomes) == len(order), "slow": True}

    def _collect_and_run(self, report: children.Report, order: Sequence[str], turns: int) -> None:
        self._channel.close()
        if self._server is not None:
            self._server.close()

        def serve(suite: Suite) -> None:
            present = [test for test in order if test in suite.items]
            report({"items": present})
            for test, following in zip(present, [*present[1:], None], strict=True):
                fuel.fill(turns)
                report(suite.run(test, following))

        fuel.install([f"{self._root}/{path}" for path in self._wanted["sources"]])
        fuel.fill(turns)
        run_pytest(Suite(serve), *self._pytest_words())
