"""What curation reads of a task's cases, in as many queries for a million cases as for one."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from lib.ledger import curationtables, tables
from lib.ledger.curationrows import CuratedCase, CuratedState, Embedded, LabelStatus, Wanted

A = tables.annotations
E = tables.embeddings
G = curationtables.tags
H = tables.annotations.alias("human")
M = curationtables.cohort_members
N = tables.scorings
P = tables.patients
S = tables.series
T = tables.scores
SHOWN = (S.c.series_uid, S.c.study_uid, S.c.patient, S.c.modality, S.c.description, S.c.institution)
"""Of a series; what a checked one has as JSON is long, and read of few."""
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


def cases(connection: sa.Connection, task: str, wanted: Wanted) -> list[CuratedCase]:
    """See `Curation.cases`."""
    drafts = sa.select(sa.func.max(A.c.id)).where(_ours(task)).group_by(A.c.series_uid)
    looks = sa.select(sa.func.max(N.c.id)).where(N.c.task == task, N.c.error == "").group_by(N.c.series_uid)
    query = (
        sa.select(
            *SHOWN, S.c.manufacturer, S.c.date, P.c.split, A.c.id.label("draft_id"), A.c.status.label("draft_status")
        )
        .add_columns(N.c.id.label("scoring_id"), N.c.version.label("model_version"))
        .join_from(S, P)
        .outerjoin(A, sa.and_(A.c.series_uid == S.c.series_uid, A.c.id.in_(drafts)))
        .outerjoin(N, sa.and_(N.c.series_uid == S.c.series_uid, N.c.id.in_(looks)))
        .where(S.c.status == "ready", *_conditions(task, wanted))
        .order_by(S.c.series_uid)
    )
    found = connection.execute(query).mappings().all()
    few = [row["series_uid"] for row in found] if len(found) <= CHUNK else None
    drawn, tags = _drawn(connection, task, few), _tags(connection, few)
    return [_case(row, drawn.get(row["series_uid"], _Drawn()), tags) for row in found]


def grids(connection: sa.Connection, series_uids: Sequence[str]) -> dict[str, Mapping[str, Any] | None]:
    """Geometry by series."""
    found: dict[str, Mapping[str, Any] | None] = {}
    for part in parts(series_uids):
        query = sa.select(S.c.series_uid, S.c.geometry).where(S.c.series_uid.in_(part))
        found.update({uid: geometry for uid, geometry in connection.execute(query)})  # noqa: C416, as below
    return found


def sites(connection: sa.Connection) -> list[str]:
    """See `Curation.sites`."""
    query = sa.select(S.c.institution).where(S.c.status == "ready").distinct().order_by(S.c.institution)
    return list(connection.execute(query).scalars())


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


def _conditions(task: str, wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    """Of the statement of `cases`; a pseudonym's beginning counts with its case, which LIKE may not see."""
    day = sa.func.replace(S.c.date, "-", "")
    tagged = sa.select(G.c.series_uid).where(G.c.tag == wanted.tag)
    members = sa.select(M.c.series_uid).where(M.c.cohort == wanted.cohort)
    known = [
        (wanted.series_uid, S.c.series_uid == wanted.series_uid),
        (wanted.modalities is not None, S.c.modality.in_(wanted.modalities or ())),
        (wanted.state, _has_state(task, wanted.state)),
        (wanted.split, P.c.split == wanted.split),
        (wanted.tag, S.c.series_uid.in_(tagged)),
        (wanted.cohort, S.c.series_uid.in_(members)),
        (wanted.sites is not None, S.c.institution.in_(wanted.sites or ())),
        (wanted.since, day >= wanted.since),
        (wanted.until, day <= wanted.until),
        (wanted.patient, sa.func.substr(S.c.patient, 1, len(wanted.patient)) == wanted.patient),
    ]
    return [condition for is_asked, condition in known if is_asked]


def _has_state(task: str, state: str) -> sa.ColumnElement[bool]:
    """Condition: `_state` gives that state; of no other word."""

    def human(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
        mine = sa.and_(H.c.task == task, H.c.origin == "human", *conditions)
        return S.c.series_uid.in_(sa.select(H.c.series_uid).where(mine))

    accepted, waits = human(H.c.status == "accepted"), human(H.c.status == "submitted")
    held = human(H.c.status == "submitted", H.c.held_reason != "")
    is_drafted = sa.func.coalesce(A.c.status, "") == "draft"
    conditions = {
        "held": held,
        "labelled": sa.and_(~held, accepted),
        "submitted": sa.and_(~held, ~accepted, waits),
        "drafted": sa.and_(~waits, ~accepted, is_drafted),
        "todo": sa.and_(~waits, ~accepted, ~is_drafted),
    }
    return conditions.get(state, sa.false())


def _among(column: sa.ColumnElement[str], few: Sequence[str] | None) -> sa.ColumnElement[bool]:
    return sa.true() if few is None else column.in_(few)


def _drawn(connection: sa.Connection, task: str, few: Sequence[str] | None) -> dict[str, _Drawn]:
    """By series, of some or None = all; of two labels that count alike the newest does."""
    human = sa.and_(A.c.task == task, A.c.origin == "human", A.c.status.in_(("submitted", "accepted")))
    human = sa.and_(human, _among(A.c.series_uid, few))
    query = sa.select(A.c.series_uid, A.c.id, A.c.status, A.c.held_reason, A.c.voxels).where(human).order_by(A.c.id)
    found: dict[str, _Drawn] = {}
    for uid, number, status, held_reason, voxels in connection.execute(query):
        drawn, is_held = found.setdefault(uid, _Drawn()), status == "submitted" and held_reason != ""
        what: LabelStatus = "held" if is_held else status
        drawn.is_held = drawn.is_held or is_held
        if COUNTS.index(what) >= COUNTS.index(drawn.status):
            drawn.label_id, drawn.status, drawn.voxels = number, what, voxels
    return found


def _tags(connection: sa.Connection, few: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    query = sa.select(G.c.series_uid, G.c.tag).where(_among(G.c.series_uid, few))
    for uid, tag in connection.execute(query.order_by(G.c.series_uid, G.c.tag)):
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
        geometry=None,
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
