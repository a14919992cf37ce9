"""What engines cost: a row per run, step, engine and day, kept beside the events that tell of it.

Amounts are whole numbers (seconds and dollars in billionths), so that sums are the same in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cluster.event_log_projection import clean_text
from orchestrator.events import Event, Kind, usage_of
from orchestrator.steps import Usage

KEY = ("run_id", "step", "attempt", "engine", "day")
AMOUNTS = ("requests", "retries", "prompt", "completion", "cached", "gpu_ns", "cost_nano_usd")
COLUMNS = ("tenant", *KEY, *AMOUNTS)
# Of a name in the key: an index of Postgres holds 2704 bytes a row.
_MAX_NAME = 150
# A server may claim anything; thousands of such claims still add up in 64 bits.
_MOST = 2**50
_NANO = 10**9
UsageRow = tuple[Any, ...]


class By(StrEnum):
    """What costs are added up by."""

    TENANT = "tenant"
    RUN = "run"
    STEP = "step"
    ENGINE = "engine"
    DAY = "day"


GROUPS: Mapping[By, tuple[str, ...]] = {
    By.TENANT: ("tenant",),
    By.RUN: ("tenant", "run_id"),
    By.STEP: ("tenant", "run_id", "step", "attempt"),
    By.ENGINE: ("engine",),
    By.DAY: ("day",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one group of calls cost; `group` names it, by the columns of `GROUPS`."""

    group: Mapping[str, Any]
    usage: Usage


def usage_rows(events: Iterable[Event]) -> list[UsageRow]:
    """The rows that `events` add, in the order of `COLUMNS`; one for each key."""
    rows: dict[tuple[Any, ...], UsageRow] = {}
    for event in events:
        if event.type == Kind.ENGINE_CALLED:
            named, amounts = _named(event), _amounts(usage_of(event.data))
            before = rows.get(named[1:], (0,) * len(COLUMNS))[len(named) :]
            rows[named[1:]] = named + tuple(map(sum, zip(before, amounts, strict=True)))
    return list(rows.values())


def added_up(rows: Iterable[UsageRow], by: By) -> list[UsageRow]:
    """What `SELECT … GROUP BY … ORDER BY` makes of `rows`: the group's columns, then the amounts."""
    at = [COLUMNS.index(name) for name in GROUPS[by]]
    sums: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for row in rows:
        group, amounts = tuple(row[each] for each in at), row[-len(AMOUNTS) :]
        before = sums.get(group, (0,) * len(AMOUNTS))
        sums[group] = tuple(map(sum, zip(before, amounts, strict=True)))
    return [(*group, *sums[group]) for group in sorted(sums)]


def spent(row: Sequence[Any], by: By) -> Spent:
    """A row of such a sum as a value. A database may give sums as decimals."""
    names = GROUPS[by]
    amounts = dict(zip(AMOUNTS, map(int, row[len(names) :]), strict=True))
    gpu_ns, cost = amounts.pop("gpu_ns"), amounts.pop("cost_nano_usd")
    usage = Usage(**amounts, gpu_s=gpu_ns / _NANO, cost_usd=cost / _NANO)
    return Spent(group=dict(zip(names, row, strict=False)), usage=usage)


def _named(event: Event) -> tuple[Any, ...]:
    step, engine = ((clean_text(value) or "")[:_MAX_NAME] for value in (event.step, event.data.get("engine")))
    return event.tenant, event.run_id, step, event.attempt, engine, event.at[:10]


def _amounts(usage: Usage) -> tuple[int, ...]:
    told = (usage.requests, usage.retries, usage.prompt, usage.completion, usage.cached)
    return tuple(
        min(max(0, round(amount)), _MOST)
        for amount in (*told, min(usage.gpu_s, _MOST) * _NANO, min(usage.cost_usd, _MOST) * _NANO)
    )
