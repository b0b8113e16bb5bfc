"""Alembic runs this for each command; the connection, its transaction open, comes from schema.upgrade."""

from alembic import context

from lib.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
)
context.run_migrations()
