"""The first schema: the tables of tables.py as they were at first, written out so that this step never changes."""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
FREE = ("audit", "cursors", "jobs", "patients", "queues", "verdicts")
BOUND = ("series", "annotations", "leases", "skips", "queue_rows", "embeddings", "outbox", "scores")


def upgrade() -> None:
    """Make all tables, those first that others refer to."""
    for make in (_audit, _cursors, _jobs, _patients, _queues, _verdicts, _series):
        make()
    for make in (_annotations, _leases, _skips, _queue_rows, _embeddings, _outbox, _scores):
        make()


def downgrade() -> None:
    """Drop all tables."""
    for table in reversed(FREE + BOUND):
        op.drop_table(table)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _texts(*names: str) -> list[sa.Column[str]]:
    return [_text(name) for name in names]


def _times(*names: str) -> list[sa.Column[datetime]]:
    return [sa.Column(name, TIME, nullable=False) for name in names]


def _perhaps_times(*names: str) -> list[sa.Column[datetime]]:
    return [sa.Column(name, TIME) for name in names]


def _create_numbered(table: str, *parts: sa.schema.SchemaItem) -> None:
    """A table with an automatic key; SQLite never gives a number again."""
    key = sa.PrimaryKeyConstraint("id", name=f"pk_{table}")
    op.create_table(table, sa.Column("id", BIG_ID, autoincrement=True), *parts, key, sqlite_autoincrement=True)


def _partial(name: str, table: str, columns: list[str], where: str, unique: bool = True) -> None:
    """An index of some rows, in both databases."""
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def _audit() -> None:
    _create_numbered(
        "audit",
        *_times("at"),
        *_texts("actor", "action", "subject", "details"),
    )
    op.create_index("ix_audit_subject", "audit", ["subject", "id"])


def _cursors() -> None:
    op.create_table(
        "cursors",
        _text("name"),
        sa.Column("value", sa.BigInteger(), nullable=False),
        _text("source"),
        *_times("updated_at"),
        sa.PrimaryKeyConstraint("name", name="pk_cursors"),
    )


