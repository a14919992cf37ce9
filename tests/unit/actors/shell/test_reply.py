"""What is read out of replies as models write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.shell.reply import Command, read_command
from orchestrator.errors import AgentError


def text_of(reply: str) -> str:
    return read_command(reply).text


@pytest.mark.parametrize(
    ("reply", "command"),
    [
        ("```bash\nls -la\n```", "ls -la"),
        ("I look.\n\n```sh\nls\n```\nand then", "ls"),
        ("```\nls\n```", "ls"),
        ("~~~bash\nls\n~~~", "ls"),
        ("````bash\necho '```'\n````", "echo '```'"),
        ("```bash\r\nls\r\n```\r\n", "ls"),
        ("```python\nx\n```\n\n```bash\nls\n```", "ls"),
        ("<think>\n```bash\nrm -rf x\n```\n</think>\n```bash\nls\n```", "ls"),
        ("plan ```bash\n</think>\n```bash\nls\n```", "ls"),
        ('{"thought": "look", "command": "ls"}', "ls"),
        ('<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>', "ls"),
        ("```bash\nls\n```\n```bash\nrm x\n```", "ls"),
    ],
)
def test_finds_the_command(reply: str, command: str) -> None:
    assert text_of(reply) == command


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "ls",
        "```bash\n```",
        "```bash\n  \n```",
        "```bash\nls",
        "```python\nprint(1)\n```",
        "```\na\n```\n```\nb\n```",
        "<think>\n```bash\nls\n```",
        '{"command": 3}',
        '{"command": ""}',
        "[" * 100_000,
    ],
)
def test_a_reply_without_one_usable_command_is_refused_with_the_next_move(reply: str) -> None:
    with pytest.raises(AgentError) as refused:
        read_command(reply)

    assert refused.value.message and refused.value.next_move


def test_a_fence_inside_a_here_document_is_text_of_the_file() -> None:
    command = "cat > README.md <<'EOF'\nRun:\n```\nmake\n```\nEOF\nls"

    assert text_of(f"```bash\n{command}\n```\nDone.") == command


@pytest.mark.parametrize(
    "line", ["python -c 'print(1 << y)'", "cat <<< text", "cat <<EOF", "echo $((1 << N))"]
)
def test_what_only_looks_like_a_here_document_does_not_swallow_the_end(line: str) -> None:
    assert text_of(f"```bash\n{line}\n```\nmore\n") == line


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("echo RAYSMITH_DONE", ""),
        ("submit", ""),
        ("echo 'RAYSMITH_DONE'", ""),
        ("pytest -q && echo RAYSMITH_DONE", "pytest -q"),
        ("pytest -q\necho RAYSMITH_DONE\n", "pytest -q"),
    ],
)
def test_a_submission_is_known_alone_and_behind_a_command(said: str, text: str) -> None:
    assert read_command(f"```bash\n{said}\n```") == Command(
        text=text, submits=True, said=f"```bash\n{said}\n```"
    )


@pytest.mark.parametrize("said", ["echo RAYSMITH_DONE > x", "grep RAYSMITH_DONE x", "submit x", "git submit"])
def test_a_command_that_only_names_the_word_is_no_submission(said: str) -> None:
    assert not read_command(f"```bash\n{said}\n```").submits


def test_what_follows_the_command_is_not_kept() -> None:
    reply = "Why.\n```bash\nls\n```\nOutput: a b c"

    assert read_command(reply).said == "Why.\n```bash\nls\n```"


@given(st.text(alphabet="`~ \n<>{}\"'abEOF\\-/;&$(|", max_size=200) | st.text(max_size=300))
def test_any_text_gives_a_command_or_a_refusal(reply: str) -> None:
    try:
        command = read_command(reply)
    except AgentError:
        return
    assert command.text.strip() or command.submits


@given(st.text(min_size=1, max_size=100).filter(lambda text: text.strip() and "\0" not in text))
def test_a_structured_action_is_read_to_the_letter(command: str) -> None:
    read = read_command(json.dumps({"thought": "x", "command": command}))

    assert read.submits or read.text == command.replace("\r\n", "\n").strip("\n")


@pytest.mark.parametrize(
    "reply",
    [
        "<tool_call>" * 18_000,
        "```bash\n" + "cat <<EOF\n" * 19_000,
        "```bash\n" + "".join(f"cat <<A{n} <<-B{n}\n" for n in range(9_000)),
        "```bash\n" + "<<E" * 60_000,
    ],
    ids=["tool calls", "one word", "many words", "one line"],
)
def test_what_never_ends_is_read_in_one_pass(reply: str) -> None:
    # Looked for from each beginning, the ends of these cost minutes.
    with pytest.raises(AgentError, match=r"no command block|does not end"):
        read_command(reply)


def test_here_documents_end_where_a_shell_ends_them() -> None:
    body = "cat <<A <<-'B'\n```\nA\n\t```\n\tB\necho done"

    assert text_of(f"```bash\n{body}\n```\nand so on") == body
    # One whose word never comes holds nothing back.
    assert text_of("```bash\ncat <<A\nx\n```\n") == "cat <<A\nx"
