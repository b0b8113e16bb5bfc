"""Queues: which series next.

A queue is an ordered list of series, made by a strategy and stored with its ranks. `take` walks an
index to the first free row, whatever the length of the list. A rebuild fills a new list beside the
old one in short transactions and then switches, so annotators never meet half a queue.
"""

import builtins
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

import sqlalchemy as sa

from lib.ledger import leasing, poolreads, tables
from lib.ledger.book import NOTHING, insert_id
from lib.ledger.database import take_turns
from lib.ledger.handout import Handout, active, is_open
from lib.ledger.queuerows import Candidate, LabelledCase, QueueEntry, Tally

A = tables.annotations
G = tables.queues
L = tables.leases
Q = tables.queue_rows
S = tables.series
CHUNK = 200
"""Places that a transaction adds or removes: few, since whoever asks for a case waits for it, or for its series."""
LONGEST_PAUSE_S = 0.05

Ranked = Sequence[tuple[str, float, str]]
Place = tuple[str, float, str, str]
"""Series, score, reason and lane."""


class Queue(Handout):
    """`ledger.queue`."""

    __slots__ = ()

    def rebuild(self, task: str, strategy: str, ranked: Ranked, lanes: Mapping[str, str] = NOTHING) -> bool:
        """Replace a queue.

        Args:
            task: name of the task.
            strategy: name of the strategy.
            ranked: (series_uid, score, why), the best first; NaN = no score.
            lanes: by series_uid, how the queue came to it, where that is not the strategy.

        Returns:
            Whether the new queue is in force; False when a rebuild that began later was faster.

        Raises:
            Conflict: a series that the ledger does not know, or one that is listed twice.
        """
        now = self.clock()
        with self._write() as connection:
            values = {"task": task, "strategy": strategy, "is_active": False, "built_at": now}
            queue_id = insert_id(connection, G, values)
        for start in range(0, len(ranked), CHUNK):
            with self._write_part() as connection:
                part = [(*place, lanes.get(place[0], strategy)) for place in ranked[start : start + CHUNK]]
                if not _fill(connection, queue_id, task, start, part):
                    return False
        with self._write() as connection:
            take_turns(connection, f"queue {task} {strategy}")
            is_newest = _switch(connection, queue_id, task, strategy)
        self._sweep(queue_id, task, strategy)
        return is_newest

    @contextmanager
    def _write_part(self) -> Iterator[sa.Connection]:
        """A transaction of many; where there is one writer at a time, the others get as long afterwards.

        SQLite has no line of those who wait: who writes again at once would starve them for seconds.
        """
        begun = time.monotonic()
        with self._write() as connection:
            yield connection
        if self.database.is_sqlite:
            time.sleep(min(time.monotonic() - begun, LONGEST_PAUSE_S))

    def _sweep(self, queue_id: int, task: str, strategy: str) -> None:
        """Remove the lists up to this one that are not in force, a part at a time."""
        mine = sa.and_(G.c.task == task, G.c.strategy == strategy, G.c.id <= queue_id, ~G.c.is_active)
        with self._read() as connection:
            old = list(connection.execute(sa.select(G.c.id).where(mine)).scalars())
        for old_id in old:
            last: str | None = ""
            while last is not None:
                with self._write_part() as connection:
                    last = _sweep_part(connection, old_id, last)
            with self._write() as connection:
                connection.execute(sa.delete(G).where(G.c.id == old_id))

    def built_at(self, task: str, strategy: str) -> datetime | None:
        """When the queue in force was built, None without one."""
        with self._read() as connection:
            query = sa.select(G.c.built_at).where(G.c.id == active(task, strategy))
            return connection.execute(query).scalar()

    def head(self, task: str, strategy: str, limit: int = 20, only_free: bool = False) -> builtins.list[QueueEntry]:
        """The first places of a queue, free or not, or the first free ones; a lease that is over keeps none."""
        if only_free:
            self._expire(task)
        columns = (Q.c.rank, Q.c.series_uid, Q.c.score, Q.c.why, Q.c.is_free, Q.c.lane)
        query = sa.select(*columns).order_by(Q.c.rank).limit(limit)
        with self._read() as connection:
            query = query.where(Q.c.queue_id == active(task, strategy), Q.c.is_free if only_free else sa.true())
            return [QueueEntry(**found) for found in connection.execute(query).mappings()]

    def candidates(
        self, task: str, champion: int | None = None, compared: int | None = None
    ) -> builtins.list[Candidate]:
        """The series that may be ranked: ready and without a person's annotation, in the order of their UIDs.

        Args:
            task: name of the task.
            champion: the version whose scores count; where it has none, and with None, those that were made last.
            compared: the version whose embeddings are wanted: of many cases they need much memory. None = none.
        """
        with self._read() as connection:
            return poolreads.candidates(connection, task, champion, compared)

    def labelled(self, task: str, split: str, compared: int | None = None) -> builtins.list[LabelledCase]:
        """The labelled series of a split, in the order of their UIDs; what is held back is not among them.

        Args:
            task: name of the task.
            split: of the patients.
            compared: see `candidates`.
        """
        with self._read() as connection:
            return poolreads.labelled(connection, task, split, compared)

    def asked_for(self, task: str, since: datetime) -> frozenset[str]:
        """The strategies that handed out a case since then."""
        query = sa.select(L.c.strategy).where(L.c.task == task, L.c.strategy != "", L.c.acquired_at >= since)
        with self._read() as connection:
            return frozenset(connection.execute(query.distinct()).scalars())

    def tally(self, task: str, annotator: str) -> Tally:
        """How many series there are to hand out, and what keeps them."""
        ready = sa.select(sa.func.count()).select_from(S).where(S.c.status == "ready")
        skip = tables.skips
        skipped = sa.select(sa.func.count()).select_from(skip).where(skip.c.task == task)
        mine = sa.and_(skip.c.annotator == annotator, skip.c.until > self.clock())
        held = sa.select(sa.func.count()).select_from(L).where(L.c.task == task, is_open(self.clock()))
        with self._read() as connection:
            counts = [ready, ready.where(leasing.labelled(S.c.series_uid, task)), held, skipped.where(mine)]
            return Tally(*(int(connection.execute(query).scalar_one()) for query in counts))


