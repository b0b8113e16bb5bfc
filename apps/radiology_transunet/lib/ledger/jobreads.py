"""Which job is next, who holds one, and which wait: what `ledger.jobs` asks inside its transactions."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from lib.core.errors import NotFound
from lib.ledger import tables
from lib.ledger.database import take_turns
from lib.ledger.rows import JobRow

T = tables.jobs
JOB = sa.select(*(column for column in T.c if column.key not in ("lease_s", "lease_until", "priority")))
CHUNK = 200
"""Jobs that are changed in one transaction, so that others get to write in between."""
ALONE = frozenset({"retrain"})
"""Kinds of which one job at a time is done, of all tasks and by all workers: each takes its share of a card as if no
other one of its kind were there."""


def next_due(connection: sa.Connection, kinds: Sequence[str], now: datetime) -> int | None:
    """The job to do, locked: by kind, first what was left, then what waits; by priority, then the oldest first."""
    for kind in kinds:
        for due in _dues(connection, kind, now):
            query = sa.select(T.c.id).where(T.c.kind == kind, due).order_by(T.c.priority, T.c.id).limit(1)
            found = connection.execute(query.with_for_update(skip_locked=True)).scalar()
            if found is not None:
                return int(found)
    return None


def _dues(connection: sa.Connection, kind: str, now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Conditions of the jobs of a kind that may be taken now, the first to look at first.

    Of a kind that is done alone: nothing while a worker holds a job, and nothing but that job once he fell silent, as a
    late beat gives it back to him until it is taken over. Who asks waits for whoever is taking one.
    """
    left = sa.and_(is_left(now), T.c.attempts < T.c.max_attempts)
    waits = sa.and_(T.c.state == "queued", T.c.not_before <= now)
    if kind not in ALONE:
        return left, waits
    take_turns(connection, f"jobs {kind}")
    running = sa.select(T.c.lease_until).where(T.c.kind == kind, T.c.state == "running")
    leases = connection.execute(running).scalars().all()
    if not leases:
        return (waits,)
    return () if max(leases) > now else (left,)


def queued(connection: sa.Connection, kind: str, task: str, keys: Sequence[str]) -> list[tuple[int, str]]:
    """Id and key of the queued jobs of these keys."""
    query = sa.select(T.c.id, T.c.key).where(T.c.kind == kind, T.c.task == task, tables.IS_OPEN, T.c.state == "queued")
    parts = [keys[start : start + CHUNK] for start in range(0, len(keys), CHUNK)]
    return [(job, key) for part in parts for job, key in connection.execute(query.where(T.c.key.in_(part)))]


def behind(connection: sa.Connection, kind: str) -> int:
    """The priority with which a job is taken behind all of its kind that wait."""
    last = sa.select(sa.func.max(T.c.priority)).where(T.c.kind == kind, T.c.state == "queued")
    found = connection.execute(last).scalar()
    return 0 if found is None else int(found) + 1


def is_left(now: datetime) -> sa.ColumnElement[bool]:
    """Whether a worker took the job and fell silent."""
    return sa.and_(T.c.state == "running", T.c.lease_until <= now)


def is_held(job: JobRow) -> sa.ColumnElement[bool]:
    """Whether that worker still holds the job in that attempt."""
    attempt = sa.and_(T.c.worker == job.worker, T.c.attempts == job.attempts)
    return sa.and_(T.c.id == job.id, T.c.state == "running", attempt)


def job_row(connection: sa.Connection, job_id: int) -> JobRow:
    """The job.

    Raises:
        NotFound: no such job.
    """
    found = connection.execute(JOB.where(T.c.id == job_id)).mappings().first()
    if found is None:
        raise NotFound(f"the ledger has no job {job_id}")
    return JobRow(**found)
