"""What people read: events, verdicts, results; nothing untrusted steers the terminal."""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.events import Event, Kind
from serve.batch import Tally
from serve.render import Screen, clean, clean_lines, event_line, result_lines, verdict_line
from serve.tables import batch_line, batch_table, duration

VERDICT = {
    "passed": ["a", "b"],
    "failed": ["c"],
    "skipped": [],
    "errors": [],
    "missing": [],
    "flaky": [],
    "certified": False,
    "judge": "in_process",
    "sandbox_level": "namespace",
    "findings": ["run 1 exited with 1"],
}


def event(kind: str, data: dict[str, Any] | None = None, **envelope: Any) -> Event:
    fields = {
        "run_id": "r-1",
        "seq": 1,
        "version": 1,
        "at": "2030-01-01T00:00:00.000000Z",
        "step": None,
        "attempt": 0,
        "epoch": 0,
        "dispatch_id": None,
        "tenant": "default",
        "prev_hash": "",
        "hash": "",
    }
    return Event(type=kind, data=data or {}, **{**fields, **envelope})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (event(Kind.RUN_SUBMITTED), "run r-1 accepted"),
        (event(Kind.STEP_DISPATCHED, {"replica": "run-01"}, step="profile", epoch=1), "profile -> run-01"),
        (
            event(Kind.STEP_DISPATCHED, {"replica": "run-02"}, step="profile", epoch=2),
            "profile -> run-02 (delivery 2)",
        ),
        (event(Kind.ATTEMPT_STARTED, {"failing": ["a", "b"]}, attempt=1), "attempt 1: 2 tests fail"),
        (
            event(
                Kind.STEP_PROGRESS, {"candidates": 40, "failing": 1, "explanation": "x is y; < becomes <="}
            ),
            "40 candidates tried, 1 test fails: < becomes <=",
        ),
        (
            event(Kind.PATCH_KEPT, {"failing": 0, "files": ["x.py"]}),
            "kept the best so far (0 tests fail): x.py",
        ),
        (
            event(Kind.VERDICT_REACHED, {"verdict": VERDICT}),
            "2 passed, 1 failed; not certified (judge in_process, sandbox namespace)",
        ),
        (
            event(
                Kind.STEP_PROGRESS,
                {"agent": "shell", "turn": 3, "command": "ls\npwd", "exit_code": 2, "failing": 1},
            ),
            "shell turn 3: ls ⏎ pwd (exit 2): 1 test fails",
        ),
        (
            event(Kind.STEP_PROGRESS, {"agent": "shell", "turn": 4, "usable": False, "told": "no\nblock"}),
            "shell turn 4: unusable reply: no block",
        ),
        (event(Kind.STEP_FAILED, {"error": {"message": "no"}}, step="repair"), "repair failed: no"),
        (event(Kind.RUN_FINISHED, {"status": "failed", "reason": "stuck"}), "failed: stuck"),
        (event(Kind.STEP_COMPLETED), ""),
        (event("of_the_future"), ""),
    ],
)
def test_an_event_is_told_in_a_line(told: Event, line: str) -> None:
    assert event_line(told) == line


def test_every_event_type_can_be_told_without_its_data() -> None:
    sparse = [kind for kind in Kind if kind is not Kind.VERDICT_REACHED]

    assert all(isinstance(event_line(event(kind)), str) for kind in sparse)


@given(st.text())
def test_cleaned_text_holds_nothing_that_steers_a_terminal(text: str) -> None:
    shown = clean(text)

    assert len(shown) <= 300
    assert all(unicodedata.category(character)[0] != "C" for character in shown)
    assert "\n" not in shown


def test_lines_stay_lines_when_cleaned() -> None:
    assert clean_lines("a\x1b[31mb\nc\td") == "a\\x1b[31mb\nc   d"


def test_a_result_tells_how_it_ended_and_what_stands_against_it() -> None:
    result = {
        "status": "failed",
        "reason": "no_candidate",
        "attempts": 1,
        "candidates": 120,
        "repairer": None,
        "files": [],
        "wall_s": 3.21,
        "verdict": VERDICT,
    }

    assert result_lines(result) == [
        "failed: no_candidate, no change was found that fails fewer tests",
        "1 attempt, 3.2 s, 120 candidates",
        "verdict: 2 passed, 1 failed; not certified (judge in_process, sandbox namespace)",
        "  failed: c",
        "  finding: run 1 exited with 1",
    ]


def test_a_long_list_of_failures_is_cut() -> None:
    verdict = {**VERDICT, "failed": [f"t{number}" for number in range(15)]}

    lines = result_lines({"status": "failed", "reason": "stuck", "verdict": verdict})

    assert lines[-2] == "  failed: and 5 more"


def test_a_certificate_is_called_one() -> None:
    verdict = {**VERDICT, "failed": [], "findings": [], "certified": True}

    lines = result_lines({"status": "succeeded", "reason": "certified", "wall_s": 1, "verdict": verdict})

    assert lines[-1] == f"certificate: {verdict_line(verdict)}"


def test_with_json_a_person_is_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)

    screen.line("hello")
    screen.object({"a": "é\x1b"})

    captured = capsys.readouterr()
    assert captured.out == '{"a": "\\u00e9\\u001b"}\n'
    assert captured.err == ""


def test_the_one_object_stands_alone_whatever_others_print(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)

    with contextlib.redirect_stdout(sys.stderr):
        print("(raylet) a node died")
        screen.object({"a": 1})

    assert capsys.readouterr().out == '{"a": 1}\n'


def test_a_diff_that_is_piped_stays_byte_for_byte(capsys: pytest.CaptureFixture[str]) -> None:
    text = "--- a/x\n+++ b/x\n-\x1b[31m\n+[bold]not markup[/]\ttab\n"

    Screen().diff(text)

    assert capsys.readouterr().out == text


def test_a_batch_is_told_with_queue_running_rate_and_eta() -> None:
    tally = Tally(queued=6, running=2, succeeded=5, failed=1, began=100.0)
    tally.last.append("t1: succeeded (certified)")

    line = batch_line(tally, 160.0)

    assert line == (
        "t1: succeeded (certified); queue 6, running 2, succeeded 5, failed 1, rate 6.0/min, ETA 1 min 20 s"
    )
    assert [column.header for column in batch_table(tally, 160.0).columns] == [
        "queue",
        "running",
        "succeeded",
        "failed",
        "rate",
        "ETA",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "-"), (0.4, "0 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")]
)
def test_durations_are_readable(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown
