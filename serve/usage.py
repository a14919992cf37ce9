"""What engines cost, as every door tells it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from orchestrator.errors import TaskError
from orchestrator.steps import Usage

if TYPE_CHECKING:
    from cluster.event_log_usage import By, Spent


def day_of(text: str) -> str:
    """The day that `text` names, as 2026-01-31; empty text for the beginning.

    Raises:
        TaskError: It names none.
    """
    try:
        return date.fromisoformat(text).isoformat() if text else ""
    except ValueError as error:
        raise TaskError(f"{text!r} is no day", "write it as 2026-01-31; days are those of UTC") from error


def told(by: By, since: str, spent: Sequence[Spent]) -> dict[str, Any]:
    """The object that `raysmith usage --json` prints and `GET /usage` answers."""
    total = reduce(add, (each.usage for each in spent), Usage())
    return {
        "by": str(by),
        "since": since or None,
        "usage": [{**each.group, **cost(each.usage)} for each in spent],
        "total": cost(total),
    }


def cost(usage: Usage) -> dict[str, Any]:
    """Amounts; seconds and dollars to the billionth, as they are kept."""
    return {
        "requests": usage.requests,
        "retries": usage.retries,
        "tokens": {"prompt": usage.prompt, "completion": usage.completion, "cached": usage.cached},
        "gpu_s": round(usage.gpu_s, 9),
        "cost_usd": round(usage.cost_usd, 9),
    }
