"""What reaches Slack's screen: nothing in a task can mention, link, break out, flood, or tell a secret."""

from __future__ import annotations

import pytest

from cluster.event_log_projection import RunSummary
from orchestrator.events import RunState, Status
from orchestrator.patch import unified_diff
from orchestrator.tree import File, Tree
from serve.slack_text import (
    MOST_TEXT,
    DiffSize,
    batch_line,
    batch_root,
    blocks,
    code,
    cut,
    diff_size,
    plain,
    run_root,
)

PAYLOADS = [
    "<!channel> look",
    "<@U012345> and <!subteam^S0123|team>",
    "<https://evil.example|the dashboard>",
    "``` end of code\nnew *line* ```",
    "&lt;!here&gt; & <!everyone>",
    "a\u202etxt.exe\x1b[31m\nsecond line",
]


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("field", ["id", "graph", "reason"])
def test_a_payload_is_neutral_wherever_it_comes_from(payload: str, field: str) -> None:
    task = {"id": "t", "graph": "repair", field: payload}
    state = RunState(run_id="r-1", task=task, status=Status.FAILED, reason=payload)
    run = RunSummary(run_id="r-1", task_id=payload, status=Status.FAILED, reason=payload)

    texts = [
        run_root(state, None),
        batch_root(payload, [run], 1),
        batch_line(run),
        plain(payload),
        code(payload),
    ]

    for text in texts:
        assert "<" not in text
        assert ">" not in text
        assert "```" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert run_root(state, None).count("\n") == 1
    assert plain(payload).count("\n") == 0


def test_an_ampersand_is_escaped_once() -> None:
    assert plain("a & b &lt; c") == "a &amp; b &amp;lt; c"


@pytest.mark.parametrize(
    "secret",
    [
        "xoxb-1234567890-abcdefghij",
        "xapp-1-A012-345-abcdef",
        "ghp_0123456789abcdefghij0123456789abcdef",
        "github_pat_0123456789abcdefghij",
        "sk-ant-api03-0123456789abcdefghij",
        "sk-proj-0123456789abcdefghij",
        "sk-or-v1-0123456789abcdefghij",
        "hf_0123456789abcdefghij",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow",
    ],
)
def test_a_secret_in_a_text_is_not_told(secret: str) -> None:
    assert secret not in plain(f"failed with {secret} in the header", 1000)
    assert "[secret]" in plain(f"failed with {secret} in the header", 1000)
    assert secret[:12] not in plain("x" * 290 + secret, 300)


def test_a_password_in_an_address_is_not_told() -> None:
    assert plain("postgresql://me:hunter22@db/x") == "postgresql://[secret]@db/x"
    assert "abcdefgh1234" not in plain("Authorization: Bearer abcdefgh1234")


def test_long_text_is_cut_and_says_so() -> None:
    lines = [f"line {number} " + "x" * 100 for number in range(200)]

    text = cut(lines)

    assert len(text) <= MOST_TEXT + 100
    assert "earlier lines left out" in text.split("\n")[0]
    assert text.endswith(lines[-1])
    assert len(plain("y" * 10_000)) == 300


def test_few_lines_are_told_whole() -> None:
    assert cut(["a", "b"]) == "a\nb"


def test_every_root_fits_into_a_section_of_slack() -> None:
    worst = "&" * 10_000
    state = RunState(
        run_id="r-1",
        task={"id": worst, "graph": worst},
        status=Status.FAILED,
        reason=worst,
        report={"attempts": 3, "verdict": {"judge": worst, "sandbox_level": worst}},
    )

    text = run_root(state, DiffSize(added=1, removed=2, files=3))

    assert 0 < len(blocks(text)[0]["text"]["text"]) <= 3000


def test_a_line_of_a_reply_fits_too() -> None:
    worst = RunSummary(run_id="r-1", task_id="&" * 900, status=Status.FAILED, reason="&" * 900)

    assert len(cut([batch_line(worst)] * 30)) <= 3000
    assert cut([batch_line(worst)]) != ""


def test_a_diff_is_as_large_as_its_hunks_say() -> None:
    before = Tree(files={"a.py": File(content=b"one\ntwo\n++ three\n"), "b.py": File(content=b"x\n")})
    changes = {"a.py": File(content=b"one\n2\n-- four\n"), "b.py": None, "c.py": File(content=b"new\n")}

    size = diff_size(unified_diff(before, changes).encode())

    assert size == DiffSize(added=3, removed=3, files=3)
    assert str(size) == "+3 −3 in 3 files"
    assert diff_size(b"") == DiffSize()


def test_a_batch_counts_what_was_not_handed_over_yet() -> None:
    runs = [
        RunSummary(run_id="r-1", status=Status.SUCCEEDED),
        RunSummary(run_id="r-2", status=Status.PARKED),
        RunSummary(run_id="r-3", status=Status.RUNNING),
    ]

    text = batch_root("b-1", runs, 5)

    assert "2 of 5 runs finished" in text
    assert "1 running · 1 succeeded · 1 parked · 2 not handed over yet" in text