def _jobs() -> None:
    _create_numbered(
        "jobs",
        *_texts("kind", "task", "payload", "key", "state"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text()),
        sa.Column("progress", sa.Float(precision=53), nullable=False),
        *_texts("message", "error"),
        *_times("created_at", "not_before"),
        *_perhaps_times("started_at", "heartbeat_at"),
        sa.Column("lease_s", sa.Float(precision=53)),
        *_perhaps_times("lease_until", "finished_at"),
        _text("result"),
        sa.CheckConstraint(
            "state <> 'running' OR (worker IS NOT NULL AND lease_until IS NOT NULL)", name=op.f("ck_jobs_running_held")
        ),
        sa.CheckConstraint("state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name=op.f("ck_jobs_state")),
        sa.CheckConstraint("progress >= 0 AND progress <= 1", name=op.f("ck_jobs_progress")),
    )
    op.create_index("ix_jobs_next", "jobs", ["kind", "state", "id"])
    _partial("ix_jobs_one_open", "jobs", ["kind", "task", "key"], "state IN ('queued', 'running')")


def _patients() -> None:
    op.create_table(
        "patients",
        *_texts("patient", "split", "reason"),
        *_times("created_at"),
        sa.CheckConstraint("split <> ''", name=op.f("ck_patients_split")),
        sa.PrimaryKeyConstraint("patient", name="pk_patients"),
    )


def _queues() -> None:
    _create_numbered(
        "queues",
        *_texts("task", "strategy"),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        *_times("built_at"),
    )
    _partial("ix_queues_one_active", "queues", ["task", "strategy"], "is_active")


def _verdicts() -> None:
    _create_numbered(
        "verdicts",
        _text("task"),
        sa.Column("version", sa.Integer(), nullable=False),
        *_texts("verdict", "reason", "metrics", "state"),
        *_times("created_at"),
        *_perhaps_times("finished_at"),
        sa.CheckConstraint("state IN ('open', 'done')", name=op.f("ck_verdicts_state")),
    )
    _partial("ix_verdicts_one_open", "verdicts", ["task", "version"], "state = 'open'")
    op.create_index("ix_verdicts_task", "verdicts", ["task", "id"])


def _series() -> None:
    op.create_table(
        "series",
        *_texts("series_uid", "study_uid", "patient", "status", "reason", "modality", "description"),
        sa.Column("instances", sa.Integer(), nullable=False),
        *_texts("institution", "manufacturer", "date", "frame_of_reference_uid", "findings"),
        sa.Column("geometry", sa.Text()),
        *_times("created_at", "updated_at"),
        sa.CheckConstraint("status <> 'refused' OR reason <> ''", name=op.f("ck_series_refused_with_reason")),
        sa.CheckConstraint("status IN ('new', 'ready', 'refused', 'gone')", name=op.f("ck_series_status")),
        sa.ForeignKeyConstraint(["patient"], ["patients.patient"], name="fk_series_patient"),
        sa.PrimaryKeyConstraint("series_uid", name="pk_series"),
    )
    op.create_index("ix_series_patient", "series", ["patient"])
    op.create_index("ix_series_status", "series", ["status", "series_uid"])


def _annotations() -> None:
    _create_numbered(
        "annotations",
        sa.Column("series_uid", sa.Text()),
        sa.Column("referenced_series_uid", sa.Text()),
        sa.Column("task", sa.Text()),
        *_texts("status", "origin", "author"),
        sa.Column("model_version", sa.Integer()),
        sa.Column("parent_id", BIG_ID),
        sa.Column("sop_instance_uid", sa.Text()),
        sa.Column("seg_series_uid", sa.Text()),
        sa.Column("changed_voxels", sa.BigInteger()),
        _text("voxels"),
        sa.Column("nothing_found", sa.Boolean(), nullable=False),
        _text("reason"),
        *_times("made_at", "created_at"),
        *_perhaps_times("reviewed_at"),
        sa.Column("reviewer", sa.Text()),
        *_perhaps_times("stored_at"),
        sa.CheckConstraint(
            "origin <> 'model' OR model_version IS NOT NULL OR status = 'rejected'",
            name=op.f("ck_annotations_versioned"),
        ),
        sa.CheckConstraint("origin IN ('model', 'foreign_model', 'human')", name=op.f("ck_annotations_origin")),
        sa.CheckConstraint("status <> 'draft' OR origin <> 'human'", name=op.f("ck_annotations_drafts_are_of_models")),
        sa.CheckConstraint("status <> 'rejected' OR reason <> ''", name=op.f("ck_annotations_rejected_with_reason")),
        sa.CheckConstraint(
            "status = 'rejected' OR (series_uid IS NOT NULL AND task IS NOT NULL)", name=op.f("ck_annotations_refers")
        ),
        sa.CheckConstraint(
            "status IN ('draft', 'submitted', 'accepted', 'rejected', 'superseded')", name=op.f("ck_annotations_status")
        ),
        sa.CheckConstraint(
            "status NOT IN ('submitted', 'accepted') OR origin = 'human'", name=op.f("ck_annotations_labels_are_human")
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["annotations.id"], name="fk_annotations_parent_id"),
        sa.ForeignKeyConstraint(["series_uid"], ["series.series_uid"], name="fk_annotations_series_uid"),
    )
    _annotation_indexes()


def _annotation_indexes() -> None:
    op.create_index("ix_annotations_case", "annotations", ["series_uid", "task", "status"])
    _partial("ix_annotations_one_accepted", "annotations", ["series_uid", "task"], "status = 'accepted'")
    _partial("ix_annotations_one_draft", "annotations", ["series_uid", "task", "origin"], "status = 'draft'")
    _partial("ix_annotations_one_submitted", "annotations", ["series_uid", "task"], "status = 'submitted'")
    op.create_index("ix_annotations_sop_instance_uid", "annotations", ["sop_instance_uid"], unique=True)
    op.create_index("ix_annotations_seg_series_uid", "annotations", ["seg_series_uid"])
    op.create_index("ix_annotations_task_status", "annotations", ["task", "status", "id"])
    references = "referenced_series_uid IS NOT NULL"
    _partial("ix_annotations_unusable", "annotations", ["referenced_series_uid"], references, unique=False)


def _leases() -> None:
    _create_numbered(
        "leases",
        *_texts("series_uid", "task", "annotator", "strategy"),
        sa.Column("score", sa.Float(precision=53)),
        _text("why"),
        *_times("acquired_at", "expires_at"),
        *_perhaps_times("ended_at"),
        sa.Column("ending", sa.Text()),
        sa.CheckConstraint("annotator <> ''", name=op.f("ck_leases_annotator")),
        sa.CheckConstraint("(ended_at IS NULL) = (ending IS NULL)", name=op.f("ck_leases_ending")),
        sa.ForeignKeyConstraint(["series_uid"], ["series.series_uid"], name="fk_leases_series_uid"),
    )
    _partial("ix_leases_one_open", "leases", ["series_uid", "task"], "ended_at IS NULL")
    _partial("ix_leases_open", "leases", ["task", "expires_at"], "ended_at IS NULL", unique=False)


def _skips() -> None:
    op.create_table(
        "skips",
        *_texts("series_uid", "task", "annotator"),
        *_times("until"),
        sa.ForeignKeyConstraint(["series_uid"], ["series.series_uid"], name="fk_skips_series_uid"),
        sa.PrimaryKeyConstraint("series_uid", "task", "annotator", name="pk_skips"),
    )


def _queue_rows() -> None:
    op.create_table(
        "queue_rows",
        sa.Column("queue_id", BIG_ID, nullable=False),
        *_texts("series_uid", "task"),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("score", sa.Float(precision=53)),
        _text("why"),
        sa.Column("is_free", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["queue_id"], ["queues.id"], name="fk_queue_rows_queue_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["series_uid"], ["series.series_uid"], name="fk_queue_rows_series_uid"),
        sa.PrimaryKeyConstraint("queue_id", "series_uid", name="pk_queue_rows"),
    )
    op.create_index("ix_queue_rows_next", "queue_rows", ["queue_id", "is_free", "rank"])
    op.create_index("ix_queue_rows_series", "queue_rows", ["series_uid", "task"])


def _embeddings() -> None:
    op.create_table(
        "embeddings",
        sa.Column("annotation_id", BIG_ID, nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotation_id"], ["annotations.id"], name="fk_embeddings_annotation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("annotation_id", name="pk_embeddings"),
    )


def _outbox() -> None:
    _create_numbered(
        "outbox",
        *_texts("action", "sop_instance_uid", "series_uid"),
        sa.Column("annotation_id", BIG_ID, nullable=False),
        sa.Column("payload", sa.LargeBinary()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _text("error"),
        *_times("created_at", "next_try_at"),
        *_perhaps_times("done_at"),
        sa.CheckConstraint(
            "(payload IS NOT NULL) = (action = 'store' AND done_at IS NULL)",
            name=op.f("ck_outbox_payload_until_stored"),
        ),
        sa.CheckConstraint("action IN ('store', 'delete')", name=op.f("ck_outbox_action")),
        sa.ForeignKeyConstraint(["annotation_id"], ["annotations.id"], name="fk_outbox_annotation_id"),
    )
    op.create_index("ix_outbox_annotation_id", "outbox", ["annotation_id"])
    _partial("ix_outbox_open", "outbox", ["id"], "done_at IS NULL", unique=False)
    op.create_index("ix_outbox_sop_instance_uid_action", "outbox", ["sop_instance_uid", "action"], unique=True)


def _scores() -> None:
    op.create_table(
        "scores",
        sa.Column("annotation_id", BIG_ID, nullable=False),
        _text("label"),
        sa.Column("score", sa.Float(precision=53)),
        sa.ForeignKeyConstraint(
            ["annotation_id"], ["annotations.id"], name="fk_scores_annotation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("annotation_id", "label", name="pk_scores"),
    )
