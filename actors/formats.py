"""Which form of reply a model is asked for: whole files, or SEARCH/REPLACE blocks for large ones."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Format = Literal["whole", "edits"]
# Replies of one form by one model that are remembered, and that it takes to judge it.
_REMEMBERED = 50
_ENOUGH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplySettings:
    """In which form models that write are to reply."""

    format: Literal["auto", "whole", "edits"] = "auto"
    """whole, edits (SEARCH/REPLACE blocks for large files), or auto for what a model does well."""
    whole_file_lines: int = 200
    """Files with fewer lines are always asked for whole."""


class Formats:
    """What one replica has seen of each model's replies. Invariant: a fixed format is never left."""

    def __init__(self, settings: ReplySettings | None = None) -> None:
        self._settings = settings or ReplySettings()
        self._malformed: dict[tuple[str, Format], deque[bool]] = defaultdict(
            lambda: deque(maxlen=_REMEMBERED)
        )

    def choose(self, model: str, files: Mapping[str, str]) -> Format:
        """The form to ask `model` for when these texts, by path, may change."""
        limit = self._settings.whole_file_lines
        if not any(text.count("\n") >= limit for text in files.values()):
            return "whole"
        if self._settings.format == "whole":
            return "whole"
        if self._settings.format == "edits":
            return "edits"
        return "edits" if self.rate(model, "edits") <= self.rate(model, "whole") else "whole"

    def large(self, files: Mapping[str, str]) -> list[str]:
        """Paths of the files that are too long to be asked for whole."""
        return [path for path, text in files.items() if text.count("\n") >= self._settings.whole_file_lines]

    def saw(self, model: str, form: Format, *, malformed: bool) -> None:
        """Note how one reply came out."""
        self._malformed[model, form].append(malformed)

    def rate(self, model: str, form: Format) -> float:
        """The share of malformed replies, drawn towards what is expected of a model nobody knows."""
        seen = self._malformed[model, form]
        # As if each form had been tried before; whole large files are cut off or shortened more often.
        expected = 0.3 if form == "whole" else 0.1
        return (sum(seen) + _ENOUGH * expected) / (len(seen) + _ENOUGH)
