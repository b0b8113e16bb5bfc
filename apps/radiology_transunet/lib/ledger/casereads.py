"""`ledger.cases`: what the work list and the viewer's panel show, read for the series that they show alone.

A case is a series as a task sees it. Its state: `labelled`, it has an accepted human label; `submitted`, one that waits
for review; `held`, one that is held back for it; `drafted`, a draft of ours in force; `todo`, neither; `new`, it is not
yet checked; `refused`, it makes no volume. Series that are gone are no cases.
"""

import builtins
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from lib.ledger import leasing, tables
from lib.ledger.book import Book
from lib.ledger.handout import active
from lib.ledger.masks import SELECT
from lib.ledger.queuerows import QueueEntry
from lib.ledger.rows import AnnotationRow
from lib.ledger.scorings import first

A = tables.annotations
N = tables.scorings
Q = tables.queue_rows
S = tables.series
T = tables.scores
CHUNK = 500
MORE = 8
"""So many times as many series are read when a task has left out too many of those that were."""

Kind = tuple[str, str]
"""Modality and description of a series, by which a task takes it or not."""


class Cases(Book):
    """`ledger.cases`."""

    __slots__ = ()

    def counts(self, task: str) -> dict[Kind, dict[str, int]]:
        """Number of series of each kind by state; a state that does not occur has none."""
        state = _state(task)
        query = sa.select(S.c.modality, S.c.description, state, sa.func.count()).where(S.c.status != "gone")
        found: dict[Kind, dict[str, int]] = {}
        with self._read() as connection:
            for modality, description, name, count in connection.execute(query.group_by(*query.selected_columns[:3])):
                found.setdefault((modality, description), {})[name] = count
        return found

    def page(
        self,
        task: str,
        strategy: str,
        modalities: Collection[str],
        takes: Callable[[str, str], bool],
        state: str = "",
        limit: int | None = None,
    ) -> builtins.list[str]:
        """The first series of the list: those of a queue that want a label in its order, then the others by arrival.

        Args:
            task: name of the task.
            strategy: whose queue.
            modalities: series of others are not looked at.
            takes: whether the task takes series of a modality and description.
            state: only series in that state; "" = any.
            limit: at most so many; None = all.
        """
        place = sa.and_(
            Q.c.series_uid == S.c.series_uid,
            Q.c.queue_id == active(task, strategy),
            S.c.status == "ready",
            ~leasing.labelled(S.c.series_uid, task),
        )
        query = sa.select(S.c.series_uid, S.c.modality, S.c.description).outerjoin(Q, place)
        query = query.where(S.c.status != "gone", S.c.modality.in_(modalities))
        if state:
            query = query.where(_state(task) == state)
        order = (Q.c.rank.is_(None), Q.c.rank, S.c.created_at, S.c.series_uid)
        with self._read() as connection:
            return _first(connection, query.order_by(*order), takes, limit)

    def annotations(self, task: str, series_uids: Sequence[str]) -> builtins.list[AnnotationRow]:
        """Those of some series, of each the newest first."""
        query = SELECT.where(A.c.task == task).order_by(A.c.id.desc())
        with self._read() as connection:
            return [
                AnnotationRow(**found)
                for part in _parts(series_uids)
                for found in connection.execute(query.where(A.c.series_uid.in_(part))).mappings()
            ]

    def places(self, task: str, strategy: str, series_uids: Sequence[str]) -> dict[str, QueueEntry]:
        """Of some series in a queue, free or not."""
        columns = (Q.c.rank, Q.c.series_uid, Q.c.score, Q.c.why, Q.c.is_free, Q.c.lane)
        query = sa.select(*columns).where(Q.c.queue_id == active(task, strategy))
        with self._read() as connection:
            return {
                found["series_uid"]: QueueEntry(**found)
                for part in _parts(series_uids)
                for found in connection.execute(query.where(Q.c.series_uid.in_(part))).mappings()
            }

    def entropies(self, task: str, champion: int | None, series_uids: Sequence[str]) -> dict[str, dict[str, float]]:
        """Scores of some series by label, NaN where there is none: the champion's, else the last ones."""
        query = sa.select(N.c.series_uid, N.c.id, T.c.label, T.c.score).join_from(N, T)
        query = query.where(N.c.task == task, N.c.error == "").order_by(N.c.series_uid, *first(champion))
        found: dict[str, dict[str, float]] = {}
        with self._read() as connection:
            for part in _parts(series_uids):
                rows = connection.execute(query.where(N.c.series_uid.in_(part))).all()
                for uid, of_series in groupby(rows, key=lambda row: row.series_uid):
                    counted = next(iter(groupby(of_series, key=lambda row: row.id)))[1]
                    found[uid] = {row.label: math.nan if row.score is None else row.score for row in counted}
        return found


def _state(task: str) -> sa.Case[str]:
    """The state of the series of the statement; of a label that waits and an accepted one the newer counts."""

    def ids(*conditions: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
        mine = sa.and_(A.c.series_uid == S.c.series_uid, A.c.task == task, *conditions)
        return sa.select(sa.func.max(A.c.id)).where(mine).scalar_subquery()

    accepted, waits = ids(A.c.status == "accepted"), sa.and_(A.c.status == "submitted", A.c.held_reason == "")
    return sa.case(
        (S.c.status.in_(("new", "refused")), S.c.status),
        (ids(A.c.status == "submitted", A.c.held_reason != "").is_not(None), "held"),
        (ids(waits) > sa.func.coalesce(accepted, 0), "submitted"),
        (accepted.is_not(None), "labelled"),
        (ids(A.c.status == "draft", A.c.origin == "model").is_not(None), "drafted"),
        else_="todo",
    )


def _first(
    connection: sa.Connection, query: sa.Select[Any], takes: Callable[[str, str], bool], limit: int | None
) -> list[str]:
    """The first series of a list of (UID, modality, description) that are taken.

    A regular expression says which, so no statement can; one with all descriptions that fit grows beyond any limit.
    """
    asked = limit
    while True:
        rows = connection.execute(query.limit(asked)).all()
        found = [uid for uid, modality, description in rows if takes(modality, description)]
        if limit is None or asked is None or len(found) >= limit or len(rows) < asked:
            return found[:limit]
        asked *= MORE


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
