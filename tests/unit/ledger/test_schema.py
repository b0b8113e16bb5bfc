"""The migrations make what the tables say, once, whoever runs them."""

from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from ledger_support import Crew, work_upgrade

from lib.core.errors import LedgerUnavailable
from lib.ledger import schema
from lib.ledger.database import Database
from lib.ledger.ledger import Ledger
from lib.ledger.tables import metadata


def rules_of(database: Database) -> dict[str, object]:
    """Columns, keys, checks and indices of each table, as the database tells them."""
    found: dict[str, object] = {}
    with database.read() as connection:
        inspector = sa.inspect(connection)
        for table in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
            columns = [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)]
            checks = sorted((str(c["name"]), c["sqltext"]) for c in inspector.get_check_constraints(table))
            keys = sorted(
                (str(k["name"]), k["constrained_columns"], k["referred_table"], str(k["options"]))
                for k in inspector.get_foreign_keys(table)
            )
            indices = sorted(
                (str(i["name"]), i["column_names"], bool(i["unique"]), _where(i)) for i in inspector.get_indexes(table)
            )
            found[table] = (columns, inspector.get_pk_constraint(table), checks, keys, indices)
    return found


def _where(index: Any) -> str:
    """The condition of a partial index."""
    options = index.get("dialect_options", {})
    return str(options.get("sqlite_where", "")) + str(options.get("postgresql_where", ""))


def test_the_migrations_lead_to_the_tables_of_the_code(empty_url: str) -> None:
    database = Database(empty_url)
    schema.upgrade(database)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    migrated = rules_of(database)
    with database.write() as connection:
        metadata.drop_all(connection)
    with database.write() as connection:
        metadata.create_all(connection)
    assert rules_of(database) == migrated
    assert len(migrated) == 23
    database.close()


def test_a_second_upgrade_changes_nothing(empty_url: str) -> None:
    ledger = Ledger(empty_url)
    ledger.upgrade()
    ledger.set_cursor("changes", 7, "archive")
    ledger.upgrade()
    ledger.check()
    cursor = ledger.cursor("changes")
    assert cursor is not None
    assert cursor.value == 7
    ledger.close()


def test_several_processes_may_upgrade_at_once(empty_url: str, crew: Crew) -> None:
    assert crew.run(work_upgrade, empty_url) == {"w0": "done", "w1": "done", "w2": "done"}


def test_the_constant_names_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_the_first_migration_can_be_undone(empty_url: str) -> None:
    from alembic import command

    database = Database(empty_url)
    schema.upgrade(database)
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert rules_of(database) == {}
    database.close()


def test_a_check_of_an_empty_database_says_what_to_do(empty_url: str) -> None:
    ledger = Ledger(empty_url)
    with pytest.raises(LedgerUnavailable, match="run the set-up"):
        ledger.check()
    ledger.close()


def test_a_newer_schema_is_refused_by_check_and_upgrade(empty_url: str) -> None:
    ledger, database = Ledger(empty_url), Database(empty_url)
    ledger.upgrade()
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerUnavailable, match="must have schema version 0010, got 9999"):
        ledger.check()
    with pytest.raises(LedgerUnavailable, match="9999"):
        ledger.upgrade()
    ledger.close()
    database.close()


def test_a_failed_migration_leaves_nothing_behind(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(empty_url)
    with monkeypatch.context() as patched:
        patched.setattr("alembic.op.create_index", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            schema.upgrade(database)
    assert rules_of(database) == {}
    assert schema.current(database) is None
    schema.upgrade(database)
    schema.check(database)
    database.close()
