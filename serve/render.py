"""What a person reads: event lines, results. Text from tasks is cleaned before it meets a terminal."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from orchestrator.events import Event, Kind

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN_TESTS = 10
_LINE = 300


def clean(text: object, most: int = _LINE) -> str:
    """`text` as one harmless line: nothing in it can move the cursor, colour, or hide."""
    shown = "".join(character if _is_harmless(character) else _escaped(character) for character in str(text))
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def clean_lines(text: str, most: int = 4000) -> str:
    """Like `clean`, but lines stay lines."""
    return "\n".join(clean(line.expandtabs(4), _LINE) for line in text[:most].splitlines())


def _is_harmless(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


class Screen:
    """Where human output goes. With `as_json` only the one object is printed."""

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self._verbose = verbose
        # What is standard output now: while a factory is open, others' prints go elsewhere.
        self._out = sys.stdout
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        """Rich's console: standard output for people, standard error beside JSON."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=self.as_json, highlight=False, emoji=False, soft_wrap=True)
        return self._console

    @property
    def is_live(self) -> bool:
        """Whether a table can be redrawn in place."""
        return not self.as_json and self.console.is_terminal

    def line(self, text: str = "", style: str = "") -> None:
        """One line for a person; nothing with `--json` unless verbose."""
        if not self.as_json or self._verbose:
            self.console.print(text, style=style or None, markup=False)

    def object(self, value: Mapping[str, Any]) -> None:
        """The one object that `--json` prints."""
        from serve.plain_json import dumps

        print(dumps(value), file=self._out, flush=True)

    def waiting(self, text: str) -> AbstractContextManager[Any]:
        """A spinner while something takes its time, on a terminal only."""
        if not self.is_live:
            return nullcontext()
        from rich.text import Text

        return self.console.status(Text(text))

    def diff(self, text: str) -> None:
        """A patch, coloured on a terminal and byte for byte otherwise."""
        if not self.is_live:
            self.console.file.write(text)
            self.console.file.flush()
            return
        for line in text.splitlines():
            self.line(clean(line.expandtabs(8), 2000), _diff_style(line))


def _diff_style(line: str) -> str:
    if line.startswith(("+++", "---", "diff ", "new ", "deleted ")):
        return "bold"
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")


def event_line(event: Event) -> str:
    """What happened, in a line; empty for events that only machines need."""
    teller = _TELLERS.get(event.type)
    return clean(teller(event)) if teller else ""


def _tests(count: int) -> str:
    return "1 test fails" if count == 1 else f"{count} tests fail"


def _submitted(event: Event) -> str:
    return f"run {event.run_id} accepted"


def _dispatched(event: Event) -> str:
    return f"{event.step} -> {event.data.get('replica', '?')}" + (
        f" (delivery {event.epoch})" if event.epoch > 1 else ""
    )


def _progress(event: Event) -> str:
    data = event.data
    if "turn" in data:
        return _turn(data)
    told = f"{data.get('candidates', 0)} candidates tried, {_tests(int(data.get('failing', 0)))}"
    # Explanations add up over a run; the last one is what is new.
    newest = str(data.get("explanation") or "").rpartition("; ")[2]
    return f"{told}: {newest}" if newest else told


def _turn(data: Mapping[str, Any]) -> str:
    """A turn of an agent at a shell, in one line."""
    number = f"{data.get('agent', 'agent')} turn {data['turn']}"
    if not data.get("usable", True):
        return f"{number}: unusable reply: {' '.join(str(data.get('told', '')).split())[:160]}"
    command = " ⏎ ".join(str(data.get("command") or "submits").strip().splitlines())
    ended = f"exit {data['exit_code']}" if data.get("exit_code") is not None else "no exit code"
    told = f"{number}: {command[:120]}{'…' if len(command) > 120 else ''}"
    told += f" ({ended})" if data.get("command") else ""
    return told if data.get("failing") is None else f"{told}: {_tests(int(data['failing']))}"


