"""JSON of what is no text: strict parsers take it, and no byte of a patch is lost."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from serve.plain_json import dumps, exact
from serve.results import result_from

LATIN = b"--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-caf\xe9\n+th\xe9\n"


def test_bytes_that_are_no_text_are_shown_as_such_and_kept_beside_the_diff() -> None:
    told = {
        "diff": LATIN.decode("utf-8", "surrogateescape"),
        "files": ["caf\udce9.py"],
        "list": [("\udce9",)],
    }

    read = json.loads(dumps(told))

    assert read["diff"] == LATIN.decode("utf-8", "replace")
    assert (read["files"], read["list"]) == (["caf\ufffd.py"], [["\ufffd"]])
    assert exact(read).encode("utf-8", "surrogateescape") == LATIN
    result = result_from({**read, "run_id": "r", "status": "succeeded", "reason": "certified"})
    assert result.diff.encode("utf-8", "surrogateescape") == LATIN


def test_text_is_left_alone() -> None:
    told = {"diff": "+\U0001f600 é \\ud800\n", "n": [1, None, 1.5, True]}

    assert json.loads(dumps(told)) == told
    assert dumps(told).isascii()


@given(st.lists(st.binary(max_size=20)))
def test_any_bytes_come_back(lines: list[bytes]) -> None:
    diff = b"".join(lines)

    text = dumps({"diff": diff.decode("utf-8", "surrogateescape")})

    read = json.loads(text)
    json.dumps(read, ensure_ascii=False).encode()
    assert exact(read).encode("utf-8", "surrogateescape") == diff
