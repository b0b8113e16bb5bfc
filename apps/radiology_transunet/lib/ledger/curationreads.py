"""What curation reads of a task's cases, in as many queries for a million cases as for one."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from lib.ledger import curationtables, tables
from lib.ledger.curationrows import CuratedCase, CuratedState, Embedded, LabelStatus

A = tables.annotations
E = tables.embeddings
G = curationtables.tags
N = tables.scorings
P = tables.patients
S = tables.series
T = tables.scores
CHUNK = 500
COUNTS: tuple[LabelStatus, ...] = ("", "held", "submitted", "accepted")
"""What counts later counts more."""
NAMES = {"score": "entropy"}
"""Names of columns of the scores that say something else here."""


@dataclass(slots=True)
class _Drawn:
    """What people drew on a series: the label that counts, and whether one is held back."""

    label_id: int | None = None
    status: LabelStatus = ""
    voxels: Mapping[str, int] = field(default_factory=dict)
    is_held: bool = False


def cases(connection: sa.Connection, task: str) -> list[CuratedCase]:
    """See `Curation.cases`."""
    drafts = sa.select(sa.func.max(A.c.id)).where(_ours(task)).group_by(A.c.series_uid)
    looks = sa.select(sa.func.max(N.c.id)).where(N.c.task == task, N.c.error == "").group_by(N.c.series_uid)
    query = (
        sa.select(S, P.c.split, A.c.id.label("draft_id"), A.c.status.label("draft_status"))
        .add_columns(N.c.id.label("scoring_id"), N.c.version.label("model_version"))
        .join_from(S, P)
        .outerjoin(A, sa.and_(A.c.series_uid == S.c.series_uid, A.c.id.in_(drafts)))
        .outerjoin(N, sa.and_(N.c.series_uid == S.c.series_uid, N.c.id.in_(looks)))
        .where(S.c.status == "ready")
        .order_by(S.c.series_uid)
    )
    found = connection.execute(query).mappings().all()
    drawn, tags = _drawn(connection, task), _tags(connection)
    return [_case(row, drawn.get(row["series_uid"], _Drawn()), tags) for row in found]


def embedded(connection: sa.Connection, task: str) -> list[Embedded]:
    """See `Curation.embedded`."""
    columns = (N.c.series_uid, N.c.version, N.c.id)
    query = sa.select(*columns).join_from(N, E).where(N.c.task == task).order_by(N.c.series_uid, N.c.version)
    return [Embedded(*row) for row in connection.execute(query)]


def vectors(connection: sa.Connection, scoring_ids: Sequence[int]) -> dict[int, bytes]:
    """Embeddings by scoring, as they are stored."""
    found: dict[int, bytes] = {}
    for part in parts(scoring_ids):
        query = sa.select(E.c.scoring_id, E.c.vector).where(E.c.scoring_id.in_(part))
        found.update({one: vector for one, vector in connection.execute(query)})  # noqa: C416, which knows no rows
    return found


def said(connection: sa.Connection, scoring_ids: Sequence[int]) -> dict[int, dict[str, dict[str, float]]]:
    """By scoring, label and column."""
    columns = [column for column in T.c if column.key not in ("scoring_id", "annotation_id", "label")]
    names = [NAMES.get(column.key, column.key) for column in columns]
    found: dict[int, dict[str, dict[str, float]]] = {}
    for part in parts(scoring_ids):
        query = sa.select(T.c.scoring_id, T.c.label, *columns).where(T.c.scoring_id.in_(part))
        for scoring, label, *values in connection.execute(query):
            numbers = [math.nan if value is None else value for value in values]
            found.setdefault(scoring, {})[label] = dict(zip(names, numbers, strict=True))
    return found


def parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The values, as many at a time as a statement should hold."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


def _ours(task: str) -> sa.ColumnElement[bool]:
    """Drafts of ours of the images as they are: in force, or what a model said with them is still kept."""
    kept = sa.select(T.c.annotation_id).where(T.c.annotation_id.is_not(None))
    return sa.and_(A.c.task == task, A.c.origin == "model", sa.or_(A.c.status == "draft", A.c.id.in_(kept)))


def _drawn(connection: sa.Connection, task: str) -> dict[str, _Drawn]:
    """By series; of two labels that count alike the newest does."""
    human = sa.and_(A.c.task == task, A.c.origin == "human", A.c.status.in_(("submitted", "accepted")))
    query = sa.select(A.c.series_uid, A.c.id, A.c.status, A.c.held_reason, A.c.voxels).where(human).order_by(A.c.id)
    found: dict[str, _Drawn] = {}
    for uid, number, status, held_reason, voxels in connection.execute(query):
        drawn, is_held = found.setdefault(uid, _Drawn()), status == "submitted" and held_reason != ""
        what: LabelStatus = "held" if is_held else status
        drawn.is_held = drawn.is_held or is_held
        if COUNTS.index(what) >= COUNTS.index(drawn.status):
            drawn.label_id, drawn.status, drawn.voxels = number, what, voxels
    return found


def _tags(connection: sa.Connection) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for uid, tag in connection.execute(sa.select(G.c.series_uid, G.c.tag).order_by(G.c.series_uid, G.c.tag)):
        found[uid] = (*found.get(uid, ()), tag)
    return found


def _case(row: sa.RowMapping, drawn: _Drawn, tags: Mapping[str, tuple[str, ...]]) -> CuratedCase:
    return CuratedCase(
        series_uid=row["series_uid"],
        study_uid=row["study_uid"],
        patient=row["patient"],
        split=row["split"],
        modality=row["modality"],
        site=row["institution"],
        scanner=row["manufacturer"],
        protocol=row["description"],
        date=row["date"],
        geometry=row["geometry"],
        state=_state(drawn, row["draft_status"]),
        label_id=drawn.label_id,
        label_status=drawn.status,
        drawn=drawn.voxels,
        draft_id=row["draft_id"],
        model_version=row["model_version"],
        scoring_id=row["scoring_id"],
        tags=tags.get(row["series_uid"], ()),
    )


def _state(drawn: _Drawn, draft_status: str | None) -> CuratedState:
    """As the work list has it."""
    if drawn.is_held:
        return "held"
    if drawn.label_id is not None:
        return "labelled" if drawn.status == "accepted" else "submitted"
    return "drafted" if draft_status == "draft" else "todo"