def _kept(event: Event) -> str:
    files = ", ".join(event.data.get("files", []))
    return f"kept the best so far ({_tests(int(event.data.get('failing') or 0))}): {files}"


_CUT = {"length": " (cut off at its longest)", "repetition": " (cut: it repeated itself without end)"}


def _called(event: Event) -> str:
    data, tokens = event.data, event.data.get("tokens") or {}
    told = f"{data.get('provider') or data.get('engine')}"
    told += f": {data['error']}" if data.get("error") else f" replied: {tokens.get('completion', 0)} tokens"
    if data.get("finish_reason") in _CUT:
        told += _CUT[data["finish_reason"]]
    if tokens.get("prompt"):
        told += f", {tokens['prompt']} read, {tokens.get('cached', 0)} of them cached"
    told += f", ${data['cost_usd']:.4f}" if data.get("cost_usd") else ""
    return f"{told} ({data['why']})" if data.get("why") else told


def _failed(event: Event) -> str:
    error = event.data.get("error") or {}
    return f"{event.step} failed: {error.get('message', 'no reason given')}"


def _ended(event: Event) -> str:
    data = event.data
    told = f"{event.step} {data.get('status')}"
    told += f": {data['reason']}" if data.get("reason") not in (None, "", "done") else ""
    return f"{told}: {', '.join(data['files'])}" if data.get("files") else told


def _decided(event: Event) -> str:
    verb = "approved" if event.data.get("approved") else "rejected"
    return f"{event.step} {verb} by {event.data.get('by')}{_because(event)}"


def _because(event: Event) -> str:
    return f": {event.data['why']}" if event.data.get("why") else ""


def _finished(event: Event) -> str:
    return f"{event.data.get('status')}: {event.data.get('reason')}"


_TELLERS: Mapping[str, Callable[[Event], str]] = {
    Kind.RUN_SUBMITTED: _submitted,
    Kind.RUN_RESUMED: lambda _event: "carried on from the event log",
    Kind.STEP_DISPATCHED: _dispatched,
    Kind.STEP_PROGRESS: _progress,
    Kind.STEP_FAILED: _failed,
    Kind.STEP_REQUEUED: lambda event: f"{event.step} goes to another replica: {event.data.get('reason', '')}",
    Kind.ATTEMPT_STARTED: lambda event: (
        f"attempt {event.attempt}: {_tests(len(event.data.get('failing', ())))}"
    ),
    Kind.VERDICT_REACHED: lambda event: verdict_line(event.data["verdict"]),
    Kind.PATCH_KEPT: _kept,
    Kind.CANCEL_REQUESTED: lambda event: f"cancelled {event.data.get('reason', '')}".rstrip(),
    Kind.PAUSE_REQUESTED: lambda event: (
        f"pausing, asked by {event.data.get('by')}{_because(event)}; "
        + ("what is at work is stopped" if event.data.get("now") else "what is at work comes to its end")
    ),
    Kind.RUN_FINISHED: _finished,
    Kind.ENGINE_CALLED: _called,
    Kind.NODE_STARTED: lambda event: f"{event.step} starts",
    Kind.NODE_ENDED: _ended,
    Kind.APPROVAL_ASKED: lambda event: (
        f"{event.step} waits for a person: {event.data.get('message')} "
        f"(raysmith approve {event.run_id} {event.step})"
    ),
    Kind.APPROVAL_DECIDED: _decided,
}


def verdict_line(verdict: Mapping[str, Any]) -> str:
    """A verdict's counts and whether it is a certificate."""
    groups = ("passed", "failed", "errors", "missing", "flaky", "skipped")
    counts = [f"{len(verdict[name])} {name}" for name in groups if verdict.get(name)]
    kind = "certified" if verdict.get("certified") else "not certified"
    how = f"judge {verdict.get('judge')}, sandbox {verdict.get('sandbox_level')}"
    return f"{', '.join(counts) or 'no tests'}; {kind} ({how})"


