"""The tables of what a model said of a series: one scoring a series, task and model version.

    series 1--n scorings 1--n scores, embeddings

A scoring comes with a draft, or of a look that was taken for its sake alone. `annotation_id` is the draft that it came
with; NULL without one.
"""

import sqlalchemy as sa

from lib.ledger.columns import BIG_ID, UtcDateTime, late_text, metadata, numbers, row_id, series_key, text


def _scoring_id() -> sa.Column[int]:
    return sa.Column("scoring_id", BIG_ID, sa.ForeignKey("scorings.id", ondelete="CASCADE"), primary_key=True)


def _draft_id() -> sa.Column[int]:
    return sa.Column("annotation_id", BIG_ID, sa.ForeignKey("annotations.id", ondelete="SET NULL"))


scorings = sa.Table(
    "scorings",
    metadata,
    row_id(),
    series_key(),
    text("task"),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("scored_at", UtcDateTime, nullable=False),
    late_text("error"),  # why that version cannot score the series
    sa.Column("retry_at", UtcDateTime),  # when it looks again at one that it cannot score; NULL = at once
    sa.Index("ix_scorings_case", "series_uid", "task", "version", unique=True),
    sa.Index("ix_scorings_version", "task", "version"),
    sqlite_autoincrement=True,
)

scores = sa.Table(
    "scores",
    metadata,
    _scoring_id(),
    sa.Column("label", sa.Text, primary_key=True),
    _draft_id(),
    sa.Column("score", sa.Float(53)),  # the entropy's; NULL stands for NaN, which SQLite cannot hold
    *numbers("bald", "margin", "disagreement", "volume_ml", "largest_probability"),
    *numbers("mean_probability", "boundary_entropy", "components", "edge_share", "samples_dice"),
    sa.Index("ix_scores_annotation_id", "annotation_id"),
)

embeddings = sa.Table(
    "embeddings",
    metadata,
    _scoring_id(),
    _draft_id(),
    sa.Column("vector", sa.LargeBinary, nullable=False),  # float32, little endian
    sa.Index("ix_embeddings_annotation_id", "annotation_id"),
)
