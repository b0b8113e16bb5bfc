"""Connections and transactions: the one place that knows SQLite from PostgreSQL.

Rules that keep two processes from losing data or waiting for each other for ever:

- SQLite: write-ahead log, so that readers never wait. Every writer starts with BEGIN IMMEDIATE: it
  waits for its turn before it reads, so no reader has to become a writer halfway (which fails at
  once with "database is locked"). `synchronous=FULL`: a commit is on the disk before it is
  answered, so also a power cut loses nothing that was accepted; NORMAL would survive kill -9 only.
  A commit costs a few ms then, which is little beside the work it stands for.
- PostgreSQL: READ COMMITTED. A transaction that changes anything of a series locks the row of that
  series first (`lock_series`), and waits for no other row while it holds one: no cycle, no deadlock.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lib.core.errors import Conflict, InvalidInput, InvalidSettings, LedgerUnavailable

BUSY_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5
DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


class Database:
    """A lazily opened engine; usable from many threads, after fork and (pickled) after spawn.

    Raises:
        InvalidSettings: a URL that is none, or of a database that the ledger does not support.
    """

    def __init__(self, url: str) -> None:
        self.url = _checked_url(url)
        self._lock = threading.Lock()
        self._engine: sa.Engine | None = None
        self._pid = 0

    @property
    def is_sqlite(self) -> bool:
        """Whether it is SQLite; else it is PostgreSQL."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def name(self) -> str:
        """The URL without its password, for messages."""
        return self.url.render_as_string(hide_password=True)

    @property
    def engine(self) -> sa.Engine:
        """The engine of this process; a forked child gets its own and leaves the parent's connections alone."""
        with self._lock:
            if self._engine is None or self._pid != os.getpid():
                if self._engine is not None:
                    self._engine.dispose(close=False)
                self._engine, self._pid = _open(self.url), os.getpid()
            return self._engine

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose(close=self._pid == os.getpid())
                self._engine = None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads.

        Raises:
            LedgerUnavailable: the database does not answer, or has no such table.
        """
        with self._translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes: committed when the block ends, rolled back when it raises.

        Raises:
            LedgerUnavailable: the database does not answer, or has no such table.
            Conflict: a rule of the schema forbids the change.
        """
        with self._translated(), self.engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.IntegrityError as error:
            raise Conflict(f"the ledger's rules forbid this change: {_reason(error)}") from error
        except sa.exc.DataError as error:
            raise InvalidInput(f"the ledger cannot hold this value: {_reason(error)}") from error
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            raise LedgerUnavailable(
                f"the ledger at {self.name} does not do its work: {_reason(error)}; does the database run, "
                "and is its schema up to date?"
            ) from error
        except sa.exc.StatementError as error:  # raised before the database was asked
            raise InvalidInput(f"the ledger cannot hold this value: {_reason(error)}") from error


def lock_series(connection: sa.Connection, table: sa.Table, series_uid: str) -> bool:
    """Lock the row of a series until the transaction ends; whether there is one.

    On SQLite the whole transaction is exclusive already.
    """
    query = sa.select(table.c.series_uid).where(table.c.series_uid == series_uid)
    return connection.execute(query.with_for_update(key_share=True)).first() is not None


def take_turns(connection: sa.Connection, key: str) -> None:
    """Wait until no other transaction holds this key, and hold it until the transaction ends.

    On SQLite the whole transaction is exclusive already.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(key, 0))))


def _checked_url(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError as error:
        raise InvalidSettings("ledger.url is no database URL; an example is sqlite:////data/ledger.db") from error
    backend = url.drivername.split("+")[0]
    if backend not in DRIVERS:
        raise InvalidSettings(f"the ledger needs a URL of sqlite or postgresql, got {backend}")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise InvalidSettings("the ledger needs a file: several processes share it; got a SQLite URL without one")
    return url.set(drivername=DRIVERS[backend])


def _open(url: sa.URL) -> sa.Engine:
    # Whole before the first statement: where MLflow begins to import it in one thread, the statements of others meet
    # a module that is half there ("partially initialized module 'sqlalchemy.orm.exc'").
    import_module("sqlalchemy.orm")
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url)
    options = f"-c timezone=utc -c lock_timeout={int(BUSY_TIMEOUT_S * 1000)}"
    arguments = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "radiology_transunet", "options": options}
    return sa.create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED", connect_args=arguments)


def _open_sqlite(url: sa.URL) -> sa.Engine:
    folder = Path(str(url.database)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerUnavailable(f"the folder of the ledger, {folder}, cannot be made: {error}") from error
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not where the driver guesses
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _reason(error: sa.exc.SQLAlchemyError) -> str:
    cause = error.orig if isinstance(error, sa.exc.StatementError) and error.orig is not None else error
    return " ".join(str(cause).split())
