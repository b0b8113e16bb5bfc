"""Who holds a series, and which series of the queues are free: the statements behind both.

`queue_rows.is_free` is only a copy of `free_case()`, kept so that an index can find the first free
row. Whoever changes a lease, an annotation or the status of a series holds the lock of that
series' row and calls `refresh` before the transaction ends. Who hands a series out asks
`free_case()` again, under the same lock.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lib.ledger import tables

A = tables.annotations
L = tables.leases
Q = tables.queue_rows
S = tables.series


def labelled(series_uid: Any, task: Any) -> sa.Exists:
    """Condition: a person's annotation of the series is submitted or accepted."""
    label = A.alias("label")
    here = sa.and_(label.c.series_uid == series_uid, label.c.task == task)
    return sa.exists().where(here, label.c.status.in_(("submitted", "accepted")))


def held(series_uid: Any, task: Any) -> sa.Exists:
    """Condition: somebody has the series in hand, or had it and the lease was not ended yet."""
    lease = L.alias("lease")
    return sa.exists().where(lease.c.series_uid == series_uid, lease.c.task == task, lease.c.ended_at.is_(None))


def in_hand(series_uid: Any, at: datetime) -> sa.Exists:
    """Condition: somebody holds the series for any task at that time; a lease that is over counts no more."""
    lease = L.alias("hand")
    return sa.exists().where(lease.c.series_uid == series_uid, lease.c.ended_at.is_(None), lease.c.expires_at > at)


def free_case(series_uid: Any, task: Any) -> sa.ColumnElement[bool]:
    """Condition: the series is ready, not labelled and in nobody's hands."""
    case = S.alias("offered")
    ready = sa.exists().where(case.c.series_uid == series_uid, case.c.status == "ready")
    return sa.and_(ready, ~held(series_uid, task), ~labelled(series_uid, task))


def is_free(connection: sa.Connection, series_uid: str, task: str) -> bool:
    """Whether the series may be handed out."""
    return bool(connection.execute(sa.select(free_case(series_uid, task))).scalar())


def refresh(connection: sa.Connection, series_uid: str, task: str | None = None) -> None:
    """Bring the copies of this series in the queues up to date, those of one task or of all.

    The condition is asked with values, task by task: as part of one UPDATE, PostgreSQL without fresh
    statistics would look at every series to change a single row.
    """
    listed = sa.select(Q.c.task).where(Q.c.series_uid == series_uid).distinct()
    tasks = [task] if task is not None else list(connection.execute(listed).scalars())
    for each in tasks:
        free = is_free(connection, series_uid, each)
        stale = ~Q.c.is_free if free else Q.c.is_free
        here = sa.and_(Q.c.series_uid == series_uid, Q.c.task == each, stale)
        connection.execute(sa.update(Q).where(here).values(is_free=free))


def end(
    connection: sa.Connection,
    at: datetime,
    ending: str,
    series_uid: str,
    task: str | None = None,
    annotator: str | None = None,
) -> None:
    """End the open leases on a series, of one task or of all, of one annotator or of all; the caller refreshes."""
    update = sa.update(L).where(L.c.series_uid == series_uid, L.c.ended_at.is_(None))
    for column, value in ((L.c.task, task), (L.c.annotator, annotator)):
        update = update if value is None else update.where(column == value)
    connection.execute(update.values(ended_at=at, ending=ending))


def lease_until(connection: sa.Connection, at: datetime, series_uid: str, task: str) -> datetime | None:
    """When the lease that somebody holds now ends, None when nobody holds one."""
    query = sa.select(L.c.expires_at).where(
        L.c.series_uid == series_uid, L.c.task == task, L.c.ended_at.is_(None), L.c.expires_at > at
    )
    return connection.execute(query).scalar()
