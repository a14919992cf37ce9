"""How long to wait before a request is sent again. Pure: whoever asks brings chance and the clock."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

FIRST_PAUSE_S = 0.5


def pause_s(tries: int, asked_for_s: float | None, longest_s: float, chance: float) -> float:
    """Seconds to wait after `tries` tries that failed, at least 1.

    The pause doubles from `FIRST_PAUSE_S`. It is never shorter than what the other side asked
    for, with up to a tenth on top so that many clients do not come back at once.

    Args:
        tries: Made so far.
        asked_for_s: From Retry-After, None without one.
        longest_s: Upper bound of the doubling.
        chance: In [0, 1).
    """
    ours = min(longest_s, FIRST_PAUSE_S * 2.0 ** min(tries - 1, 30)) * (0.5 + chance / 2)
    return max(ours, (asked_for_s or 0.0) * (1 + chance / 10))


def retry_after_s(value: str | None, now_s: float) -> float | None:
    """What a Retry-After header asks for: seconds or a date; None when it says nothing.

    Args:
        value: The header.
        now_s: Seconds since 1970.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now_s
        except (ValueError, OverflowError, TypeError):
            return None
    # `nan` says nothing either.
    return max(0.0, seconds) if seconds == seconds else None  # noqa: PLR0124
