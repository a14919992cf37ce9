"""Alembic runs this: it migrates the connection that `upgrade` handed over."""

from __future__ import annotations

from alembic import context

from cluster.schema import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("open a store to migrate it; a new revision is written by hand, after the last one")
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
