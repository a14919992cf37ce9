"""Replies as models write them: what is taken, to the letter, and what is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.parsing import parse_files
from orchestrator.errors import AgentError

CODE = 'def f():\n    return "a"\n'


def texts(reply: str) -> dict[str, str]:
    return {path: file.content.decode() for path, file in parse_files(reply).items()}


@pytest.mark.parametrize(
    "head",
    [
        "app.py\n```python",
        "app.py\n\n```",
        "`app.py`:\n```py",
        "**app.py**\n```python",
        "### app.py\n```python",
        "# File: app.py\n```python",
        "File: `app.py`\n~~~python",
        "filename: app.py\n```python",
        "1. app.py\n```python",
        "./app.py\n```python",
        "// app.py\n```js",
        "Here it is.\n\n```python app.py",
        "```python:app.py",
        "```app.py",
        '```python title="app.py"',
        "app.py\r\n```python",
    ],
)
def test_a_path_is_found_in_the_ways_that_models_write_it(head: str) -> None:
    fence = "~~~" if "~~~" in head else "```"

    assert texts(f"{head}\n{CODE}{fence}\n") == {"app.py": CODE}


@pytest.mark.parametrize(
    "path", ["a/b/c.py", "Dockerfile", "deploy/Dockerfile", ".gitignore", "my-app/x_1.toml", ".github/ci.yml"]
)
def test_paths_of_many_kinds_are_read(path: str) -> None:
    assert texts(f"{path}\n```\nx\n```") == {path: "x\n"}


def test_text_inside_a_block_is_kept_to_the_letter() -> None:
    body = '\tx = "\x0c\u2028"\n\n  # app.py\n\ny = `1`'

    assert texts(f"a.py\n```\n{body}\n```") == {"a.py": f"{body}\n"}


def test_line_ends_of_windows_become_plain() -> None:
    assert texts("a.py\r\n```\r\nx\r\ny\r\n```\r\n") == {"a.py": "x\ny\n"}


def test_several_files_and_the_last_of_a_path_count() -> None:
    reply = f"a.py\n```\nold\n```\nb.py\n```\n{CODE}```\nNo, better:\na.py\n```\nnew\n```\n"

    assert texts(reply) == {"a.py": "new\n", "b.py": CODE}


def test_blocks_without_a_path_are_prose() -> None:
    reply = f"Run it:\n```sh\npip install x\n```\na.py\n```\n{CODE}```\nThat prints\n```\na\n```\n"

    assert texts(reply) == {"a.py": CODE}


def test_a_path_further_up_in_the_prose_is_not_the_blocks() -> None:
    with pytest.raises(AgentError, match="holds no file"):
        parse_files("a.py\nis what I would change.\n```\nx\n```\n")


def test_a_longer_fence_holds_shorter_ones() -> None:
    assert texts("a.py\n````\n```\nx\n```\n````\n") == {"a.py": "```\nx\n```\n"}


def test_markdown_holds_blocks_of_its_own() -> None:
    readme = "# A\n\n```sh\nmake\n```\n\nMore.\n"

    assert texts(f"README.md\n```markdown\n{readme}```\na.py\n```\nx\n```\n") == {
        "README.md": readme,
        "a.py": "x\n",
    }


@pytest.mark.parametrize(
    "thoughts",
    [
        "<think>\na.py\n```\nwrong\n```\n</think>\n",
        "I may write\na.py\n```\nwrong\n```\n</think>\n",
        "<thinking>maybe\nb.py\n```\nwrong\n```\nno</thinking>",
    ],
)
def test_what_a_model_thinks_before_it_answers_is_left_out(thoughts: str) -> None:
    assert texts(f"{thoughts}\na.py\n```\nright\n```\n") == {"a.py": "right\n"}


def test_tags_inside_a_file_are_the_files() -> None:
    body = 'x = "<think>no</think>"'

    assert texts(f"a.py\n```\n{body}\n```") == {"a.py": f"{body}\n"}


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("", "holds no file"),
        ("I cannot do that.", "holds no file"),
        ("a.py\n```\nx", "ends inside a fenced block"),
        ("```\nx\n```", "holds no file"),
        ("\x00\ud800```", "holds no file"),
        ("a" * 100_000, "holds no file"),
        ("*" * 200_000, "holds no file"),
        ("```" + " " * 200_000 + "x", "holds no file"),
        ("a. " * 100_000, "holds no file"),
    ],
)
def test_what_cannot_be_read_is_told(reply: str, words: str) -> None:
    with pytest.raises(AgentError, match=words):
        parse_files(reply)


@given(st.text(alphabet=st.sampled_from("a.py/`~ \n\r\tthink<>#*:=\"'\u2028\ud800")))
def test_any_text_gives_files_or_an_error_of_ours(reply: str) -> None:
    try:
        files = parse_files(reply)
    except AgentError:
        return

    assert files
    assert all(path and file.content.endswith(b"\n") for path, file in files.items())
