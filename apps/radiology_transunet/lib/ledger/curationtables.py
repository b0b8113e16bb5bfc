"""The tables of curation: what people say of series, and which series they put together.

    series 1--n tags
    series 1--n cohort_members n--1 cohorts

Both are of series, not of a task: the same cohort may be exported for one task and for another.
"""

import sqlalchemy as sa

from lib.ledger.columns import UtcDateTime, text
from lib.ledger.tables import metadata

tags = sa.Table(
    "tags",
    metadata,
    sa.Column("series_uid", sa.Text, sa.ForeignKey("series.series_uid"), primary_key=True),
    sa.Column("tag", sa.Text, primary_key=True),
    text("author"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.CheckConstraint("tag <> ''", name="tag"),
    sa.Index("ix_tags_tag", "tag"),
)

cohorts = sa.Table(
    "cohorts",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    text("description"),
    text("author"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.CheckConstraint("name <> ''", name="name"),
)

cohort_members = sa.Table(
    "cohort_members",
    metadata,
    sa.Column("cohort", sa.Text, sa.ForeignKey("cohorts.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("series_uid", sa.Text, sa.ForeignKey("series.series_uid"), primary_key=True),
    text("author"),
    sa.Column("added_at", UtcDateTime, nullable=False),
    sa.Index("ix_cohort_members_series_uid", "series_uid"),
)
