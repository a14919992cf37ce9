"""What the shell agent is told of a command or a test run. No durations: the same is told the same way."""

from __future__ import annotations

import re
from collections.abc import Mapping

from actors.judge.text import clean, cut
from actors.prompts import fenced
from actors.shell.settings import ShellSettings
from actors.shell.workspace import Candidate, Ran

# What differs from run to run though nothing else does: addresses of objects, pytest's own time.
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]{9,16}\b")
_PYTEST_TIME = re.compile(
    r"(\d+ (?:passed|failed|error|errors|skipped|deselected|warnings?)\b[^\n]*? in )[\d.]+s"
)

_TESTS = 20
_DETAILED = 5
_PATHS = 10


def stable(text: str) -> str:
    """`text` without addresses and pytest's time, so that the same work is told the same way again."""
    return _PYTEST_TIME.sub(r"\1…s", _ADDRESS.sub("at 0x…", text))


def outcome(ran: Ran, settings: ShellSettings) -> str:
    """What a command did, its output as data in a fenced block."""
    if ran.end == "lost":
        return "The command ended its sandbox. A fresh one holds the files as they were before it."
    ends = {
        "timeout": f"The command was ended: it was still running after {settings.command_s:g} seconds.",
        "flood": f"The command was ended: it printed more than {settings.output_mib} MiB.",
    }
    lines = [ends.get(ran.end, f"Exit code {ran.exit_code}.")]
    lines += [f"Output:\n{fenced(stable(ran.output))}"] if ran.output.strip() else ["It printed nothing."]
    return "\n".join([*lines, *ran.notes])


def left_out(candidate: Candidate) -> str:
    """What of the workspace is no part of the patch; empty where all is."""
    shown = [f"{_path(path)} ({reason})" for path, reason in list(candidate.left_out.items())[:_PATHS]]
    more = len(candidate.left_out) - len(shown)
    if not shown:
        return ""
    return f"Not part of the change: {', '.join(shown)}{f' and {more} more' if more > 0 else ''}."


def failing(tests: tuple[str, ...], details: Mapping[str, str], most: int) -> str:
    """Which tests fail, and what `details` says of the first of them, in at most about `most` characters."""
    names = [f"- {clean(test, 300)}" for test in tests[:_TESTS]]
    if len(tests) > _TESTS:
        names.append(f"- and {len(tests) - _TESTS} more")
    said = []
    for test, text in list(details.items())[:_DETAILED]:
        said.append(f"{clean(test, 300)}\n{fenced(stable(cut(text, most // _DETAILED)))}")
    return "\n".join([f"Raysmith ran the tests on the change: {len(tests)} fail.", *names, *said])


def _path(path: str) -> str:
    return clean(path, 200).replace("\n", " ")
