"""The form of reply that a model is asked for."""

from __future__ import annotations

import pytest

from actors.formats import Formats, ReplySettings

LARGE = {"a.py": "x = 1\n" * 500, "b.py": "y = 1\n"}
SMALL = {"b.py": "y = 1\n"}


@pytest.mark.parametrize("form", ["auto", "whole", "edits"])
def test_small_files_are_always_asked_for_whole(form: str) -> None:
    formats = Formats(ReplySettings(format=form))  # type: ignore[arg-type]

    assert formats.choose("m", SMALL) == "whole"
    assert formats.large(LARGE) == ["a.py"]


def test_a_fixed_form_is_never_left() -> None:
    formats = Formats(ReplySettings(format="edits"))
    for _ in range(50):
        formats.saw("m", "edits", malformed=True)

    assert formats.choose("m", LARGE) == "edits"
    assert Formats(ReplySettings(format="whole")).choose("m", LARGE) == "whole"


def test_a_model_that_gets_edits_wrong_is_asked_for_whole_files_and_no_other_model_is() -> None:
    formats = Formats()
    for _ in range(3):
        formats.saw("clumsy", "edits", malformed=True)
        formats.saw("deft", "edits", malformed=False)

    assert formats.choose("clumsy", LARGE) == "whole"
    assert formats.choose("deft", LARGE) == "edits"
    assert formats.choose("unknown", LARGE) == "edits"


def test_a_model_that_is_worse_at_whole_files_goes_back_to_edits() -> None:
    formats = Formats()
    for _ in range(3):
        formats.saw("m", "edits", malformed=True)
    for _ in range(6):
        formats.saw("m", "whole", malformed=True)

    assert formats.choose("m", LARGE) == "edits"
