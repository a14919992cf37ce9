"""The tables of the event log: reads use them, and the writer's statements name their columns."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

# The revision that this code reads and writes, and all that it can upgrade from.
HEAD = "0003"
REVISIONS = ("0001", "0002", HEAD)

metadata = MetaData()

# SQLite counts positions only in a column that is exactly INTEGER.
_position = BigInteger().with_variant(Integer, "sqlite")

# Append-only. `data` is canonical JSON, stored as it was hashed; `position` orders all runs' events.
events = Table(
    "events",
    metadata,
    Column("position", _position, primary_key=True, autoincrement=True),
    Column("run_id", String(128), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("type", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("at", String(32), nullable=False),
    Column("step", Text),
    Column("attempt", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("dispatch_id", Text),
    Column("tenant", String(128), nullable=False),
    Column("prev_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("data", Text, nullable=False),
    UniqueConstraint("run_id", "seq", name="events_run_seq"),
)

# A projection: every row follows from the run's events and can be rebuilt from them.
runs = Table(
    "runs",
    metadata,
    Column("number", _position, primary_key=True, autoincrement=True),
    Column("run_id", String(128), nullable=False, unique=True),
    Column("tenant", String(128), nullable=False),
    Column("task_id", Text, nullable=False),
    Column("graph", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("key", Text),
    Column("life", Text),
    Column("status", String(16), nullable=False),
    Column("reason", Text),
    Column("attempt", Integer, nullable=False),
    Column("resumed", Integer, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("best_failing", Integer),
    Column("submitted_at", String(32), nullable=False),
    Column("started_at", String(32)),
    Column("finished_at", String(32)),
    Column("updated_at", String(32), nullable=False),
    Column("last_seq", Integer, nullable=False),
    Index("runs_status", "status"),
    Index("runs_key", "key"),
)

# A projection too: what engines cost, see `cluster/event_log_usage.py`.
usage = Table(
    "usage",
    metadata,
    Column("tenant", String(128), nullable=False),
    Column("run_id", String(128), primary_key=True),
    Column("step", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("engine", Text, primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("retries", BigInteger, nullable=False),
    Column("prompt", BigInteger, nullable=False),
    Column("completion", BigInteger, nullable=False),
    Column("cached", BigInteger, nullable=False),
    Column("gpu_ns", BigInteger, nullable=False),
    Column("cost_nano_usd", BigInteger, nullable=False),
    Index("usage_tenant_day", "tenant", "day"),
)

# One row: the epoch of the orchestrator that may write. A higher one fences every older writer off.
owner = Table(
    "owner",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("taken_at", String(32), nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)


def is_described(name: str | None) -> bool:
    """Whether the table or index `name` is one of these.

    Not so `lessons` (revision 0002): full text is made in each database's own way, see `cluster/memory.py`.
    """
    return not (name or "").startswith("lessons")
