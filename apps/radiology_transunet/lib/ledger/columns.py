"""Names, column types and shorthands of the tables."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = sa.MetaData(naming_convention=NAMES)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Aware datetimes; stored in UTC, read back in UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """In UTC; without its zone for SQLite, which would drop it."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"the ledger takes aware datetimes, got {value!r}")
        in_utc = value.astimezone(UTC)
        return in_utc.replace(tzinfo=None) if dialect.name == "sqlite" else in_utc

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """In UTC, with its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(sa.types.TypeDecorator[Any]):
    """Values of JSON as text, with NaN and infinity (a JSON column of PostgreSQL refuses them)."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        """As text; mappings become objects."""
        if value is None:
            return None
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=_plain)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        """The value."""
        return None if value is None else json.loads(value)


def _plain(value: Any) -> Any:
    """What JSON knows of a mapping of another kind or of a number of numpy."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"the ledger keeps values of JSON, got {type(value).__name__}")


BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # only INTEGER is an automatic key there


def row_id() -> sa.Column[int]:
    """An automatic key."""
    return sa.Column("id", BIG_ID, primary_key=True, autoincrement=True)


def text(name: str) -> sa.Column[str]:
    """A text that is always there, perhaps empty."""
    return sa.Column(name, sa.Text, nullable=False)


def late_text(name: str) -> sa.Column[str]:
    """A text that rows from before it came have as an empty one."""
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def texts(*names: str) -> list[sa.Column[str]]:
    """Several of them."""
    return [text(name) for name in names]


def numbers(*names: str) -> list[sa.Column[float]]:
    """Numbers that may be missing."""
    return [sa.Column(name, sa.Float(53)) for name in names]


def among(column: str, values: Sequence[str]) -> sa.CheckConstraint:
    """Only these values."""
    return sa.CheckConstraint(f"{column} IN ({', '.join(repr(v) for v in values)})", name=column)


def series_key(nullable: bool = False) -> sa.Column[str]:
    """A reference to a series."""
    return sa.Column("series_uid", sa.Text, sa.ForeignKey("series.series_uid"), nullable=nullable)


def partial(name: str, *columns: str, where: str, unique: bool = True) -> sa.Index:
    """An index of those rows only that the condition holds for, in both databases."""
    return sa.Index(name, *columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