def _sweep_part(connection: sa.Connection, queue_id: int, after: str) -> str | None:
    """Remove the next rows of a list, in the order of their series; the last one's series, None when it was the last.

    By key, since PostgreSQL would walk over all that was removed before to find what is left.
    """
    mine = sa.and_(Q.c.queue_id == queue_id, Q.c.series_uid > after)
    part = sa.select(Q.c.series_uid).where(mine).order_by(Q.c.series_uid).limit(CHUNK)
    uids: list[str] = list(connection.execute(part).scalars())
    if not uids:
        return None
    connection.execute(sa.delete(Q).where(mine, Q.c.series_uid <= uids[-1]))
    return uids[-1]


def _fill(connection: sa.Connection, queue_id: int, task: str, start: int, part: Sequence[Place]) -> bool:
    """Append a part to a list that is being built; whether the list is still wanted.

    The rows of its series are locked, so that a lease or a label that comes now either is seen here
    or finds the new rows and brings them up to date.
    """
    if connection.execute(sa.select(G.c.id).where(G.c.id == queue_id).with_for_update(read=True)).first() is None:
        return False
    uids = [series_uid for series_uid, *_ in part]
    lock = sa.select(S.c.series_uid).where(S.c.series_uid.in_(uids)).order_by(S.c.series_uid)
    connection.execute(lock.with_for_update(read=True)).all()
    values = [
        {
            "rank": rank,
            "series_uid": series_uid,
            "score": None if math.isnan(score) else float(score),
            "why": why,
            "lane": lane,
        }
        for rank, (series_uid, score, why, lane) in enumerate(part, start)
    ]
    fixed = {"queue_id": queue_id, "task": task, "is_free": False}
    connection.execute(sa.insert(Q), [{**value, **fixed} for value in values])
    fresh = sa.and_(Q.c.queue_id == queue_id, ~Q.c.is_free, Q.c.rank >= start)
    connection.execute(sa.update(Q).where(fresh).values(is_free=leasing.free_case(Q.c.series_uid, Q.c.task)))
    return True


def _switch(connection: sa.Connection, queue_id: int, task: str, strategy: str) -> bool:
    """Put a list in force; False, and no change, when a newer one is or this one was removed."""
    mine = sa.and_(G.c.task == task, G.c.strategy == strategy)
    newest = connection.execute(sa.select(sa.func.max(G.c.id)).where(mine, G.c.is_active)).scalar()
    exists = connection.execute(sa.select(G.c.id).where(G.c.id == queue_id)).first() is not None
    if not exists or (newest is not None and newest > queue_id):
        return False
    connection.execute(sa.update(G).where(mine, G.c.is_active).values(is_active=False))
    connection.execute(sa.update(G).where(G.c.id == queue_id).values(is_active=True))
    return True
