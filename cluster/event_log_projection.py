"""The row that lists show of a run: kept beside its events, and always what they fold to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any

from orchestrator.events import Event, Kind, RunState, Status

_MAX_TEXT = 1000
_STATUSES = {status.value: status for status in Status}


# Not by keyword: a list makes ten thousand of them from rows.
@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in one row. Times are UTC as in events; `last_seq` is how many events it has."""

    run_id: str
    tenant: str = "default"
    task_id: str = ""
    graph: str = ""
    origin: str = ""
    priority: int = 0
    key: str | None = None
    life: str | None = None
    status: Status = Status.PENDING
    reason: str | None = None
    attempt: int = 0
    resumed: int = 0
    cancel_requested: bool = False
    best_failing: int | None = None
    submitted_at: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    updated_at: str = ""
    last_seq: int = 0

    def after(self, event: Event) -> RunSummary:
        """The row after one more event; a type that only a newer Raysmith knows just counts."""
        change = _CHANGES.get(event.type)
        changed = change(self, event) if change else {}
        if "life" in event.data:
            changed["life"] = clean_text(event.data["life"])
        return replace(self, updated_at=event.at, last_seq=event.seq, **changed)

    def row(self) -> tuple[Any, ...]:
        """The values of `summary_fields()`."""
        values = _values(self)
        return (*values[:_STATUS], str(values[_STATUS]), *values[_STATUS + 1 :])


_FIELDS = tuple(item.name for item in fields(RunSummary))


_STATUS = _FIELDS.index("status")
_CANCEL = _FIELDS.index("cancel_requested")
_values: Callable[[RunSummary], tuple[Any, ...]] = attrgetter(*_FIELDS)


def summary_fields() -> tuple[str, ...]:
    """The names of the columns, in the order of `RunSummary.row`."""
    return _FIELDS


def summary_from(row: Sequence[Any]) -> RunSummary:
    """The summary that a row of the runs table, its columns as in `summary_fields()`, holds."""
    values = list(row)
    values[_STATUS] = _STATUSES[values[_STATUS]]
    values[_CANCEL] = bool(values[_CANCEL])
    return RunSummary(*values)


def summary_of(state: RunState) -> RunSummary:
    """The row of a folded state."""
    return RunSummary(
        run_id=state.run_id,
        tenant=state.tenant,
        **_of_task(state.task),
        key=clean_text(state.key),
        life=clean_text(state.life),
        status=state.status,
        reason=clean_text(state.reason),
        attempt=state.attempt,
        resumed=state.resumed,
        cancel_requested=state.cancel_requested,
        best_failing=_number(state.best_failing),
        submitted_at=state.submitted_at,
        started_at=state.started_at,
        finished_at=state.finished_at,
        updated_at=state.updated_at,
        last_seq=state.last_seq,
    )


def _of_task(task: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task_id": clean_text(task.get("id")) or "",
        "graph": clean_text(task.get("graph")) or "",
        "origin": clean_text(task.get("origin")) or "",
        "priority": _number(task.get("priority")) or 0,
    }


def clean_text(value: Any) -> str | None:
    """`value` as text that any database stores: events keep it whole, lists show and find this."""
    if value is None:
        return None
    text = str(value)[:_MAX_TEXT].replace("\0", "\\0")
    return text.encode("utf-8", "backslashreplace").decode()


def _number(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 2**31 else None


def _submitted(_: RunSummary, event: Event) -> dict[str, Any]:
    return {
        **_of_task(event.data["task"]),
        "submitted_at": event.at,
        "key": clean_text(event.data.get("key")),
    }


def _started(old: RunSummary, event: Event) -> dict[str, Any]:
    return {"status": Status.RUNNING, "started_at": old.started_at or event.at}


def _attempt(_: RunSummary, event: Event) -> dict[str, Any]:
    return {"attempt": event.attempt}


def _kept(_: RunSummary, event: Event) -> dict[str, Any]:
    return {"best_failing": _number(event.data.get("failing"))}


def _cancel(_: RunSummary, _event: Event) -> dict[str, Any]:
    return {"cancel_requested": True}


def _resumed(old: RunSummary, _event: Event) -> dict[str, Any]:
    return {
        "status": Status.RUNNING,
        "reason": None,
        "finished_at": None,
        "cancel_requested": False,
        "resumed": old.resumed + 1,
    }


def _finished(_: RunSummary, event: Event) -> dict[str, Any]:
    return {
        "status": Status(event.data["status"]),
        "reason": clean_text(event.data["reason"]),
        "finished_at": event.at,
    }


_CHANGES = {
    Kind.RUN_SUBMITTED: _submitted,
    Kind.RUN_STARTED: _started,
    Kind.ATTEMPT_STARTED: _attempt,
    Kind.PATCH_KEPT: _kept,
    Kind.CANCEL_REQUESTED: _cancel,
    Kind.RUN_RESUMED: _resumed,
    Kind.RUN_FINISHED: _finished,
}
