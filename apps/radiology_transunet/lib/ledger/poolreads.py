"""What a strategy needs to know of a task's cases, in as many queries for a million cases as for one."""

import math
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from lib.ledger import leasing, tables
from lib.ledger.queuerows import Candidate, LabelledCase, LabelScores
from lib.ledger.scorings import first

A = tables.annotations
E = tables.embeddings
N = tables.scorings
P = tables.patients
S = tables.series
T = tables.scores
ORIGIN = (S.c.patient, S.c.institution, S.c.manufacturer, S.c.description)
"""Patient, site, scanner and protocol as far as the ledger knows them: of the scanner its manufacturer, of the protocol
what the series is called."""


def candidates(connection: sa.Connection, task: str, champion: int | None, compared: int | None) -> list[Candidate]:
    """See `Queue.candidates`."""
    counted = _counted(task, champion).subquery()
    query = (
        sa.select(S.c.series_uid, P.c.split, counted.c.id, counted.c.version, counted.c.scored_at, *ORIGIN)
        .join_from(S, P)
        .outerjoin(counted, sa.and_(counted.c.series_uid == S.c.series_uid, counted.c.place == 1))
        .where(S.c.status == "ready", ~leasing.labelled(S.c.series_uid, task))
        .order_by(S.c.series_uid)
    )
    found = connection.execute(query).all()
    scores = _scores(connection, task, champion)
    vectors = _vectors(connection, task, compared)
    return [
        Candidate(
            series_uid=uid,
            split=split,
            scores=scores.get(scoring, {}),
            model_version=version,
            patient=patient,
            site=site,
            scanner=scanner,
            protocol=protocol,
            vector=vectors.get(uid, b""),
            scored_at=scored_at,
        )
        for uid, split, scoring, version, scored_at, patient, site, scanner, protocol in found
    ]


def labelled(connection: sa.Connection, task: str, split: str, compared: int | None) -> list[LabelledCase]:
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
    vectors = _vectors(connection, task, compared)
    return [
        LabelledCase(uid, labels, vectors.get(uid, b""), *origin) for uid, (labels, origin) in sorted(known.items())
    ]


def _counted(task: str, champion: int | None) -> sa.Select[Any]:
    """Every scoring of a task with its place among those of its series; the first one counts."""
    place = sa.func.row_number().over(partition_by=N.c.series_uid, order_by=first(champion)).label("place")
    columns = (N.c.id, N.c.series_uid, N.c.version, N.c.scored_at)
    return sa.select(*columns, place).where(N.c.task == task, N.c.error == "")


def _scores(connection: sa.Connection, task: str, champion: int | None) -> dict[int, Mapping[str, LabelScores]]:
    """By scoring and label; one that is made while this is read has none yet."""
    counted = _counted(task, champion).subquery()
    columns = (T.c.score, T.c.bald, T.c.margin, T.c.disagreement, T.c.volume_ml, T.c.largest_probability)
    query = sa.select(T.c.scoring_id, T.c.label, *columns).join(counted, counted.c.id == T.c.scoring_id)
    found: dict[int, dict[str, LabelScores]] = {}
    for scoring, label, *values in connection.execute(query.where(counted.c.place == 1)):
        numbers = (math.nan if value is None else value for value in values)
        found.setdefault(scoring, {})[label] = LabelScores(*numbers)
    return dict(found)


def _vectors(connection: sa.Connection, task: str, version: int | None) -> dict[str, bytes]:
    """Embeddings of a version by series; none without a version."""
    if version is None:
        return {}
    query = sa.select(N.c.series_uid, E.c.vector).join_from(N, E).where(N.c.task == task, N.c.version == version)
    return {uid: vector for uid, vector in connection.execute(query)}  # noqa: C416, which knows no rows
