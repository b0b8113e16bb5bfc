"""How good each label of a draft probably is, and the series of a study without reading all."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table and the index; drafts from before have no estimates."""
    op.create_table(
        "estimates",
        sa.Column("annotation_id", BIG_ID, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(53)),
        sa.Column("low", sa.Float(53)),
        sa.Column("high", sa.Float(53)),
        sa.Column("is_familiar", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False, server_default=""),
        sa.ForeignKeyConstraint(
            ["annotation_id"], ["annotations.id"], name="fk_estimates_annotation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("annotation_id", "label", name="pk_estimates"),
    )
    op.create_index("ix_series_study_uid", "series", ["study_uid"])


def downgrade() -> None:
    """Drop both."""
    op.drop_index("ix_series_study_uid", "series")
    op.drop_table("estimates")
