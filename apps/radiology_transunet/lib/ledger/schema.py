"""The schema's version: bring a database up to date, or say that it is not."""

from pathlib import Path

import sqlalchemy as sa

from lib.core.errors import LedgerUnavailable
from lib.ledger.database import Database, take_turns

HEAD = "0010"
"""The newest migration; a constant, so that a check needs no Alembic."""

MIGRATIONS = Path(__file__).parent / "migrations"
TURN = "radiology_transunet.migration"


def upgrade(database: Database) -> None:
    """Run the missing migrations in one transaction; two processes at once take turns.

    Raises:
        LedgerUnavailable: the database does not answer, or is of a newer version than this software.
    """
    from alembic import command, util
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with database.write() as connection:
        take_turns(connection, TURN)
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except util.CommandError as error:
            raise LedgerUnavailable(f"the ledger at {database.name} cannot be brought to {HEAD}: {error}") from error


def check(database: Database) -> None:
    """Raise LedgerUnavailable unless the database answers and its schema is the newest.

    Never makes a database that is not there.
    """
    if database.is_sqlite and not Path(str(database.url.database)).is_file():
        raise LedgerUnavailable(f"there is no ledger at {database.name}; run the set-up")
    found = current(database)
    if found != HEAD:
        raise LedgerUnavailable(
            f"the ledger at {database.name} must have schema version {HEAD}, got {found or 'none'}; run the set-up"
        )


def current(database: Database) -> str | None:
    """The schema's version, None for a database without one."""
    with database.read() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
