"""Finds replies that say the same over and over without end, by their text, whichever engine draws them."""

from __future__ import annotations

# Why such a reply ended.
REPETITION = "repetition"
# What is said so often in a row is not meant. A list of equal lines that long is written as a loop.
COPIES = 4
# The end of the text that is looked for before itself; the nearest places give the periods to try.
_PROBE = 48
_TRIES = 8


def period_of(text: str, characters: int) -> int:
    """Characters after which the end of `text` repeats itself exactly, 0 when it does not.

    Args:
        text: So far.
        characters: Length of the repeating end from which it counts, with at least `COPIES` copies in it;
            0 for never.
    """
    if not 0 < characters <= len(text):
        return 0
    probe = text[-_PROBE:]
    first, until = max(0, len(text) - len(text) // COPIES - _PROBE), len(text) - 1
    for _ in range(_TRIES):
        at = text.rfind(probe, first, until)
        if at < 0:
            break
        period = len(text) - len(probe) - at
        if _repeats(text, period, max(characters, COPIES * period)):
            return period
        until = at + len(probe) - 1
    return 0


def without_copies(text: str, period: int) -> str:
    """`text` up to the end of the first copy of what its end repeats every `period` characters."""
    low, high = period, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _repeats(text, period, middle) else (low, middle - 1)
    return text[: len(text) - low + period]


def _repeats(text: str, period: int, span: int) -> bool:
    """Whether the last `span` characters have the period."""
    return period < span <= len(text) and text[-span:-period] == text[len(text) - span + period :]
