"""What engines cost by run, step, engine and day: a projection, made here from the events so far."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_CALLS = (
    "SELECT position, tenant, run_id, step, attempt, at, data FROM events "
    "WHERE type = 'engine_called' AND position > :after ORDER BY position LIMIT 1000"
)
_AMOUNTS = ("requests", "retries", "prompt", "completion", "cached", "gpu_ns", "cost_nano_usd")
_MOST = 2**50
_ADDED = ", ".join(f"{name} = usage.{name} + excluded.{name}" for name in _AMOUNTS)
_ADD = (
    f"INSERT INTO usage (tenant, run_id, step, attempt, engine, day, {', '.join(_AMOUNTS)}) "  # noqa: S608
    "VALUES (:tenant, :run_id, :step, :attempt, :engine, :day, "
    f"{', '.join(f':{name}' for name in _AMOUNTS)}) "
    f"ON CONFLICT (run_id, step, attempt, engine, day) DO UPDATE SET {_ADDED}"
)


def upgrade() -> None:
    """Create the table and fill it."""
    op.create_table(
        "usage",
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("run_id", sa.String(128), primary_key=True),
        sa.Column("step", sa.Text, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("engine", sa.Text, primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _AMOUNTS),
    )
    op.create_index("usage_tenant_day", "usage", ["tenant", "day"])
    connection = op.get_bind()
    after = 0
    while rows := connection.execute(sa.text(_CALLS), {"after": after}).all():
        connection.execute(sa.text(_ADD), [_row(row) for row in rows])
        after = rows[-1].position


def downgrade() -> None:
    """Refuse, as every revision does."""
    raise NotImplementedError("a store is not downgraded; restore the backup made before the upgrade")


def _row(row: Any) -> dict[str, Any]:
    data = json.loads(row.data)
    tokens = data["tokens"]
    amounts = (
        *(int(data[name]) for name in ("requests", "retries")),
        *(int(tokens[name]) for name in ("prompt", "completion", "cached")),
        *(min(float(data[name]), _MOST) * 10**9 for name in ("gpu_s", "cost_usd")),
    )
    return {
        "tenant": row.tenant,
        "run_id": row.run_id,
        "step": _name(row.step),
        "attempt": row.attempt,
        "engine": _name(data["engine"]),
        "day": row.at[:10],
        **{name: min(max(0, round(amount)), _MOST) for name, amount in zip(_AMOUNTS, amounts, strict=True)},
    }


def _name(value: Any) -> str:
    text = str("" if value is None else value)[:1000].replace("\0", "\\0")
    return text.encode("utf-8", "backslashreplace").decode()[:150]