def result_lines(result: Mapping[str, Any]) -> list[str]:
    """A run's result without its diff: how it ended, its cost, its certificate, what stands against it."""
    lines = [f"{result['status']}: {_REASONS.get(result['reason'], result['reason'])}"]
    if result.get("files"):
        lines.append(f"changed: {clean(', '.join(result['files']))}")
    lines.append(_cost(result))
    verdict = result.get("verdict")
    if verdict:
        name = "certificate" if verdict.get("certified") else "verdict"
        lines.append(f"{name}: {verdict_line(verdict)}")
        lines.extend(_against(verdict))
    lines.extend(_reviewed(result.get("review", ())))
    return lines


def _reviewed(findings: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The reviewer's opinions, each with the place that it is about."""
    for finding in findings:
        place = f"{finding['path']}:{finding['line']}" if finding["line"] else finding["path"]
        about = f"{finding['severity']} {finding['kind']}"
        yield f"  review, {about}: {clean(place)}: {clean(finding['message'])}"


_REASONS = {
    "certified": "certified",
    "already_passing": "every test passes already, there is nothing to repair",
    "attempts_exhausted": "attempts_exhausted, the best patch so far is kept",
    "budget_exhausted": "budget_exhausted, the best patch so far is kept",
    "no_candidate": "no_candidate, no change was found that fails fewer tests",
    "awaiting_approval": "awaiting_approval, `raysmith approve RUN` or `raysmith reject RUN` goes on",
    "paused": "paused, `raysmith resume RUN` carries it on",
    "integrity_alarm": "integrity_alarm, a candidate tried to fool the judge; look at it before using it",
}


def _cost(result: Mapping[str, Any]) -> str:
    parts = [f"{result.get('wall_s', 0):.1f} s"]
    if "attempts" in result:
        parts.insert(0, f"{result['attempts']} attempt" + ("" if result["attempts"] == 1 else "s"))
    if result.get("candidates"):
        parts.append(f"{result['candidates']} candidates")
    if result.get("repairer"):
        parts.append(f"repairer: {result['repairer']}")
    return ", ".join(parts)


def _against(verdict: Mapping[str, Any]) -> Iterable[str]:
    for name in ("failed", "errors", "missing", "flaky"):
        tests: Sequence[str] = verdict.get(name, ())
        yield from (f"  {name}: {clean(test)}" for test in tests[:_SHOWN_TESTS])
        if len(tests) > _SHOWN_TESTS:
            yield f"  {name}: and {len(tests) - _SHOWN_TESTS} more"
    yield from (f"  finding: {clean(finding)}" for finding in verdict.get("findings", ()))


def comparison_lines(told: Mapping[str, Any]) -> Iterable[str]:
    """What `orchestrator.comparison.compared` found, for people."""
    yield f"{told['runs'][0]}  |  {told['runs'][1]}"
    for name, label in (("same_task", "task"), ("same_graph", "graph")):
        if not told[name]:
            yield f"another {label}"
    for name in ("outcome", "nodes", "steps", "tests", "cost"):
        for key, (first, second) in told[name].items():
            if first != second:
                yield f"{name} {key}: {_shown(first)}  |  {_shown(second)}"
    if not told["patch"]["same"]:
        files = [", ".join(each) or "none" for each in told["patch"]["files"]]
        yield f"another patch: {files[0]}  |  {files[1]}"
    yield f"{told['shared']} facts in common"
    if told["parted_at"]:
        yield f"they part at {'  |  '.join(_place(at) for at in told['parted_at'])}"
    if told["equal"]:
        yield "same outcome, nodes, tests and patch"


def _place(at: Mapping[str, Any] | None) -> str:
    if at is None:
        return "its end"
    return f"event {at['seq']} ({at['type']}{' of ' + at['step'] if at['step'] else ''})"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(str(each) for each in value.values() if each not in (None, "", []))[:80]
    return "-" if value is None else str(value)
