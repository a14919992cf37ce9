"""Lessons of finished runs, with a full-text index. They are hints: nothing else depends on them."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = ("tenant", "run_id", "at", "outcome", "signature", "patch", "notes")


def upgrade() -> None:
    """Create the table in the database's own way of full text."""
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        columns = ", ".join(f"{name} TEXT NOT NULL" for name in _COLUMNS)
        op.execute(
            f"CREATE TABLE lessons (number BIGSERIAL PRIMARY KEY, terms TEXT NOT NULL, {columns}, "
            "search TSVECTOR GENERATED ALWAYS AS (to_tsvector('simple', terms)) STORED)"
        )
        op.execute("CREATE INDEX lessons_search ON lessons USING GIN (search)")
        op.execute("CREATE INDEX lessons_run ON lessons (run_id)")
        return
    if "ENABLE_FTS5" in connection.exec_driver_sql("PRAGMA compile_options").scalars():
        columns = ", ".join(f"{name} UNINDEXED" for name in _COLUMNS)
        op.execute(f"CREATE VIRTUAL TABLE lessons USING fts5(terms, {columns}, tokenize='unicode61')")
    else:
        # Lessons are kept, and nothing finds them; the event log is what matters.
        op.execute(f"CREATE TABLE lessons (terms, {', '.join(_COLUMNS)})")


def downgrade() -> None:
    """Refuse, as every revision does."""
    raise NotImplementedError("a store is not downgraded; restore the backup made before the upgrade")
