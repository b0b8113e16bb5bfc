"""`ledger.scorings`: what each model version said of each series, and which series it has still to look at."""

import builtins
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import sqlalchemy as sa

from lib.ledger import masks, tables
from lib.ledger.book import Book, require_series
from lib.ledger.rows import JobRow
from lib.ledger.scores import Said, keep

E = tables.embeddings
J = tables.jobs
N = tables.scorings
P = tables.patients
S = tables.series


@dataclass(frozen=True, slots=True)
class Covered:
    """How many ready series of one modality and description a version has looked at.

    Attributes:
        modality: of the series.
        description: of the series.
        ready: how many there are.
        scored: of them, those that the version has scored.
        failed: of them, those that it cannot score.
    """

    modality: str
    description: str
    ready: int
    scored: int
    failed: int


class Scorings(Book):
    """`ledger.scorings`."""

    __slots__ = ()

    def add(
        self,
        series_uid: str,
        task: str,
        version: int,
        said: Said,
        job: JobRow | None = None,
        instances: int | None = None,
    ) -> bool:
        """Keep what a version said of a series, unless it has scored the series before; whether it was kept.

        Args:
            series_uid: of what.
            task: name of the task.
            version: of the model.
            said: what it said.
            job: refuse when its worker no longer holds it.
            instances: how many were looked at; nothing is kept when the series has another number by now. None = all.

        Raises:
            NotFound: no such series.
            Conflict: the worker no longer holds the job.
        """
        with self._write() as connection:
            if job is not None:
                masks.require_held(connection, job)
            require_series(connection, series_uid)
            known = sa.exists().where(_of(series_uid, task), N.c.version == version, N.c.error == "")
            if connection.execute(sa.select(known)).scalar() or masks.has_changed(connection, series_uid, instances):
                return False
            keep(connection, self.clock(), (series_uid, task, version), said)
            return True

    def wanted(
        self,
        task: str,
        version: int,
        takes: Callable[[str, str], bool] = lambda *_: True,
        left_to: tuple[str, str] | None = None,
        limit: int | None = None,
        among: Sequence[str] | None = None,
    ) -> builtins.list[str]:
        """The ready series that a version has to look at: it has not yet, or could not score them and they have rested.

        Those that no version has scored come first, then those with old scores; in each the newest arrival first. What
        could not be scored comes behind all others.

        Args:
            task: name of the task.
            version: of the model.
            takes: whether the task takes series of a modality and a description.
            left_to: kind of the jobs that look at series themselves, and their key up to the series' UID: a series with
                an open one is left to it.
            limit: how many at most; None = all.
            among: some series, found by their keys; None = all of the archive.
        """
        tried = sa.exists().where(_of(S.c.series_uid, task), N.c.version == version)
        known = tried.where(sa.or_(N.c.error == "", N.c.retry_at > self.clock()))
        columns = (S.c.series_uid, S.c.modality, S.c.description)
        query = sa.select(*columns).where(S.c.status == "ready", ~known)
        if left_to is not None:
            query = query.where(~_has_job(task, *left_to))
        if among is not None:
            query = query.where(S.c.series_uid.in_(among))
        query = query.order_by(sa.case((tried, 1), else_=0), *by_urgency(task))
        with self._read() as connection:
            streamed = connection.execution_options(stream_results=True)
            with streamed.execute(query) as rows:
                return list(islice((uid for uid, *kind in rows if takes(*kind)), limit))

    def scored(self, task: str) -> frozenset[str]:
        """The series that any version has scored."""
        with self._read() as connection:
            query = sa.select(N.c.series_uid).where(N.c.task == task, N.c.error == "").distinct()
            return frozenset(connection.execute(query).scalars())

    def covered(self, task: str, version: int) -> builtins.list[Covered]:
        """What a version has looked at, by modality and description of the series."""
        mine = sa.and_(_of(S.c.series_uid, task), N.c.version == version)
        scored, failed = (sa.func.count(sa.case((condition, 1))) for condition in (N.c.error == "", N.c.error != ""))
        query = sa.select(S.c.modality, S.c.description, sa.func.count(), scored, failed)
        query = query.select_from(S).outerjoin(N, mine).where(S.c.status == "ready")
        with self._read() as connection:
            return [Covered(*row) for row in connection.execute(query.group_by(S.c.modality, S.c.description))]

    def embedded(self, task: str, split: str) -> dict[int, int]:
        """How many ready series of a split have an embedding, by model version."""
        query = sa.select(N.c.version, sa.func.count()).join_from(N, E).join(S, S.c.series_uid == N.c.series_uid)
        query = query.join(P, P.c.patient == S.c.patient).where(N.c.task == task, S.c.status == "ready")
        with self._read() as connection:
            found = connection.execute(query.where(P.c.split == split).group_by(N.c.version)).all()
        return {version: count for version, count in found}  # noqa: C416, which knows no rows

    def newest(self, series_uid: str, task: str, champion: int | None) -> tuple[int, datetime] | None:
        """Version and time of the scores of a series that count: the champion's, else the last; None without any."""
        query = sa.select(N.c.version, N.c.scored_at).where(_of(series_uid, task), N.c.error == "")
        with self._read() as connection:
            found = connection.execute(query.order_by(*first(champion)).limit(1)).first()
        return None if found is None else (found.version, found.scored_at)

    def versions(self, series_uid: str, task: str) -> Mapping[int, str]:
        """The versions that have looked at a series, with the error of those that cannot score it."""
        query = sa.select(N.c.version, N.c.error).where(_of(series_uid, task)).order_by(N.c.version)
        with self._read() as connection:
            return {version: error for version, error in connection.execute(query)}  # noqa: C416, which knows no rows

    def forget_failures(self, task: str) -> int:
        """Let every version look again at the series that it could not score; how many there were."""
        with self._write() as connection:
            return connection.execute(sa.delete(N).where(N.c.task == task, N.c.error != "")).rowcount


def by_urgency(task: str) -> tuple[sa.ColumnElement[Any], ...]:
    """The order in which series are looked at: those without scores first, in each the newest arrival first."""
    known = sa.exists().where(_of(S.c.series_uid, task), N.c.error == "")
    return sa.case((known, 1), else_=0), S.c.created_at.desc(), S.c.series_uid


def first(champion: int | None) -> tuple[sa.ColumnElement[Any], ...]:
    """The order of the scorings of a series in which the first one counts."""
    return sa.case((N.c.version == champion, 0), else_=1), N.c.scored_at.desc(), N.c.id.desc()


def _of(series_uid: Any, task: str) -> sa.ColumnElement[bool]:
    return sa.and_(N.c.series_uid == series_uid, N.c.task == task)


def _has_job(task: str, kind: str, key: str) -> sa.Exists:
    """Condition: a job of that kind is open whose key ends with the series."""
    mine = sa.and_(J.c.kind == kind, J.c.task == task, tables.IS_OPEN)
    return sa.exists().where(mine, J.c.key == sa.literal(key) + S.c.series_uid)
