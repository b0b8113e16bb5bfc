"""When a series that could not be scored is looked at again."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the moment; what could not be scored before is looked at again at once."""
    op.add_column("scorings", sa.Column("retry_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Drop it: what could not be scored is left alone."""
    op.drop_column("scorings", "retry_at")
