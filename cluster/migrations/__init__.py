"""Alembic migrations of the event log, run when a writer opens it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection


def config() -> Config:
    """Alembic's configuration for this package, wherever it is installed."""
    from alembic.config import Config  # a store that is up to date never needs Alembic

    result = Config()
    result.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return result


def upgrade(connection: Connection) -> None:
    """Bring the database to the newest revision, inside the transaction that `connection` is in."""
    from alembic import command

    settings = config()
    settings.attributes["connection"] = connection
    command.upgrade(settings, "head")
