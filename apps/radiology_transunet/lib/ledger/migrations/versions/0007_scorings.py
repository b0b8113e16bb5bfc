"""What a model said of a series, by series, task and version, with a draft or without; jobs with a priority."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
NUMBERS = (
    "score",
    "bald",
    "margin",
    "disagreement",
    "volume_ml",
    "largest_probability",
    "mean_probability",
    "boundary_entropy",
    "components",
    "edge_share",
    "samples_dice",
)
VALUES = ", ".join(NUMBERS)
OTHER_IMAGES = "it was made when %"
"""The reason of drafts of images that are no more."""
NEWEST = (
    "SELECT MAX(id) AS id FROM annotations WHERE origin = 'model' AND status IN ('draft', 'superseded') "
    f"AND model_version IS NOT NULL AND reason NOT LIKE '{OTHER_IMAGES}' GROUP BY series_uid, task, model_version"
)
KNOWN = (
    f"({NEWEST}) AS newest JOIN annotations ON annotations.id = newest.id JOIN scorings ON scorings.series_uid = "
    "annotations.series_uid AND scorings.task = annotations.task AND scorings.version = annotations.model_version"
)


def upgrade() -> None:
    """Make the scorings of the drafts; of two drafts of a series by one version the newer counts."""
    _put_aside()
    _create_scorings()
    op.execute(
        "INSERT INTO scorings (series_uid, task, version, scored_at) SELECT series_uid, task, model_version, "
        f"created_at FROM annotations WHERE id IN ({NEWEST}) ORDER BY id"
    )
    _create_scores("scoring_id", "annotation_id")
    _create_embeddings("scoring_id", "annotation_id")
    for table, columns in (("scores", f"label, {VALUES}"), ("embeddings", "vector")):
        op.create_index(f"ix_{table}_annotation_id", table, ["annotation_id"])
        op.execute(
            f"INSERT INTO {table} (scoring_id, annotation_id, {columns}) SELECT scorings.id, annotations.id, {columns} "
            f"FROM {KNOWN} JOIN {table}_before ON {table}_before.annotation_id = annotations.id"
        )
        op.drop_table(f"{table}_before")
    op.add_column("jobs", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.drop_index("ix_jobs_next", "jobs")
    op.create_index("ix_jobs_next", "jobs", ["kind", "state", "priority", "id"])


def downgrade() -> None:
    """Keep what came with a draft."""
    op.drop_index("ix_jobs_next", "jobs")
    op.create_index("ix_jobs_next", "jobs", ["kind", "state", "id"])
    op.drop_column("jobs", "priority")
    _put_aside()
    _create_scores("annotation_id")
    _create_embeddings("annotation_id")
    for table, columns in (("scores", f"label, {VALUES}"), ("embeddings", "vector")):
        op.execute(
            f"INSERT INTO {table} (annotation_id, {columns}) SELECT annotation_id, {columns} FROM {table}_before "
            "WHERE annotation_id IS NOT NULL"
        )
        op.drop_table(f"{table}_before")
    op.drop_table("scorings")


def _put_aside() -> None:
    """Copies of both tables without their keys, whose names are wanted again."""
    for table in ("scores", "embeddings"):
        op.execute(f"CREATE TABLE {table}_before AS SELECT * FROM {table}")
        op.drop_table(table)


def _create_scorings() -> None:
    op.create_table(
        "scorings",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("series_uid", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("scored_at", TIME, nullable=False),
        sa.Column("error", sa.Text(), nullable=False, server_default=""),
        sa.ForeignKeyConstraint(["series_uid"], ["series.series_uid"], name="fk_scorings_series_uid"),
        sa.PrimaryKeyConstraint("id", name="pk_scorings"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_scorings_case", "scorings", ["series_uid", "task", "version"], unique=True)
    op.create_index("ix_scorings_version", "scorings", ["task", "version"])


def _create_scores(key: str, *others: str) -> None:
    op.create_table(
        "scores",
        sa.Column(key, BIG_ID, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        *(sa.Column(name, BIG_ID) for name in others),
        *(sa.Column(name, sa.Float(53)) for name in NUMBERS),
        *_references("scores", key, *others),
        sa.PrimaryKeyConstraint(key, "label", name="pk_scores"),
    )


def _create_embeddings(key: str, *others: str) -> None:
    op.create_table(
        "embeddings",
        sa.Column(key, BIG_ID, nullable=False),
        *(sa.Column(name, BIG_ID) for name in others),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        *_references("embeddings", key, *others),
        sa.PrimaryKeyConstraint(key, name="pk_embeddings"),
    )


def _references(table: str, key: str, *others: str) -> list[sa.ForeignKeyConstraint]:
    """The key's rows go with what they belong to; what is only named may go."""
    targets = {"scoring_id": "scorings.id", "annotation_id": "annotations.id"}
    return [
        sa.ForeignKeyConstraint(
            [name], [targets[name]], name=f"fk_{table}_{name}", ondelete="CASCADE" if name == key else "SET NULL"
        )
        for name in (key, *others)
    ]
