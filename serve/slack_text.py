"""What Slack shows of runs and batches. Text from tasks mentions and links nothing and holds no secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.event_log_projection import RunSummary
from orchestrator.events import Event, Kind, RunState, Status
from serve.render import clean, event_line

# Slack takes 3000 characters in a section, and 12 lines are what a thread shows without a fold.
MOST_TEXT = 2800
MOST_LINES = 25
MOST_NAMES = 15

_ICONS: Mapping[Status, str] = {
    Status.PENDING: ":hourglass:",
    Status.RUNNING: ":hammer_and_wrench:",
    Status.SUCCEEDED: ":white_check_mark:",
    Status.FAILED: ":x:",
    Status.CANCELLED: ":no_entry_sign:",
    Status.PARKED: ":warning:",
}
_TOLD = frozenset(
    {
        Kind.RUN_STARTED,
        Kind.RUN_RESUMED,
        Kind.ATTEMPT_STARTED,
        Kind.STEP_REQUEUED,
        Kind.STEP_FAILED,
        Kind.VERDICT_REACHED,
        Kind.PATCH_KEPT,
        Kind.CANCEL_REQUESTED,
        Kind.PAUSE_REQUESTED,
        Kind.RUN_FINISHED,
    }
)
_SECRETS = re.compile(
    r"""
    xox[a-z]-[\w-]{8,} | xapp-[\w-]{8,}                      # Slack
    | gh[pousr]_\w{16,} | github_pat_\w{16,} | glpat-[\w-]{16,}
    | sk-[\w-]{16,} | hf_\w{16,}                             # OpenAI, Anthropic, OpenRouter, Hugging Face
    | A(?:KI|SI)A[0-9A-Z]{16} | AIza[\w-]{30,} | ya29\.[\w-]{16,}
    | eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*                         # JSON Web Token
    | -----BEGIN[ A-Z]*PRIVATE\ KEY-----.*
    | (?<=://)[^\s/@]+:[^\s/@]+(?=@)                         # user and password in an address
    | (?i:\bbearer\s+)[\w.~+/=-]{8,}
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "ˋ"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffSize:
    """How large a patch is."""

    added: int = 0
    removed: int = 0
    files: int = 0

    def __str__(self) -> str:
        return f"+{self.added} −{self.removed} in {_count(self.files, 'file')}"


def plain(text: object, most: int = 300) -> str:
    """`text` as one line that Slack shows as it is: escaped, without secrets, at most `most` long."""
    # Secrets first: a cut one would no longer look like one.
    shown = _SECRETS.sub("[secret]", str(text))
    return clean(shown, most).translate(_ESCAPES)


def code(text: object, most: int = 120) -> str:
    """`text` in the type of code; nothing in it can end that."""
    return f"`{plain(text, most) or ' '}`"


def cut(lines: Sequence[str], most: int = MOST_LINES) -> str:
    """The last of `lines` that fit into a message, and how many were left out before them."""
    kept: list[str] = []
    room = MOST_TEXT
    for line in reversed(lines[-most:]):
        room -= len(line) + 1
        if room < 0:
            break
        kept.insert(0, line)
    left_out = len(lines) - len(kept)
    note = [f"_… {_count(left_out, 'earlier line')} left out_"] if left_out else []
    return "\n".join([*note, *kept])


def blocks(text: str) -> list[dict[str, Any]]:
    """`text` as Slack's blocks; `verbatim` keeps Slack from making mentions and links of it."""
    return [{"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}]


def run_root(state: RunState, diff: DiffSize | None) -> str:
    """The message that a run's thread hangs on."""
    task = state.task
    name = plain(task.get("id") or state.run_id, 120)
    outcome = f"{state.status}: {plain(state.reason)}" if state.reason else str(state.status)
    first = f"{_ICONS[state.status]} *{name}* · {plain(task.get('graph', ''), 40)} · {outcome}"
    return "\n".join([first, " · ".join(part for part in _run_facts(state, diff) if part)])


def _run_facts(state: RunState, diff: DiffSize | None) -> Iterable[str]:
    task, report = state.task, state.report
    if state.status.is_finished:
        yield _count(_number(report.get("attempts"), state.attempt), "attempt")
    elif state.attempt:
        yield f"attempt {state.attempt} of {_number((task.get('budget') or {}).get('attempts'), 0)}"
    if not state.status.is_finished and state.best_failing is not None:
        yield f"{_count(state.best_failing, 'test')} still failing"
    if candidates := _candidates(state):
        yield _count(candidates, "candidate")
    if diff is not None:
        yield f"diff {diff}"
    if state.status.is_finished and isinstance(report.get("wall_s"), int | float):
        yield f"{report['wall_s']:.1f} s"
    verdict = report.get("verdict") or state.verdict
    if verdict:
        yield f"judge {plain(verdict.get('judge'), 40)}, sandbox {plain(verdict.get('sandbox_level'), 40)}"
    yield f"run {code(state.run_id)}"


def _candidates(state: RunState) -> int:
    if state.report:
        return _number(state.report.get("candidates"), 0)
    return sum(
        # An agent's turns tell of no candidates.
        next((_number(told["candidates"], 0) for told in reversed(step.progress) if "candidates" in told), 0)
        for step in state.steps.values()
    )


def run_lines(events: Iterable[Event], diff: DiffSize | None) -> list[tuple[int, str]]:
    """What happened, a line with its event's number for each fact that people care about."""
    return [(event.seq, _line(event, diff)) for event in events if event.type in _TOLD]


def _line(event: Event, diff: DiffSize | None) -> str:
    if event.type is Kind.RUN_STARTED:
        return "started"
    if event.type is Kind.RUN_FINISHED:
        size = f"; diff {diff}" if diff is not None else ""
        return f"*{plain(event.data.get('status'))}*: {plain(event.data.get('reason'))}{size}"
    return plain(event_line(event))


def batch_root(batch_id: str, runs: Sequence[RunSummary], size: int) -> str:
    """The message that a batch's thread hangs on."""
    counts = {status: sum(run.status is status for run in runs) for status in Status}
    over = sum(counts[status] for status in Status if status.is_finished)
    total = max(size, len(runs))
    if over < total:
        icon = _ICONS[Status.RUNNING]
    else:
        icon = _ICONS[Status.SUCCEEDED if counts[Status.SUCCEEDED] == total else Status.FAILED]
    told = " · ".join(f"{count} {status}" for status, count in counts.items() if count)
    waiting = f" · {total - len(runs)} not handed over yet" if len(runs) < total else ""
    return (
        f"{icon} *batch {plain(batch_id, 120)}* · {over} of {_count(total, 'run')} finished\n{told}{waiting}"
    )


def batch_line(run: RunSummary) -> str:
    """How one run of a batch ended."""
    name = plain(run.task_id or run.run_id, 120)
    attempts = _count(run.attempt, "attempt")
    return (
        f"{_ICONS[run.status]} {name}: {run.status}, {plain(run.reason)} ({attempts}, run {code(run.run_id)})"
    )


def diff_size(diff: bytes) -> DiffSize:
    """Lines added and removed and files touched by a unified diff."""
    added = removed = files = 0
    old = new = 0
    for line in diff.splitlines():
        if old <= 0 and new <= 0:
            if line.startswith(b"diff ") or line.startswith(b"+++ "):
                files += line.startswith(b"+++ ")
            elif match := re.match(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", line):
                old, new = (int(group) if group is not None else 1 for group in match.groups())
            continue
        added += line.startswith(b"+")
        removed += line.startswith(b"-")
        old -= line.startswith((b"-", b" ")) or not line
        new -= line.startswith((b"+", b" ")) or not line
    return DiffSize(added=added, removed=removed, files=files)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _number(value: Any, otherwise: int) -> int:
    return value if type(value) is int else otherwise
