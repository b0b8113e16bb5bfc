"""What all parts of the ledger share: database, clock, audit trail and a few statements."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from lib.core.errors import InvalidInput, NotFound
from lib.ledger import tables
from lib.ledger.database import Database, lock_series

Clock = Callable[[], datetime]
NOTHING: Mapping[str, Any] = {}


def utc_now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


def seconds(count: float) -> timedelta:
    """That many seconds."""
    return timedelta(seconds=count)


@dataclass(frozen=True, slots=True)
class Book:
    """Base of the ledger's parts.

    Attributes:
        database: connections and transactions.
        clock: gives the time, aware; leases and pauses go by it.
        actor: who is named in the audit trail where a method takes no name.
    """

    database: Database
    clock: Clock
    actor: str

    def _read(self) -> AbstractContextManager[sa.Connection]:
        return self.database.read()

    def _write(self) -> AbstractContextManager[sa.Connection]:
        return self.database.write()

    def _note(
        self,
        connection: sa.Connection,
        action: str,
        subject: object,
        details: Mapping[str, Any] = NOTHING,
        actor: str = "",
    ) -> None:
        """Write the audit row of a change, in its transaction."""
        note(connection, self.clock(), actor or self.actor, action, subject, details)


def note(
    connection: sa.Connection, at: datetime, actor: str, action: str, subject: object, details: Mapping[str, Any]
) -> None:
    """Write a row of the audit trail."""
    values = {"at": at, "actor": actor, "action": action, "subject": str(subject), "details": details}
    connection.execute(sa.insert(tables.audit).values(values))


def require_among(what: str, value: str | None, known: Sequence[str]) -> None:
    """Raise InvalidInput unless the value is None or one of those that are known."""
    if value is not None and value not in known:
        raise InvalidInput(f"{what} must be one of {', '.join(known)}, got {value!r}")


def require_series(connection: sa.Connection, series_uid: str) -> None:
    """Lock the row of a series.

    Raises:
        NotFound: the ledger does not know it.
    """
    if not lock_series(connection, tables.series, series_uid):
        raise NotFound(f"the ledger has no series {series_uid}")


def insert_id(connection: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> int:
    """Insert a row and return its automatic key."""
    return int(connection.execute(sa.insert(table).values(values).returning(table.c.id)).scalar_one())


def insert_new(connection: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless a unique index has it already; whether it was inserted."""
    insert = _insert_or_ignore(connection, table).values(values).returning(sa.literal(1))
    return connection.execute(insert).first() is not None


def insert_all_new(connection: sa.Connection, table: sa.Table, many: list[dict[str, Any]]) -> int:
    """Insert those rows that no unique index has already; how many that were."""
    inserted = 0
    for start in range(0, len(many), 500):
        part = many[start : start + 500]
        insert = _insert_or_ignore(connection, table).values(part).returning(sa.literal(1))
        inserted += len(connection.execute(insert).all())
    return inserted


def _insert_or_ignore(connection: sa.Connection, table: sa.Table) -> Any:
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(table).on_conflict_do_nothing()
