"""From a new fact to a link of its run's chain and back, the same for every event log. It does no I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from orchestrator.errors import StoreDamaged
from orchestrator.events import (
    EFFECTS,
    OF_A_NODE,
    VERSIONS,
    Event,
    Kind,
    NewEvent,
    Status,
    canonical,
    chain_hash,
    usage_of,
)

_KINDS: Mapping[str, Kind] = {kind.value: kind for kind in Kind}
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    Kind.RUN_SUBMITTED: ("task",),
    Kind.PATCH_KEPT: ("patch",),
    Kind.VERDICT_REACHED: ("verdict",),
    Kind.RUN_FINISHED: ("status", "reason"),
    Kind.EFFECT_INTENDED: ("effect", "key"),
    Kind.EFFECT_DONE: ("effect", "key", "outcome"),
    Kind.ENGINE_CALLED: ("engine", "tokens", "gpu_s", "cost_usd", "requests", "retries"),
    Kind.NODE_ENDED: ("status", "artifact"),
    Kind.APPROVAL_ASKED: ("message",),
    Kind.APPROVAL_DECIDED: ("approved", "by"),
    Kind.PAUSE_REQUESTED: ("by",),
}
_OF_A_STEP = OF_A_NODE | frozenset(kind for kind in Kind if kind.startswith("step_"))
_FIELDS = tuple(item.name for item in fields(Event))
# An event's values in the order of its fields, as in the events table: data is text.
Row = Sequence[Any]
# What a row of the events table costs beside its data, roughly; bounds a queue of tiny events too.
_ENVELOPE_BYTES = 512


@dataclass(frozen=True, slots=True)
class Draft:
    """A new event that is known to fit the log: its data as text, and as a reader will see it."""

    event: NewEvent
    text: str
    data: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes that it holds while it waits."""
        return len(self.text) + _ENVELOPE_BYTES


@dataclass(frozen=True, slots=True)
class Link:
    """An event and its data text, verbatim as hashed."""

    event: Event
    text: str


def draft(event: NewEvent, max_bytes: int) -> Draft:
    """`event` checked, so that nothing about it can fail once others are committed with it.

    Raises:
        ValueError: It is not of a known type, its data is not JSON, too long or lacks what
            its type needs, or a name in it cannot be stored as text.
    """
    where = f"event {event.type!s} of run {event.run_id!r}"
    if event.type not in _KINDS:
        raise ValueError(f"{where} is of an unknown type; use orchestrator.events.Kind")
    for name in ("run_id", "tenant"):
        _check_name(getattr(event, name), f"{name} of {where}", longest=128)
    for name in ("step", "dispatch_id"):
        if getattr(event, name) is not None:
            _check_name(getattr(event, name), f"{name} of {where}", longest=1000)
    for name in ("attempt", "epoch"):
        if type(getattr(event, name)) is not int or not 0 <= getattr(event, name) < 2**31:
            raise ValueError(f"{name} of {where} is {getattr(event, name)!r}; it has to be an int from 0")
    _check_data(event, where)
    try:
        text = canonical(event.data)
        data = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"data of {where} is not JSON ({error}); log plain values") from error
    if len(text) > max_bytes:
        raise ValueError(
            f"data of {where} has {len(text):,} bytes, over `store.event_mib`; "
            "store it as an artifact and log its digest"
        )
    return Draft(event, text, data)


def _check_name(name: Any, where: str, *, longest: int) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= longest or "\0" in name or not _is_utf8(name):
        raise ValueError(f"{where} is {name!r}; it has to be text of 1 to {longest} characters")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_data(event: NewEvent, where: str) -> None:
    data = event.data
    if not isinstance(data, Mapping):
        raise ValueError(f"data of {where} is {type(data).__name__}, not a mapping")
    missing = [key for key in _REQUIRED.get(event.type, ()) if key not in data]
    if missing:
        raise ValueError(f"data of {where} lacks {missing}")
    if event.type in _OF_A_STEP and event.step is None:
        raise ValueError(f"{where} names no step")
    if event.type in EFFECTS and not all(isinstance(data[key], str) for key in _REQUIRED[event.type]):
        raise ValueError(f"data of {where} has other values than text under {_REQUIRED[event.type]}")
    if event.type == Kind.ENGINE_CALLED:
        try:
            usage_of(data)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"data of {where} tells no usage: {error!r}") from error
    if event.type == Kind.RUN_SUBMITTED and not isinstance(data["task"], Mapping):
        raise ValueError(f"task of {where} is {type(data['task']).__name__}, not a mapping")
    if event.type == Kind.RUN_FINISHED and data["status"] not in list(Status):
        raise ValueError(f"status of {where} is {data['status']!r}; use orchestrator.events.Status")


