"""Leases: in whose hands a series is."""

import builtins
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lib.core.errors import Conflict, InvalidInput
from lib.ledger import leasing, tables
from lib.ledger.book import Book, insert_id, insert_new, require_series, seconds
from lib.ledger.database import lock_series, take_turns
from lib.ledger.queuerows import LeaseRow

G = tables.queues
L = tables.leases
K = tables.skips
Q = tables.queue_rows
S = tables.series

NEAR = 50
"""Places of a queue among which a busy series is passed over."""
LEASE = sa.select(*(column for column in L.c if column.key not in ("ended_at", "ending")), S.c.study_uid).join_from(
    L, S
)


class Handout(Book):
    """The half of `ledger.queue` that hands series to annotators."""

    __slots__ = ()

    def lease(self, series_uid: str, task: str, annotator: str, lease_s: float) -> LeaseRow:
        """Give a series that was asked for by name to an annotator; his own lease is renewed.

        A labelled series may be leased: somebody wants to correct it.

        Raises:
            NotFound: no such series.
            Conflict: somebody else holds it, or it is not ready.
        """
        _check(annotator, lease_s)
        with self._write() as connection:
            require_series(connection, series_uid)
            status = connection.execute(sa.select(S.c.status).where(S.c.series_uid == series_uid)).scalar_one()
            if status != "ready":
                raise Conflict(f"series {series_uid} must be ready to be leased, got {status}")
            return self._acquire(connection, series_uid, task, annotator, lease_s)

    def take(self, task: str, strategy: str, annotator: str, lease_s: float) -> LeaseRow | None:
        """Give the first free series of a queue to an annotator, or what he has in hand already, renewed.

        No two annotators get one series. A lease that is over is over: the series is free again.

        Returns:
            The lease; None when no series of the queue is free and not skipped by this annotator.
        """
        _check(annotator, lease_s)
        self._expire(task)
        while True:
            with self._write() as connection:
                take_turns(connection, f"annotator {task} {annotator}")
                own = self._renew_own(connection, task, annotator, lease_s)
                if own is not None:
                    return own
                picked = _pick(connection, task, strategy, annotator, self.clock())
                if picked is None:
                    return None
                series_uid, score, why, lane = picked
                if leasing.is_free(connection, series_uid, task):
                    return self._acquire(connection, series_uid, task, annotator, lease_s, strategy, score, why, lane)
                leasing.refresh(connection, series_uid, task)  # somebody was faster; look again

    def release(self, lease: LeaseRow) -> bool:
        """Give a series back; whether the lease was still open."""
        with self._write() as connection:
            lock_series(connection, S, lease.series_uid)
            update = sa.update(L).where(L.c.id == lease.id, L.c.ended_at.is_(None))
            was_open = connection.execute(update.values(ended_at=self.clock(), ending="released")).rowcount == 1
            if was_open:
                leasing.refresh(connection, lease.series_uid, lease.task)
                self._note(connection, "lease.released", lease.series_uid, {"task": lease.task}, lease.annotator)
            return was_open

    def skip(self, series_uid: str, task: str, annotator: str, skip_s: float) -> None:
        """Give a series back, if it is in the annotator's hands, and do not offer it to him for that time.

        Raises:
            NotFound: no such series.
        """
        _check(annotator, skip_s)
        now = self.clock()
        with self._write() as connection:
            require_series(connection, series_uid)
            connection.execute(sa.delete(K).where(K.c.annotator == annotator, K.c.until <= now))
            who = {"series_uid": series_uid, "task": task, "annotator": annotator}
            until = now + seconds(skip_s)
            if not insert_new(connection, K, {**who, "until": until}):
                mine = sa.and_(K.c.series_uid == series_uid, K.c.task == task, K.c.annotator == annotator)
                connection.execute(sa.update(K).where(mine).values(until=until))
            leasing.end(connection, now, "skipped", series_uid, task, annotator)
            leasing.refresh(connection, series_uid, task)
            self._note(connection, "lease.skipped", series_uid, {"task": task}, annotator)

    def holder(self, series_uid: str, task: str) -> LeaseRow | None:
        """The lease on a series that is not over, None when nobody holds it."""
        with self._read() as connection:
            query = LEASE.where(L.c.series_uid == series_uid, L.c.task == task, is_open(self.clock()))
            found = connection.execute(query).mappings().first()
        return None if found is None else LeaseRow(**found)

    def last_labeller(self, series_uid: str, task: str) -> str | None:
        """Who had the series in hand when it was labelled last, None when nobody had."""
        mine = sa.and_(L.c.series_uid == series_uid, L.c.task == task, L.c.ending == "labelled")
        with self._read() as connection:
            return connection.execute(sa.select(L.c.annotator).where(mine).order_by(L.c.id.desc()).limit(1)).scalar()

    def turns(self, task: str) -> int:
        """How many times a case of the task was taken from a queue and is not in that annotator's hands any more."""
        query = sa.select(sa.func.count()).where(L.c.task == task, L.c.strategy != "", L.c.ended_at.is_not(None))
        with self._read() as connection:
            return int(connection.execute(query).scalar_one())

    def leases(self, task: str | None = None) -> builtins.list[LeaseRow]:
        """All leases that are not over, the oldest first."""
        query = LEASE.where(is_open(self.clock())).order_by(L.c.id)
        if task is not None:
            query = query.where(L.c.task == task)
        with self._read() as connection:
            return [LeaseRow(**found) for found in connection.execute(query).mappings()]

    def _expire(self, task: str) -> None:
        """End the leases of a task that are over, each in its own transaction: one series locked at a time."""
        now = self.clock()
        over = sa.and_(L.c.task == task, L.c.ended_at.is_(None), L.c.expires_at <= now)
        with self._read() as connection:
            expired = connection.execute(sa.select(L.c.id, L.c.series_uid, L.c.annotator).where(over)).all()
        for lease_id, series_uid, annotator in expired:
            with self._write() as connection:
                lock_series(connection, S, series_uid)
                update = sa.update(L).where(L.c.id == lease_id, over).values(ended_at=now, ending="expired")
                if connection.execute(update).rowcount:
                    leasing.refresh(connection, series_uid, task)
                    self._note(connection, "lease.expired", series_uid, {"task": task, "annotator": annotator})

    def _renew_own(self, connection: sa.Connection, task: str, annotator: str, lease_s: float) -> LeaseRow | None:
        """Prolong what the annotator has in hand, his newest lease of the task; None when there is none.

        A labelled series that he holds to correct it stays his, and is no next case.
        """
        now = self.clock()
        own = sa.and_(
            L.c.task == task, L.c.annotator == annotator, is_open(now), ~leasing.labelled(L.c.series_uid, task)
        )
        newest = sa.select(sa.func.max(L.c.id)).where(own).scalar_subquery()
        return _prolong(connection, sa.and_(L.c.id == newest, own), now, lease_s)

    def _acquire(
        self,
        connection: sa.Connection,
        series_uid: str,
        task: str,
        annotator: str,
        lease_s: float,
        strategy: str = "",
        score: float | None = None,
        why: str = "",
        lane: str = "",
    ) -> LeaseRow:
        """Lease a series whose row is locked.

        Raises:
            Conflict: somebody else holds it.
        """
        now = self.clock()
        here = sa.and_(L.c.series_uid == series_uid, L.c.task == task, L.c.ended_at.is_(None))
        over = sa.update(L).where(here, L.c.expires_at <= now)
        connection.execute(over.values(ended_at=now, ending="expired"))
        own = _prolong(connection, sa.and_(here, L.c.annotator == annotator), now, lease_s)
        if own is not None:
            return own
        other = connection.execute(sa.select(L.c.annotator, L.c.expires_at).where(here)).first()
        if other is not None:
            raise Conflict(
                f"series {series_uid} is held by {other[0]} for {task} until {other[1]:%Y-%m-%d %H:%M:%S} UTC"
            )
        values: dict[str, Any] = {
            "series_uid": series_uid,
            "task": task,
            "annotator": annotator,
            "strategy": strategy,
            "score": score,
            "why": why,
            "lane": lane,
            "acquired_at": now,
            "expires_at": now + seconds(lease_s),
        }
        lease_id = insert_id(connection, L, values)
        leasing.refresh(connection, series_uid, task)
        details = {"task": task, "strategy": strategy, "lane": lane, "until": values["expires_at"].isoformat()}
        self._note(connection, "lease.taken", series_uid, details, annotator)
        return LeaseRow(**connection.execute(LEASE.where(L.c.id == lease_id)).mappings().one())


