"""How well drafts agreed with what people made of them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "corrections",
        sa.Column("annotation_id", BIG_ID, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("dice", sa.Float(precision=53), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.CheckConstraint("dice >= 0 AND dice <= 1", name=op.f("ck_corrections_dice")),
        sa.ForeignKeyConstraint(
            ["annotation_id"], ["annotations.id"], name="fk_corrections_annotation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("annotation_id", "label", name="pk_corrections"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("corrections")
