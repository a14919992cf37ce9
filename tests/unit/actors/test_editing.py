"""What a reply's blocks do to files: applied whole, refused with a reason, never guessed, never outside."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import editing
from actors.edited_text import EditedText
from actors.editing import MAX_PROBLEMS, Applied, apply_blocks
from actors.matching import NoMatch, locate, nearest
from actors.parsing import parse
from orchestrator.patch import check_path
from orchestrator.tree import File, FileMode, Tree

FILES = {
    "a.py": "def f():\n    return 1\n\n\ndef g():\n    return 2\n",
    "pkg/b.py": "X = 1\nY = 2\n",
    "crlf.txt": "one\r\ntwo\r\n",
    "README.md": "# A\n\n```sh\nmake\n```\n",
}
TREE = Tree(files={path: File(content=text.encode()) for path, text in FILES.items()})


def applied(reply: str, tree: Tree = TREE, *, cut: bool = False) -> Applied:
    return apply_blocks(tree, parse(reply, known=tree.files, cut=cut))


def edit(path: str, search: str, replace: str) -> str:
    return f"{path}\n```\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n```\n"


def test_each_edit_stands_on_its_own() -> None:
    found = applied(
        edit("a.py", "    return 1", "    return 10")
        + edit("a.py", "    return 7", "    return 70")
        + edit("pkg/b.py", "Y = 2", "Y = 20")
    )

    assert {path: file.content for path, file in found.changes.items() if file} == {
        "a.py": b"def f():\n    return 10\n\n\ndef g():\n    return 2\n",
        "pkg/b.py": b"X = 1\nY = 20\n",
    }
    assert ["nowhere" in problem.reason for problem in found.problems] == [True]
    assert len(found.blocks) == 2


def test_two_places_may_get_the_same_lines_and_one_said_twice_changes_once() -> None:
    wrong = '    raise ValueError("bad")'
    found = applied(edit("a.py", "    return 1", wrong) + edit("a.py", "    return 2", wrong))
    twice = applied(2 * edit("pkg/b.py", "X = 1", "X = 1\nZ = 3"))

    assert not found.problems
    assert found.changes["a.py"].content == f"def f():\n{wrong}\n\n\ndef g():\n{wrong}\n".encode()
    assert twice.changes["pkg/b.py"].content == b"X = 1\nZ = 3\nY = 2\n"


def test_a_problem_shows_the_file_as_it_is_now_around_the_likeliest_place() -> None:
    found = applied(edit("a.py", "def g():\n    return 3", "def g():\n    return 4"))

    (problem,) = found.problems
    assert problem.path == "a.py"
    assert "def g():" in problem.shown and "    return 2" in problem.shown
    assert problem.shown_from == 1


def test_several_places_are_named() -> None:
    tree = Tree(files={"a.py": File(content=b"x = 1\ny = 2\nx = 1\n")})

    (problem,) = applied(edit("a.py", "x = 1", "x = 2"), tree).problems

    assert "stands twice in the file, at lines 1, 3" in problem.reason


@pytest.mark.parametrize("path", ["../a.py", "/etc/a.py", "~/a.py", "C:\\a.py", "pkg/../../a.py"])
def test_paths_outside_are_refused_and_the_rest_applies(path: str) -> None:
    found = applied(f"{path}\n```\nx = 1\n```\n" + edit("pkg/b.py", "X = 1", "X = 3"))

    assert list(found.changes) == ["pkg/b.py"]


def test_line_ends_bom_and_mode_of_a_file_are_kept() -> None:
    tree = TREE.with_files({"run.sh": File(content=b"\xef\xbb\xbfold\r\nrest\r\n", mode=FileMode.EXECUTABLE)})

    found = applied(edit("run.sh", "old", "new"), tree)

    assert found.changes["run.sh"] == File(content=b"\xef\xbb\xbfnew\r\nrest\r\n", mode=FileMode.EXECUTABLE)


def test_lines_of_other_ends_keep_theirs() -> None:
    tree = Tree(files={"m.txt": File(content=b"one\r\ntwo\nthree\r\n")})

    found = applied(edit("m.txt", "two", "2"), tree)

    assert found.changes["m.txt"] == File(content=b"one\r\n2\nthree\r\n")


def test_an_edit_that_breaks_python_is_told_and_not_made() -> None:
    found = applied(edit("a.py", "    return 1", "return 1"))

    assert found.changes == {}
    assert "is no Python after that (line 2" in found.problems[0].reason


def test_after_many_problems_the_rest_is_not_tried() -> None:
    found = applied("".join(edit("a.py", f"no{number} = 1", "x = 1") for number in range(200)))

    assert len(found.problems) == MAX_PROBLEMS + 1
    assert "180 more blocks" in found.problems[-1].reason


@pytest.mark.parametrize(
    ("search", "file", "start"),
    [
        ("b", "a\nb\nc", 1),
        ("b  ", "a\nb\nc", 1),
        ("if x:\n    y", "  if x:\n      y", 0),
        ("if x:\n\n    y", "if x:\n    y", 0),
        ("if x:\n    y", "if x:\n\ty", 0),
        ("x = “a”", 'x = "a"', 0),
    ],
)
def test_lines_are_found_though_their_blanks_differ(search: str, file: str, start: int) -> None:
    assert locate(file.split("\n"), search.split("\n"), search.split("\n")).start == start


@pytest.mark.parametrize(
    ("search", "file"),
    [
        ("x = 1", "max = 10"),
        ("return a", "return a + b"),
        ("if x:\n    y", "if x:\ny"),
        ("if x:\n        y\n    z", "if x:\n    y\n        z"),
        ("X = 1", "x = 1"),
        ("a\nb", "a\nc\nb"),
    ],
)
def test_likeness_is_no_match(search: str, file: str) -> None:
    with pytest.raises(NoMatch):
        locate(file.split("\n"), search.split("\n"), ["z"])


def test_the_nearest_part_of_nothing_alike_is_nothing() -> None:
    assert nearest(["a", "b"], ["c"]) == (0, [])


PIECES = st.sampled_from(
    [
        *(
            "<<<<<<< SEARCH",
            "=======",
            ">>>>>>> REPLACE",
            "<<<<<<< REPLACE",
            "```",
            "```python",
            "````",
            "~~~",
        ),
        *(
            "a.py",
            "pkg/b.py",
            "../x.py",
            "/etc/passwd",
            "README.md",
            "new.py",
            "crlf.txt",
            "**a.py**",
            "SEARCH:",
        ),
        *("def f():", "    return 1", "return 1", "\treturn 1", "X = 1", "Y = 2", "one", "two\r", "", "  "),
        *(
            "--- a/a.py",
            "+++ b/a.py",
            "--- /dev/null",
            "+++ /dev/null",
            "@@ -1,2 +1,2 @@",
            "@@",
            "-X = 1",
            "+X = 9",
        ),
        *(" def f():", "*** Begin Patch", "*** Update File: a.py", "*** Delete File: a.py", "*** End Patch"),
        *(
            "# ...",
            "...",
            "# rest of the code unchanged",
            "<think>",
            "</think>",
            '<file path="a.py">',
            "</file>",
        ),
        *(
            "REPLACE:",
            "Here is the updated `a.py`:",
            "\ufeff",
            "\ud800",
            "x = “1”",
            "diff --git a/a.py b/b.py",
        ),
    ]
)


@given(st.lists(PIECES, max_size=40).map("\n".join), st.booleans())
def test_any_reply_leaves_files_in_the_folder_and_nothing_else(reply: str, cut: bool) -> None:
    found = applied(reply, cut=cut)

    for path, file in found.changes.items():
        check_path(path)
        if file is not None:
            assert b"# rest of the code unchanged" not in file.content
            assert b"<<<<<<< SEARCH" not in file.content or path not in FILES


@given(st.text(max_size=300))
def test_any_text_is_read(reply: str) -> None:
    applied(reply)


@given(st.integers(0, 5), st.integers(1, 3), st.sampled_from(["", "    ", "\t", "  "]), st.booleans())
def test_an_edit_of_lines_that_are_there_does_what_it_says(
    first: int, size: int, shift: str, crlf: bool
) -> None:
    lines = [f"    value_{number} = {number}" for number in range(8)]
    tree = Tree(files={"a.txt": File(content=("\n".join(lines) + "\n").encode())})
    search = [shift + line.strip() for line in lines[first : first + size]]
    reply = edit("a.txt", "\n".join(search), f"{shift}changed = 1")

    found = applied(reply.replace("\n", "\r\n") if crlf else reply, tree)

    wanted = [*lines[:first], "    changed = 1", *lines[first + size :]]
    assert found.changes == {"a.txt": File(content=("\n".join(wanted) + "\n").encode())}


SIZE = 1_000_000


@pytest.mark.parametrize(
    "reply",
    [
        "a" * SIZE,
        "\n" * SIZE,
        ("*" * 399 + "\n") * (SIZE // 400),
        ("a.b/" * 99 + "\n") * (SIZE // 400),
        ("`a`" * 130 + ":\n") * (SIZE // 400),
        "```\n" * (SIZE // 4),
        "a.py\n```python\nx = (\n```\n" * (SIZE // 25),
        "<<<<<<< SEARCH\n" * (SIZE // 15),
        "a.py\n" + "<<<<<<< SEARCH\nx\n=======\ny\n>>>>>>> REPLACE\n" * (SIZE // 50),
        "a.py\n<<<<<<< SEARCH\n" + "=======\n" * (SIZE // 8) + ">>>>>>> REPLACE",
        "hi\n" + "<think>\n" * (SIZE // 8),
        "```diff\n" + "@@\n-x = 1\n+y\n" * (SIZE // 12),
        "README.md\n```\n" * (SIZE // 14),
        "c.py\n```\n" + "(" * 300_000 + "\n```",
        "</s> " * (SIZE // 5),
        '<file path="a.py">\n' * (SIZE // 18),
    ],
    ids=range(16),
)
def test_a_million_characters_of_anything_take_seconds(reply: str) -> None:
    began = time.process_time()

    applied(reply, Tree(files={"a.py": File(content=b"x = 1\n" * 50_000)}))

    # Two to four seconds at most; what is not linear takes minutes.
    assert time.process_time() - began < 20


def test_of_a_huge_tree_only_files_that_hold_an_edit_are_read_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"pkg/m{n}/mod_{n}.py": File(content=f"value_of_it = {n}\n".encode()) for n in range(3000)}
    files["pkg/crlf.txt"] = File(content=b"first of two\r\nlast of the two\r\n")
    read: list[str] = []
    of = EditedText.of
    monkeypatch.setattr(EditedText, "of", lambda text: read.append(text) or of(text))

    found = applied(
        edit("", "value_of_it = 1234", "value_of_it = 0")
        + edit("", "first of two\nlast of the two", "one\ntwo")
        + edit("mod_7.py", "value_of_it = 7", "value_of_it = 70"),
        Tree(files=files),
    )

    assert {path: file.content for path, file in found.changes.items() if file} == {
        "pkg/m1234/mod_1234.py": b"value_of_it = 0\n",
        "pkg/crlf.txt": b"one\r\ntwo\r\n",
        "pkg/m7/mod_7.py": b"value_of_it = 70\n",
    }
    assert len(read) < 30


def test_no_reply_has_the_tree_looked_through_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "MAX_LOOKED_THROUGH", sum(len(text) for text in FILES.values()) + 20)

    found = applied(
        edit("", "def f():\n    return 1", "def f():\n    return 7")
        + edit("", "def g():\n    return 2", "def g():\n    return 8")
    )

    assert set(found.changes) == {"a.py"}
    assert ["which file" in problem.reason for problem in found.problems] == [True]
