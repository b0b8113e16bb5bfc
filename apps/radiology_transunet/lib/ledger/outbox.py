"""The outbox: what the archive has to be told, repeated until it is recorded as done.

The row is written in the transaction of its annotation, and the SOP instance UID is fixed in it: a
crash at any point loses nothing, and delivering twice stores nothing twice.
"""

import builtins
import zlib

import sqlalchemy as sa

from lib.core.errors import NotFound
from lib.ledger import leasing, tables
from lib.ledger.book import Book, seconds
from lib.ledger.rows import OutboxRow

A = tables.annotations
T = tables.outbox
OPEN = T.c.done_at.is_(None)
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0


class Outbox(Book):
    """`ledger.outbox`."""

    __slots__ = ()

    def pending(self, limit: int = 10, claim_s: float = 0.0) -> builtins.list[OutboxRow]:
        """What is due, the oldest first; a deletion after the SEG was stored, and while nobody holds its series.

        Args:
            limit: at most so many, each with its file in memory.
            claim_s: hide them from other workers that long; after a crash they show up again.
        """
        now = self.clock()
        stored = T.alias("stored")
        first = sa.exists().where(
            stored.c.sop_instance_uid == T.c.sop_instance_uid, stored.c.action == "store", stored.c.done_at.is_(None)
        )
        deletable = sa.and_(~first, ~leasing.in_hand(_series_of_row(), now))
        due = sa.and_(OPEN, T.c.next_try_at <= now, sa.or_(T.c.action == "store", deletable))
        query = sa.select(*(c for c in T.c if c is not T.c.done_at)).where(due).order_by(T.c.id).limit(limit)
        if claim_s <= 0:
            with self._read() as connection:
                return [_to_row(found) for found in connection.execute(query).mappings()]
        with self._write() as connection:
            claimed = connection.execute(query.with_for_update(skip_locked=True)).mappings().all()
            mine = T.c.id.in_([found["id"] for found in claimed])
            connection.execute(sa.update(T).where(mine).values(next_try_at=now + seconds(claim_s)))
            return [_to_row(found) for found in claimed]

    def done(self, outbox_id: int) -> None:
        """The archive has it, or has it no more; the file leaves the row. Twice changes nothing.

        Raises:
            NotFound: no such row.
        """
        now = self.clock()
        with self._write() as connection:
            update = sa.update(T).where(T.c.id == outbox_id, OPEN)
            columns = (T.c.action, T.c.annotation_id, T.c.sop_instance_uid)
            found = connection.execute(update.values(done_at=now, payload=None, error="").returning(*columns)).first()
            if found is None:
                _require(connection, outbox_id)
                return
            stored_at = now if found.action == "store" else None
            its_seg = sa.and_(A.c.id == found.annotation_id, A.c.sop_instance_uid == found.sop_instance_uid)
            connection.execute(sa.update(A).where(its_seg).values(stored_at=stored_at))  # not for what went with it
            subject = f"annotation {found.annotation_id}"
            action = "archive.stored" if found.action == "store" else "archive.deleted"
            self._note(connection, action, subject, {"sop": found.sop_instance_uid})

    def failed(self, outbox_id: int, error: str) -> None:
        """It did not work this time; the pause before the next try doubles from 1 s to 300 s.

        Raises:
            NotFound: no such row.
        """
        now = self.clock()
        with self._write() as connection:
            query = sa.select(T.c.attempts).where(T.c.id == outbox_id, OPEN).with_for_update()
            attempts = connection.execute(query).scalar()
            if attempts is None:
                _require(connection, outbox_id)
                return
            pause = seconds(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempts, 30)))
            values = {"attempts": attempts + 1, "error": error, "next_try_at": now + pause}
            connection.execute(sa.update(T).where(T.c.id == outbox_id).values(values))
            if attempts == 0:  # an archive that is away for a night is one event, not hundreds
                self._note(connection, "archive.failed", f"outbox {outbox_id}", {"error": error})

    def open_count(self) -> int:
        """Number of rows that are not done."""
        with self._read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).where(OPEN)).scalar_one())


def _series_of_row() -> sa.ScalarSelect[str]:
    """The series of images that the SEG of an outbox row lies on, as part of a statement."""
    return sa.select(A.c.series_uid).where(A.c.id == T.c.annotation_id).correlate(T).scalar_subquery()


def _require(connection: sa.Connection, outbox_id: int) -> None:
    if connection.execute(sa.select(T.c.id).where(T.c.id == outbox_id)).first() is None:
        raise NotFound(f"the outbox has no row {outbox_id}")


def _to_row(found: sa.RowMapping) -> OutboxRow:
    payload = found["payload"]
    return OutboxRow(**{**found, "payload": None if payload is None else zlib.decompress(payload)})
