from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.search.edits import Edit, applied, apply, inverse, wire_form
from actors.search.inside.text import decode, line_starts, replaced
from orchestrator.tree import File, FileMode, Tree

TEXTS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60)


@st.composite
def text_and_edits(draw: st.DrawFn) -> tuple[str, list[Edit]]:
    text = draw(TEXTS)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6).map(lambda c: c[: len(c) // 2 * 2])))
    pairs = zip(cuts[::2], cuts[1::2], strict=True)
    return text, [Edit(path="m.py", start=a, end=b, replacement=draw(TEXTS)) for a, b in pairs]


@given(text_and_edits())
def test_applying_and_reverting_is_the_identity(case: tuple[str, list[Edit]]) -> None:
    text, edits = case
    content = ("# -*- coding: utf-8 -*-\n" + text).encode()
    shifted = [
        Edit(path=e.path, start=e.start + 24, end=e.end + 24, replacement=e.replacement) for e in edits
    ]

    changed = apply(content, shifted)

    assert apply(changed, inverse(content, shifted)) == content


@given(text_and_edits())
def test_what_no_span_holds_stays(case: tuple[str, list[Edit]]) -> None:
    text, edits = case

    changed = replaced(text, [(e.start, e.end, e.replacement) for e in edits])

    kept, at = [], 0
    for edit in edits:
        kept.append(text[at : edit.start])
        at = edit.end
    kept.append(text[at:])
    position = 0
    for part in kept:
        position = changed.index(part, position) + len(part)


@pytest.mark.parametrize(
    "content",
    [
        b"x = 1",
        b"x = 1\r\ny = 2\r\n",
        b"\xef\xbb\xbfx = 1\n",
        "# coding: latin-1\nx = '\xe9'\n".encode("latin-1"),
        b"if x:\n\ty = 1\n \n",
        b"x = 1\ry = 2\r",
    ],
)
def test_every_way_to_write_a_file_survives(content: bytes) -> None:
    text, _ = decode(content)
    start = text.index("x")

    changed = apply(content, [Edit(path="m.py", start=start, end=start + 1, replacement="z")])

    assert changed == content.replace(b"x", b"z", 1)


def test_a_file_that_is_not_its_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match="encoding"):
        decode(b"x = '\xff'\n")
    with pytest.raises(ValueError, match="unknown"):
        decode(b"# coding: nonsense\n")


def test_overlapping_spans_are_refused() -> None:
    with pytest.raises(ValueError, match="overlaps"):
        replaced("abcdef", [(0, 3, ""), (2, 4, "")])


def test_lines_are_counted_as_python_counts_them() -> None:
    assert line_starts("a\r\nb\rc\n\x0cd\u2028e") == [0, 3, 5, 7]


def test_a_tree_changes_only_in_the_files_edited() -> None:
    tree = Tree(
        files={
            "a.py": File(content=b"one", mode=FileMode.EXECUTABLE),
            "b.py": File(content=b"two"),
        }
    )
    edits = [Edit(path="a.py", start=0, end=3, replacement="ten")]

    changed = applied(tree, edits)

    assert changed.files["a.py"] == File(content=b"ten", mode=FileMode.EXECUTABLE)
    assert changed.files["b.py"] is tree.files["b.py"]
    assert wire_form(edits) == {"a.py": [[0, 3, "ten"]]}
