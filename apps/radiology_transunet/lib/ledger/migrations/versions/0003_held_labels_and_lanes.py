"""Labels that are held back for a reviewer, and how a queue came to a case."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

CASE = ["series_uid", "task"]
ONE_SUBMITTED = "ix_annotations_one_submitted"
ONE_HELD = "ix_annotations_one_held"


def upgrade() -> None:
    """Add the columns; what was handed out before came by its strategy."""
    for table, column in (("annotations", "held_reason"), ("queue_rows", "lane"), ("leases", "lane")):
        op.add_column(table, sa.Column(column, sa.Text(), nullable=False, server_default=""))
    op.execute("UPDATE leases SET lane = strategy")
    op.execute("UPDATE queue_rows SET lane = (SELECT strategy FROM queues WHERE queues.id = queue_rows.queue_id)")
    op.drop_index(ONE_SUBMITTED, "annotations")
    _unique(ONE_SUBMITTED, "status = 'submitted' AND held_reason = ''")
    _unique(ONE_HELD, "status = 'submitted' AND held_reason <> ''")


def downgrade() -> None:
    """Take them away; a held label beside another submitted one becomes a superseded one."""
    op.drop_index(ONE_HELD, "annotations")
    op.drop_index(ONE_SUBMITTED, "annotations")
    op.execute(
        "UPDATE annotations SET status = 'superseded' WHERE status = 'submitted' AND held_reason <> '' "
        "AND EXISTS (SELECT 1 FROM annotations AS other WHERE other.series_uid = annotations.series_uid "
        "AND other.task = annotations.task AND other.status = 'submitted' AND other.held_reason = '')"
    )
    _unique(ONE_SUBMITTED, "status = 'submitted'")
    for table, column in (("annotations", "held_reason"), ("queue_rows", "lane"), ("leases", "lane")):
        op.drop_column(table, column)


def _unique(name: str, where: str) -> None:
    op.create_index(
        name, "annotations", CASE, unique=True, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )
