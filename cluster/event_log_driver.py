"""The seam between the event log and the database that holds it; behind it its errors become ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

SELECT_EPOCH = "SELECT epoch FROM owner WHERE id = 1"


class StoreAway(StoreError):
    """The database cannot be reached just now; trying again may do better."""


@dataclass(frozen=True, slots=True)
class Insert:
    """Where rows go; the columns in `key` make a row that is there already be updated.

    What is in `adding` is then added to what stands there, everything else takes its place.
    """

    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...] = ()
    adding: tuple[str, ...] = ()

    def sql(self, rows: int) -> str:
        """The statement for so many rows at once. All names are those of our own schema."""
        values = f"({', '.join('?' * len(self.columns))})"
        into = f"INSERT INTO {self.table} ({', '.join(self.columns)})"
        statement = f"{into} VALUES {', '.join([values] * rows)}"
        if self.key:
            changes = [f"{name} = {self._value(name)}" for name in self.columns if name not in self.key]
            statement += f" ON CONFLICT ({', '.join(self.key)}) DO UPDATE SET {', '.join(changes)}"
        return statement

    def _value(self, name: str) -> str:
        return f"{self.table}.{name} + excluded.{name}" if name in self.adding else f"excluded.{name}"


class Driver(Protocol):
    """One connection that writes. Statements mark parameters with `?` and are portable SQL."""

    patience_s: float
    """How long a transaction is tried again while the database cannot be reached."""

    def begin(self) -> int | None:
        """Open a transaction that no other writer can be inside of; reconnect if need be.

        Returns:
            The epoch of the orchestrator that may write, None when nobody ever opened the store.
        """
        ...

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        ...

    def insert(self, into: Insert, rows: Sequence[Sequence[Any]]) -> None:
        """Insert all rows."""
        ...

    def commit(self) -> None:
        """Return when the transaction survives power loss (or dead processes only, as configured)."""
        ...

    def rollback(self) -> None:
        """Leave the transaction, whatever state it is in; never raises."""
        ...

    def translate(self, error: BaseException) -> StoreError | None:
        """`error` in our words, None when it is not about the database."""
        ...

    def blames_one(self, error: BaseException) -> bool:
        """Whether one statement was at fault, so that others of its transaction may succeed."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class Database(Protocol):
    """Where a store is kept. Making one does no I/O."""

    name: str
    """How messages call it; never with a password."""
    is_shared: bool
    """Whether orchestrators of other homes may open it too, so that their epochs come from it alone."""
    patience_s: float
    """How long a read is tried again while the database cannot be reached."""

    def driver(self, *, wait_s: float) -> Driver:
        """A connection to write with, in a database that is made if need be.

        Args:
            wait_s: How long to wait for a dying owner, where the database knows of owners.

        Raises:
            StoreOwned: A living orchestrator still has it after `wait_s`.
            StoreError: It cannot be opened.
        """
        ...

    def reading(self) -> Engine:
        """Gives connections to read with."""
        ...

    def migrating(self) -> Engine:
        """Gives connections whose transactions may change the schema, all or nothing and one at a time."""
        ...

    def is_there(self) -> bool:
        """Whether it is worth connecting to."""
        ...

    def tables(self, connection: Connection) -> frozenset[str]:
        """The names of all tables."""
        ...

    def translate(self, error: BaseException) -> StoreError | None:
        """As of a driver."""
        ...
