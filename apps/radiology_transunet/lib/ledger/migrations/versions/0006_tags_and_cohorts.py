"""What people say of series, and which series they put together."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "tags",
        sa.Column("series_uid", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.CheckConstraint("tag <> ''", name=op.f("ck_tags_tag")),
        sa.ForeignKeyConstraint(["series_uid"], ["series.series_uid"], name="fk_tags_series_uid"),
        sa.PrimaryKeyConstraint("series_uid", "tag", name="pk_tags"),
    )
    op.create_index("ix_tags_tag", "tags", ["tag"])
    op.create_table(
        "cohorts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.CheckConstraint("name <> ''", name=op.f("ck_cohorts_name")),
        sa.PrimaryKeyConstraint("name", name="pk_cohorts"),
    )
    op.create_table(
        "cohort_members",
        sa.Column("cohort", sa.Text(), nullable=False),
        sa.Column("series_uid", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("added_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["cohort"], ["cohorts.name"], name="fk_cohort_members_cohort", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["series_uid"], ["series.series_uid"], name="fk_cohort_members_series_uid"),
        sa.PrimaryKeyConstraint("cohort", "series_uid", name="pk_cohort_members"),
    )
    op.create_index("ix_cohort_members_series_uid", "cohort_members", ["series_uid"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("cohort_members")
    op.drop_table("cohorts")
    op.drop_table("tags")
