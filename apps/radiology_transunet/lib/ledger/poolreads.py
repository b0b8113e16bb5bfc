"""What a strategy needs to know of a task's cases, in as many queries for a million cases as for one."""

import math
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from lib.ledger import leasing, tables
from lib.ledger.queuerows import Candidate, LabelledCase, LabelScores

A = tables.annotations
E = tables.embeddings
P = tables.patients
S = tables.series
T = tables.scores
ORIGIN = (S.c.patient, S.c.institution, S.c.manufacturer, S.c.description)
"""Patient, site, scanner and protocol as far as the ledger knows them: of the scanner its manufacturer, of the protocol
what the series is called."""


def candidates(connection: sa.Connection, task: str, with_vectors: bool) -> list[Candidate]:
    """See `Queue.candidates`."""
    of_draft = sa.and_(A.c.series_uid == S.c.series_uid, _is_our_draft(task))
    query = (
        sa.select(S.c.series_uid, P.c.split, A.c.id, A.c.model_version, *ORIGIN)
        .join_from(S, P)
        .outerjoin(A, of_draft)
        .where(S.c.status == "ready", ~leasing.labelled(S.c.series_uid, task))
        .order_by(S.c.series_uid)
    )
    found = connection.execute(query).all()
    scores = _scores(connection, task)
    vectors = _vectors(connection, task) if with_vectors else {}
    return [
        Candidate(
            series_uid=uid,
            split=split,
            scores=scores.get(draft, {}),
            model_version=version,
            patient=patient,
            site=site,
            scanner=scanner,
            protocol=protocol,
            vector=vectors.get(draft, b""),
        )
        for uid, split, draft, version, patient, site, scanner, protocol in found
    ]


def labelled(connection: sa.Connection, task: str, split: str) -> list[LabelledCase]:
    """See `Queue.labelled`."""
    waits = sa.and_(A.c.status == "submitted", A.c.held_reason == "")
    query = (
        sa.select(S.c.series_uid, A.c.voxels, *ORIGIN)
        .join_from(A, S)
        .join(P)
        .where(A.c.task == task, A.c.origin == "human", sa.or_(A.c.status == "accepted", waits), P.c.split == split)
        .order_by(A.c.id)  # of two labels of a case the newer one counts
    )
    known = {
        uid: (frozenset(name for name, n in voxels.items() if n), origin)
        for uid, voxels, *origin in connection.execute(query)
    }
    embedded = _labelled_vectors(connection, task)
    return [
        LabelledCase(uid, labels, *embedded.get(uid, (None, b"")), *origin)
        for uid, (labels, origin) in sorted(known.items())
    ]


def _scores(connection: sa.Connection, task: str) -> dict[int, Mapping[str, LabelScores]]:
    """By draft and label; a draft that is made while this is read has none yet."""
    columns = (T.c.score, T.c.bald, T.c.margin, T.c.disagreement, T.c.volume_ml, T.c.largest_probability)
    query = sa.select(T.c.annotation_id, T.c.label, *columns).join_from(A, T).where(_is_our_draft(task))
    found: dict[int, dict[str, LabelScores]] = {}
    for draft, label, *values in connection.execute(query):
        numbers = (math.nan if value is None else value for value in values)
        found.setdefault(draft, {})[label] = LabelScores(*numbers)
    return dict(found)


def _vectors(connection: sa.Connection, task: str) -> dict[int, bytes]:
    query = sa.select(E.c.annotation_id, E.c.vector).join_from(A, E).where(_is_our_draft(task))
    return {draft: vector for draft, vector in connection.execute(query)}  # noqa: C416, which knows no rows


def _labelled_vectors(connection: sa.Connection, task: str) -> dict[str, tuple[int, bytes]]:
    """Version and embedding of the newest draft of ours, in force or not, of each labelled series."""
    ours = sa.and_(A.c.task == task, A.c.origin == "model", leasing.labelled(A.c.series_uid, task))
    newest = sa.select(sa.func.max(A.c.id)).join_from(A, E).where(ours).group_by(A.c.series_uid)
    query = sa.select(A.c.series_uid, A.c.model_version, E.c.vector).join_from(A, E).where(A.c.id.in_(newest))
    return {uid: (version, vector) for uid, version, vector in connection.execute(query)}


def _is_our_draft(task: str) -> Any:
    return sa.and_(A.c.task == task, A.c.status == "draft", A.c.origin == "model")
