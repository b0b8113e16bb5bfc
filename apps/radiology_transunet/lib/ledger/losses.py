"""Annotations whose SEG leaves the archive, and comes back.

A draft without its SEG is superseded: the model draws it again. A label without its SEG cannot be learned from, so it
is rejected with that reason and its case returns to the queues; when the SEG comes back, it counts again.
"""

import builtins

import sqlalchemy as sa

from lib.ledger import leasing, masks, tables
from lib.ledger.annotation_reads import AnnotationReads
from lib.ledger.database import lock_series
from lib.ledger.masks import LEFT_ARCHIVE, SELECT, A
from lib.ledger.rows import AnnotationRow, AnnotationStatus

LIVING = ("draft", "submitted", "accepted")
LOST = sa.and_(A.c.status == "rejected", A.c.reason == LEFT_ARCHIVE)


class AnnotationLosses(AnnotationReads):
    """The part of `ledger.annotations` that follows the archive."""

    __slots__ = ()

    def stored(self) -> builtins.list[AnnotationRow]:
        """What is in force and has its SEG in the archive, as far as the ledger knows."""
        there = sa.and_(A.c.stored_at.is_not(None), A.c.seg_series_uid.is_not(None))
        return self._all(SELECT.where(A.c.status.in_(LIVING), there).order_by(A.c.id))

    def lose(self, annotation_id: int) -> bool:
        """The SEG is not in the archive any more; False, and no change, when the annotation does not count on it.

        Raises:
            NotFound: no such annotation.
        """
        with self._write() as connection:
            found = _locked(connection, annotation_id)
            if found.status not in LIVING or found.stored_at is None:
                return False
            status: AnnotationStatus = "superseded" if found.status == "draft" else "rejected"
            self._change(connection, found, {"status": status, "reason": LEFT_ARCHIVE, "stored_at": None}, "lost")
            if status == "superseded":
                masks.withdraw_companions(connection, self.clock(), found)
            return True

    def restore(self, seg_series_uid: str, accept: bool) -> builtins.list[int]:
        """The SEGs of a series are in the archive again: labels that were lost with them count again.

        Args:
            seg_series_uid: SeriesInstanceUID of the SEGs.
            accept: whether a label needs no reviewer; one that a reviewer had accepted needs none again.

        Returns:
            The ids of the labels. One whose series was labelled anew meanwhile is superseded.
        """
        with self._read() as connection:
            query = sa.select(A.c.id).where(A.c.seg_series_uid == seg_series_uid, LOST).order_by(A.c.id)
            lost = list(connection.execute(query).scalars())
        return [annotation_id for annotation_id in lost if self._restore(annotation_id, accept)]

    def _restore(self, annotation_id: int, accept: bool) -> bool:
        with self._write() as connection:
            found = _locked(connection, annotation_id)
            if found.status != "rejected" or found.reason != LEFT_ARCHIVE:
                return False
            status = _status_on_return(connection, found, accept)
            if status == "accepted":
                masks.supersede(connection, found.series_uid, found.task, ("draft",))
            self._change(connection, found, {"status": status, "reason": "", "stored_at": self.clock()}, "returned")
            return True

    def _change(self, connection: sa.Connection, found: AnnotationRow, values: dict[str, object], what: str) -> None:
        connection.execute(sa.update(A).where(A.c.id == found.id).values(values))
        leasing.refresh(connection, found.series_uid, found.task)
        details = {"was": found.status, "is": values["status"], "sop": found.sop_instance_uid}
        self._note(connection, f"annotation.{what}", f"annotation {found.id}", details)


def _status_on_return(connection: sa.Connection, found: AnnotationRow, accept: bool) -> AnnotationStatus:
    """Superseded when the series was labelled anew meanwhile; what was held back does not stand in the way.

    What was held back itself, and not reviewed, is held back again beside an older label.
    """
    mine = sa.and_(A.c.series_uid == found.series_uid, A.c.task == found.task)
    others = sa.and_(mine, A.c.status.in_(("submitted", "accepted")))
    is_held = bool(found.held_reason) and not found.reviewer
    if is_held:
        others = sa.and_(others, sa.or_(A.c.made_at > found.made_at, masks.HELD))
    else:
        others = sa.and_(others, sa.not_(masks.HELD))
    if connection.execute(sa.select(sa.exists().where(others))).scalar():
        return "superseded"
    return "accepted" if found.reviewer or (accept and not is_held) else "submitted"


def _locked(connection: sa.Connection, annotation_id: int) -> AnnotationRow:
    """The annotation, its series locked."""
    lock_series(connection, tables.series, masks.row(connection, annotation_id).series_uid)
    return masks.row(connection, annotation_id)