def active(task: str, strategy: str) -> sa.ScalarSelect[int]:
    """The id of the list in force, as part of a statement."""
    return sa.select(G.c.id).where(G.c.task == task, G.c.strategy == strategy, G.c.is_active).scalar_subquery()


def _pick(
    connection: sa.Connection, task: str, strategy: str, annotator: str, now: datetime
) -> tuple[str, float | None, str, str] | None:
    """The first row that looks free, its series locked.

    Busy series, which others take at this moment, are passed over, but not far: where all of the first `NEAR` rows are
    busy, as they are while a list is being rebuilt, it waits for the first one.
    """
    mine = sa.and_(K.c.series_uid == Q.c.series_uid, K.c.task == task, K.c.annotator == annotator)
    skipped = sa.exists().where(mine, K.c.until > now)
    free = sa.and_(Q.c.queue_id == active(task, strategy), Q.c.is_free, ~skipped)
    query = sa.select(Q.c.series_uid, Q.c.score, Q.c.why, Q.c.lane).join_from(Q, S).where(free).order_by(Q.c.rank)
    first = sa.select(Q.c.rank).where(free).order_by(Q.c.rank).limit(NEAR).subquery()
    near = query.where(Q.c.rank <= sa.select(sa.func.max(first.c.rank)).scalar_subquery())
    at_once = near.limit(1).with_for_update(of=S, key_share=True, skip_locked=True)
    patient = query.limit(1).with_for_update(of=S, key_share=True)
    return connection.execute(at_once).first() or connection.execute(patient).first()


def _prolong(
    connection: sa.Connection, which: sa.ColumnElement[bool], now: datetime, lease_s: float
) -> LeaseRow | None:
    update = sa.update(L).where(which).values(expires_at=now + seconds(lease_s)).returning(L.c.id)
    lease_id = connection.execute(update).scalar()
    if lease_id is None:
        return None
    return LeaseRow(**connection.execute(LEASE.where(L.c.id == lease_id)).mappings().one())


def is_open(now: datetime) -> sa.ColumnElement[bool]:
    """Condition: the lease is neither ended nor over."""
    return sa.and_(L.c.ended_at.is_(None), L.c.expires_at > now)


def _check(annotator: str, lease_s: float) -> None:
    if not annotator or not lease_s > 0:
        raise InvalidInput(f"a lease needs an annotator and a positive time in s, got {annotator!r} and {lease_s}")
