"""The tables, and the rules that the database itself keeps.

    patients 1--n series 1--n annotations 1--n outbox, corrections, case_figures
                       |--n leases, skips, queue_rows n--1 queues
                       |--n scorings 1--n scores, embeddings: scoretables.py
    jobs, verdicts, nights, keys, cursors, audit stand alone
    tags and cohorts of series: curationtables.py; estimates of drafts: estimates.py

A change here needs a migration: a test compares both.
"""

import sqlalchemy as sa

from lib.ledger import rows
from lib.ledger.columns import (
    BIG_ID,
    Json,
    UtcDateTime,
    among,
    late_text,
    partial,
    row_id,
    series_key,
    text,
    texts,
)
from lib.ledger.columns import metadata as metadata
from lib.ledger.scoretables import embeddings as embeddings
from lib.ledger.scoretables import scores as scores
from lib.ledger.scoretables import scorings as scorings

patients = sa.Table(
    "patients",
    metadata,
    sa.Column("patient", sa.Text, primary_key=True),
    *texts("split", "reason"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.CheckConstraint("split <> ''", name="split"),
)

series = sa.Table(
    "series",
    metadata,
    sa.Column("series_uid", sa.Text, primary_key=True),
    text("study_uid"),
    sa.Column("patient", sa.Text, sa.ForeignKey("patients.patient"), nullable=False),
    *texts("status", "reason", "modality", "description"),
    sa.Column("instances", sa.Integer, nullable=False),
    *texts("institution", "manufacturer", "date", "frame_of_reference_uid"),
    sa.Column("findings", Json, nullable=False),
    sa.Column("geometry", Json),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    among("status", rows.SERIES_STATUSES),
    sa.CheckConstraint("status <> 'refused' OR reason <> ''", name="refused_with_reason"),
    sa.Index("ix_series_status", "status", "series_uid"),
    sa.Index("ix_series_patient", "patient"),
    sa.Index("ix_series_study_uid", "study_uid"),
)

REFERENCES = "referenced_series_uid IS NOT NULL"
WAITING = "status = 'submitted' AND held_reason = ''"
HELD = "status = 'submitted' AND held_reason <> ''"
annotations = sa.Table(
    "annotations",
    metadata,
    row_id(),
    series_key(nullable=True),  # NULL only for a rejected SEG of a series that is not in the ledger
    sa.Column("referenced_series_uid", sa.Text),  # of a rejected SEG, in the ledger or not
    sa.Column("task", sa.Text),
    *texts("status", "origin", "author"),
    sa.Column("model_version", sa.Integer),
    sa.Column("parent_id", BIG_ID, sa.ForeignKey("annotations.id")),
    sa.Column("sop_instance_uid", sa.Text),
    sa.Column("seg_series_uid", sa.Text),
    sa.Column("changed_voxels", sa.BigInteger),
    sa.Column("voxels", Json, nullable=False),
    sa.Column("nothing_found", sa.Boolean, nullable=False),
    text("reason"),
    sa.Column("made_at", UtcDateTime, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("reviewed_at", UtcDateTime),
    sa.Column("reviewer", sa.Text),
    sa.Column("stored_at", UtcDateTime),
    late_text("held_reason"),
    among("status", rows.ANNOTATION_STATUSES),
    among("origin", rows.ORIGINS),
    sa.CheckConstraint("status NOT IN ('submitted', 'accepted') OR origin = 'human'", name="labels_are_human"),
    sa.CheckConstraint("status <> 'draft' OR origin <> 'human'", name="drafts_are_of_models"),
    sa.CheckConstraint("status = 'rejected' OR (series_uid IS NOT NULL AND task IS NOT NULL)", name="refers"),
    sa.CheckConstraint("status <> 'rejected' OR reason <> ''", name="rejected_with_reason"),
    sa.CheckConstraint("origin <> 'model' OR model_version IS NOT NULL OR status = 'rejected'", name="versioned"),
    sa.Index("ix_annotations_sop_instance_uid", "sop_instance_uid", unique=True),
    sa.Index("ix_annotations_case", "series_uid", "task", "status"),
    sa.Index("ix_annotations_seg_series_uid", "seg_series_uid"),
    sa.Index("ix_annotations_task_status", "task", "status", "id"),
    partial("ix_annotations_one_accepted", "series_uid", "task", where="status = 'accepted'"),
    partial("ix_annotations_one_submitted", "series_uid", "task", where=WAITING),
    partial("ix_annotations_one_held", "series_uid", "task", where=HELD),
    partial("ix_annotations_one_draft", "series_uid", "task", "origin", where="status = 'draft'"),
    partial("ix_annotations_unusable", "referenced_series_uid", where=REFERENCES, unique=False),
    sqlite_autoincrement=True,  # an id that was forgotten is never given again
)

corrections = sa.Table(
    "corrections",  # how well a draft agreed with what a person made of it
    metadata,
    sa.Column("annotation_id", BIG_ID, sa.ForeignKey("annotations.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    sa.Column("dice", sa.Float(53), nullable=False),
    text("lane"),
    sa.CheckConstraint("dice >= 0 AND dice <= 1", name="dice"),
)

queues = sa.Table(
    "queues",  # one generation of one queue; a rebuild fills a new one beside it, then switches
    metadata,
    row_id(),
    *texts("task", "strategy"),
    sa.Column("is_active", sa.Boolean, nullable=False),
    sa.Column("built_at", UtcDateTime, nullable=False),
    partial("ix_queues_one_active", "task", "strategy", where="is_active"),
    sqlite_autoincrement=True,
)

queue_rows = sa.Table(
    "queue_rows",
    metadata,
    sa.Column("queue_id", BIG_ID, sa.ForeignKey("queues.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("series_uid", sa.Text, sa.ForeignKey("series.series_uid"), primary_key=True),
    text("task"),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("score", sa.Float(53)),
    text("why"),
    sa.Column("is_free", sa.Boolean, nullable=False),  # what queue.is_free() says, kept for the index
    late_text("lane"),
    sa.Index("ix_queue_rows_next", "queue_id", "is_free", "rank"),
    sa.Index("ix_queue_rows_series", "series_uid", "task"),
)

leases = sa.Table(
    "leases",
    metadata,
    row_id(),
    series_key(),
    *texts("task", "annotator", "strategy"),
    sa.Column("score", sa.Float(53)),
    text("why"),
    sa.Column("acquired_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("ending", sa.Text),
    late_text("lane"),
    sa.CheckConstraint("(ended_at IS NULL) = (ending IS NULL)", name="ending"),
    sa.CheckConstraint("annotator <> ''", name="annotator"),
    partial("ix_leases_one_open", "series_uid", "task", where="ended_at IS NULL"),
    partial("ix_leases_open", "task", "expires_at", where="ended_at IS NULL", unique=False),
    sqlite_autoincrement=True,
)

skips = sa.Table(
    "skips",  # who does not want to be offered which series, until when
    metadata,
    sa.Column("series_uid", sa.Text, sa.ForeignKey("series.series_uid"), primary_key=True),
    sa.Column("task", sa.Text, primary_key=True),
    sa.Column("annotator", sa.Text, primary_key=True),
    sa.Column("until", UtcDateTime, nullable=False),
)

OPEN_JOB = "state IN ('queued', 'running')"
jobs = sa.Table(
    "jobs",
    metadata,
    row_id(),
    *texts("kind", "task"),
    sa.Column("payload", Json, nullable=False),
    *texts("key", "state"),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("worker", sa.Text),
    sa.Column("progress", sa.Float(53), nullable=False),
    *texts("message", "error"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("not_before", UtcDateTime, nullable=False),
    sa.Column("started_at", UtcDateTime),
    sa.Column("heartbeat_at", UtcDateTime),
    sa.Column("lease_s", sa.Float(53)),
    sa.Column("lease_until", UtcDateTime),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("result", Json, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),  # of its kind; smaller = sooner
    among("state", rows.JOB_STATES),
    sa.CheckConstraint("state <> 'running' OR (worker IS NOT NULL AND lease_until IS NOT NULL)", name="running_held"),
    sa.CheckConstraint("progress >= 0 AND progress <= 1", name="progress"),
    partial("ix_jobs_one_open", "kind", "task", "key", where=OPEN_JOB),
    sa.Index("ix_jobs_next", "kind", "state", "priority", "id"),
    sqlite_autoincrement=True,
)

IS_OPEN = sa.text(f"jobs.{OPEN_JOB}")
"""Condition of open jobs in the words of the index: SQLite finds it by no values that are sent beside a statement."""

outbox = sa.Table(
    "outbox",
    metadata,
    row_id(),
    *texts("action", "sop_instance_uid"),
    text("series_uid"),  # of the SEG itself
    sa.Column("annotation_id", BIG_ID, sa.ForeignKey("annotations.id"), nullable=False),
    sa.Column("payload", sa.LargeBinary),  # zlib
    sa.Column("attempts", sa.Integer, nullable=False),
    text("error"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("next_try_at", UtcDateTime, nullable=False),
    sa.Column("done_at", UtcDateTime),
    among("action", ("store", "delete")),
    sa.CheckConstraint("(payload IS NOT NULL) = (action = 'store' AND done_at IS NULL)", name="payload_until_stored"),
    sa.Index("ix_outbox_sop_instance_uid_action", "sop_instance_uid", "action", unique=True),
    sa.Index("ix_outbox_annotation_id", "annotation_id"),
    partial("ix_outbox_open", "id", where="done_at IS NULL", unique=False),
    sqlite_autoincrement=True,
)

verdicts = sa.Table(
    "verdicts",
    metadata,
    row_id(),
    text("task"),
    sa.Column("version", sa.Integer, nullable=False),
    *texts("verdict", "reason"),
    sa.Column("metrics", Json, nullable=False),
    text("state"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
    among("state", ("open", "done")),
    partial("ix_verdicts_one_open", "task", "version", where="state = 'open'"),
    sa.Index("ix_verdicts_task", "task", "id"),
    sqlite_autoincrement=True,
)

case_figures = sa.Table(
    "case_figures",  # of models that served, on promotion cases
    metadata,
    sa.Column("model", sa.Text, primary_key=True),  # name of its folder in the registry
    sa.Column("annotation_id", BIG_ID, sa.ForeignKey("annotations.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("dice", Json, nullable=False),
    sa.Index("ix_case_figures_annotation_id", "annotation_id"),
)

nights = sa.Table(
    "nights",  # who started the trainings of a scheduled moment
    metadata,
    sa.Column("task", sa.Text, primary_key=True),
    sa.Column("moment", sa.Text, primary_key=True),
    text("holder"),
    sa.Column("until", UtcDateTime, nullable=False),
    sa.Column("done_at", UtcDateTime),
)

keys = sa.Table(
    "keys",  # which secret the pseudonyms were made with
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    text("digest"),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

cursors = sa.Table(
    "cursors",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    text("source"),
    sa.Column("updated_at", UtcDateTime, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    row_id(),
    sa.Column("at", UtcDateTime, nullable=False),
    *texts("actor", "action", "subject"),
    sa.Column("details", Json, nullable=False),
    sa.Index("ix_audit_subject", "subject", "id"),
    sqlite_autoincrement=True,
)