def link(new: Draft, *, seq: int, at: str, prev_hash: str) -> Link:
    """`new` as event number `seq` of its run, chained to the one before."""
    event = new.event
    kind = _KINDS[event.type]
    envelope: dict[str, Any] = {
        "run_id": event.run_id,
        "seq": seq,
        "type": kind,
        "version": VERSIONS[kind],
        "at": at,
        "step": event.step,
        "attempt": event.attempt,
        "epoch": event.epoch,
        "dispatch_id": event.dispatch_id,
        "tenant": event.tenant,
        "prev_hash": prev_hash,
    }
    digest = chain_hash(**envelope, data=new.text)
    return Link(Event(**envelope, hash=digest, data=new.data), new.text)


def unchanged(event: Event) -> Link:
    """A link that was made before, such as one that another store held."""
    return Link(event, canonical(event.data))


def event_of(row: Row) -> Event:
    """The event that a row, with its data as text, holds.

    Raises:
        StoreDamaged: The data is not a JSON object.
    """
    # Spelled out: logs of 100,000 events pass through here.
    run_id, seq, kind, version, at, step, attempt, epoch, dispatch_id, tenant, prev_hash, digest, text = row
    try:
        data = json.loads(text)
    except (TypeError, ValueError):
        data = None
    if type(data) is not dict:
        raise StoreDamaged(
            f"event {seq} of run {run_id} has data that is not JSON",
            "restore the store from a backup; the events before it still load",
        )
    return Event(
        run_id=run_id,
        seq=seq,
        type=_KINDS.get(kind, kind),
        version=version,
        at=at,
        step=step,
        attempt=attempt,
        epoch=epoch,
        dispatch_id=dispatch_id,
        tenant=tenant,
        prev_hash=prev_hash,
        hash=digest,
        data=data,
    )


def row_of(link: Link) -> Row:
    """The values of `event_fields()`, data as text."""
    event = link.event
    return (
        event.run_id,
        event.seq,
        str(event.type),
        event.version,
        event.at,
        event.step,
        event.attempt,
        event.epoch,
        event.dispatch_id,
        event.tenant,
        event.prev_hash,
        event.hash,
        link.text,
    )


def event_fields() -> tuple[str, ...]:
    """The names of an event's columns, in the order of `row_of`."""
    return _FIELDS


def broken(row: Row, last_seq: int, prev_hash: str) -> str | None:
    """What is wrong with `row` as the event after number `last_seq` of its run, in words."""
    fields = dict(zip(_FIELDS, row, strict=True))
    where = f"event {fields['seq']} of run {fields['run_id']}"
    if fields["seq"] != last_seq + 1:
        return f"{where} comes after {last_seq}"
    if fields["prev_hash"] != prev_hash:
        return f"{where} is not chained to the one before"
    digest = fields.pop("hash")
    if chain_hash(**fields) != digest:
        return f"{where} is not what was hashed"
    return None


def batch_of(submitted: Mapping[str, Any]) -> str | None:
    """The batch that the data of a `run_submitted` names, if any."""
    task = submitted.get("task")
    inputs = task.get("inputs") if isinstance(task, Mapping) else None
    batch = inputs.get("batch") if isinstance(inputs, Mapping) else None
    return batch if isinstance(batch, str) and batch else None


def batch_of_text(text: str) -> str | None:
    """`batch_of` data as it is stored."""
    data = json.loads(text)
    return batch_of(data) if isinstance(data, dict) else None


def canonical_text(text: str) -> str:
    """A text as it stands inside stored data."""
    return json.dumps(text, ensure_ascii=True)


def to_line(event: Event) -> str:
    """`event` as one line of JSON, for exports and golden files."""
    return canonical({name: getattr(event, name) for name in _FIELDS})


def from_lines(lines: Iterable[str], source: str) -> Iterator[Event]:
    """One run's events from what `to_line` wrote, every hash and the chain verified.

    Raises:
        StoreDamaged: Something does not hang together; `source` and the line's number say where.
    """
    last_seq, prev_hash = 0, ""
    for number, line in enumerate(lines, 1):
        row = _parse(line)
        problem = "is not an event" if row is None else broken(row, last_seq, prev_hash)
        if row is None or problem:
            raise StoreDamaged(f"{source} line {number}: {problem}", "take a whole copy of the file")
        event = event_of(row)
        last_seq, prev_hash = event.seq, event.hash
        yield event


def _parse(line: str) -> Row | None:
    try:
        fields = json.loads(line)
        if isinstance(fields, dict) and fields.keys() == set(_FIELDS) and isinstance(fields["data"], dict):
            return tuple(canonical(fields[name]) if name == "data" else fields[name] for name in _FIELDS)
    except (ValueError, RecursionError):
        pass
    return None
