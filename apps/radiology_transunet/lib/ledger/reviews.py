"""What reviewers decide of annotations: accept, reject, release what was held back."""

import builtins
from collections.abc import Sequence

import sqlalchemy as sa

from lib.core.errors import Conflict, InvalidInput
from lib.ledger import leasing, masks, tables
from lib.ledger.database import lock_series
from lib.ledger.losses import AnnotationLosses
from lib.ledger.masks import SELECT, A
from lib.ledger.rows import AnnotationRow, AnnotationStatus


class AnnotationReviews(AnnotationLosses):
    """The part of `ledger.annotations` that reviewers use."""

    __slots__ = ()

    def held(self, task: str | None = None) -> builtins.list[AnnotationRow]:
        """What is held back until a reviewer decides, the oldest first, of one task or of all."""
        query = SELECT.where(masks.HELD).order_by(A.c.id)
        return self._all(query if task is None else query.where(A.c.task == task))

    def accept(self, annotation_id: int, reviewer: str) -> None:
        """Make a submitted annotation a label; one that was held back counts from now on.

        Raises:
            NotFound: no such annotation.
            Conflict: it is not submitted.
        """
        with self._write() as connection:
            found = _locked(connection, annotation_id, ("submitted",), "accepted")
            older = masks.supersede_by_label(connection, found.series_uid, found.task, found.made_at, accepted=True)
            self._review(connection, found, "accepted", reviewer, found.reason)
            details = {"superseded": [old.id for old in older if old.id != found.id], **_why_held(found)}
            self._note(connection, "annotation.accepted", f"annotation {found.id}", details, reviewer)

    def reject(self, annotation_id: int, reviewer: str, reason: str) -> None:
        """Refuse a submitted annotation, or take back a label; the case returns to the queues.

        Raises:
            NotFound: no such annotation.
            Conflict: it is neither submitted nor accepted.
            InvalidInput: no reason.
        """
        if not reason:
            raise InvalidInput(f"a rejection needs a reason, got none for annotation {annotation_id}")
        with self._write() as connection:
            found = _locked(connection, annotation_id, ("submitted", "accepted"), "rejected")
            self._review(connection, found, "rejected", reviewer, reason)
            leasing.refresh(connection, found.series_uid, found.task)
            details = {"reason": reason, "was": found.status, **_why_held(found)}
            self._note(connection, "annotation.rejected", f"annotation {found.id}", details, reviewer)

    def _review(
        self, connection: sa.Connection, found: AnnotationRow, status: AnnotationStatus, reviewer: str, reason: str
    ) -> None:
        values = {"status": status, "reviewer": reviewer, "reviewed_at": self.clock(), "reason": reason}
        connection.execute(sa.update(A).where(A.c.id == found.id).values(values))


def _locked(
    connection: sa.Connection, annotation_id: int, allowed: Sequence[AnnotationStatus], wanted: AnnotationStatus
) -> AnnotationRow:
    """The annotation, its series locked.

    Raises:
        NotFound: no such annotation.
        Conflict: it has none of the allowed statuses, or is no person's annotation of a series.
    """
    before = masks.row(connection, annotation_id)
    lock_series(connection, tables.series, before.series_uid)
    found = masks.row(connection, annotation_id)
    if found.status not in allowed:
        raise Conflict(
            f"annotation {annotation_id} must be {' or '.join(allowed)} to become {wanted}, got {found.status}"
        )
    return found


def _why_held(found: AnnotationRow) -> dict[str, str]:
    """For the audit trail: who decides on what was held back also decides on the reason."""
    return {"held": found.held_reason} if found.is_held else {}
