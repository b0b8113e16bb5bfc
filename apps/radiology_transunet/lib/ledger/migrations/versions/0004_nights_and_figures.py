"""Which scheduled nights were started by whom, and figures of versions that served on promotion cases."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "case_figures",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("annotation_id", BIG_ID, nullable=False),
        sa.Column("dice", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotation_id"], ["annotations.id"], name="fk_case_figures_annotation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model", "annotation_id", name="pk_case_figures"),
    )
    op.create_index("ix_case_figures_annotation_id", "case_figures", ["annotation_id"])
    op.create_table(
        "nights",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("moment", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("until", TIME, nullable=False),
        sa.Column("done_at", TIME),
        sa.PrimaryKeyConstraint("task", "moment", name="pk_nights"),
    )


def downgrade() -> None:
    """Drop both."""
    op.drop_table("nights")
    op.drop_table("case_figures")
