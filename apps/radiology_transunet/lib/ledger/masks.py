"""Statements behind the annotations: read, supersede, send to the archive."""

import zlib
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lib.core.errors import Conflict, InvalidInput, NotFound
from lib.ledger import leasing, tables
from lib.ledger.book import insert_new
from lib.ledger.rows import AnnotationRow, Companion, JobRow, NewDraft, NewHuman

A = tables.annotations
O = tables.outbox  # noqa: E741
FRESH: dict[str, Any] = {
    "model_version": None,
    "parent_id": None,
    "changed_voxels": None,
    "seg_series_uid": None,
    "voxels": {},
    "nothing_found": False,
    "reason": "",
    "held_reason": "",
}
LEFT_ARCHIVE = "its SEG left the archive"
"""Reason of a label that cannot be read any more; it counts again when the SEG comes back."""

UNUSABLE = sa.and_(A.c.status == "rejected", A.c.reviewed_at.is_(None), A.c.reason != LEFT_ARCHIVE)
"""Condition: the record of a SEG that could not be used; what a reviewer rejected is none."""

HELD = sa.and_(A.c.status == "submitted", A.c.held_reason != "")
"""Condition: held back until a reviewer decides."""

COMPRESSION = 1  # masks shrink a hundredfold at the fastest level already

BEFORE_ACCEPTED = ("draft", "submitted", "accepted")
"""Statuses that a label ends when it is accepted."""

SELECT = sa.select(
    *(column for column in A.c if column.key not in ("series_uid", "referenced_series_uid", "task")),
    sa.func.coalesce(A.c.series_uid, A.c.referenced_series_uid, "").label("series_uid"),
    sa.func.coalesce(A.c.task, "").label("task"),
)


def row(connection: sa.Connection, annotation_id: int) -> AnnotationRow:
    """The annotation.

    Raises:
        NotFound: no such annotation.
    """
    found = connection.execute(SELECT.where(A.c.id == annotation_id)).mappings().first()
    if found is None:
        raise NotFound(f"the ledger has no annotation {annotation_id}")
    return AnnotationRow(**found)


def by_sop(connection: sa.Connection, sop_instance_uid: str | None) -> AnnotationRow | None:
    """The annotation with that SEG, None without one."""
    if sop_instance_uid is None:
        return None
    found = connection.execute(SELECT.where(A.c.sop_instance_uid == sop_instance_uid)).mappings().first()
    return None if found is None else AnnotationRow(**found)


def require_twin(known: AnnotationRow, new: NewDraft | NewHuman, origin: str) -> int:
    """The id of an annotation that came before with the same SEG.

    Raises:
        Conflict: the same SOP instance UID, but something else.
    """
    came = (new.series_uid, new.task, origin)
    if known.status == "rejected" and known.reviewed_at is None:
        raise Conflict(f"SEG {known.sop_instance_uid} was rejected: {known.reason}; forget the rejection first")
    if (known.series_uid, known.task, known.origin) != came:
        raise Conflict(
            f"SEG {known.sop_instance_uid} is annotation {known.id} of {known.origin} on series {known.series_uid} "
            f"for {known.task}, got {origin} on {new.series_uid} for {new.task}"
        )
    return known.id


def require_parent(connection: sa.Connection, new: NewHuman) -> None:
    """Raise InvalidInput unless the parent, if any, is an annotation of the same series and task."""
    if new.parent_id is None:
        return
    query = sa.select(A.c.series_uid, A.c.task).where(A.c.id == new.parent_id)
    found = connection.execute(query).first()
    if found != (new.series_uid, new.task):
        raise InvalidInput(
            f"the parent of an annotation must be of series {new.series_uid} and task {new.task}, "
            f"got {new.parent_id}, which is {'unknown' if found is None else found}"
        )


def require_held(connection: sa.Connection, job: JobRow) -> None:
    """Raise Conflict unless that worker still holds the job in that attempt; keep it held till the commit."""
    table = tables.jobs
    query = sa.select(table.c.state, table.c.worker, table.c.attempts).where(table.c.id == job.id)
    found = connection.execute(query.with_for_update()).first()
    if found != ("running", job.worker, job.attempts):
        raise Conflict(f"job {job.id} must be held by {job.worker} in attempt {job.attempts}, got {found}")


def require_undisturbed(connection: sa.Connection, at: datetime, draft: NewDraft) -> None:
    """Raise Conflict when the series of a background draft is not ready any more, or in somebody's hands."""
    series = tables.series
    status = connection.execute(sa.select(series.c.status).where(series.c.series_uid == draft.series_uid)).scalar_one()
    if status != "ready":
        raise Conflict(f"series {draft.series_uid} must be ready to be drafted, got {status}")
    until = leasing.lease_until(connection, at, draft.series_uid, draft.task)
    if until is not None:
        raise Conflict(f"series {draft.series_uid} is in an annotator's hands until {until:%Y-%m-%d %H:%M:%S} UTC")


def has_changed(connection: sa.Connection, series_uid: str, instances: int | None) -> bool:
    """Whether a locked series has another number of instances than were looked at; None = all were."""
    known = sa.select(tables.series.c.instances).where(tables.series.c.series_uid == series_uid)
    return instances is not None and connection.execute(known).scalar_one() != instances


def require_same_images(connection: sa.Connection, series_uid: str, instances: int | None) -> None:
    """Raise Conflict when a locked series has another number of instances than were drafted; None = all were."""
    if has_changed(connection, series_uid, instances):
        raise Conflict(f"series {series_uid} must have {instances} instances as drafted, got another number")


def supersede(
    connection: sa.Connection,
    series_uid: str,
    task: str,
    statuses: Collection[str],
    origin: str | None = None,
    where: sa.ColumnElement[bool] | None = None,
) -> list[AnnotationRow]:
    """Supersede what has one of these statuses, is of that origin and meets that condition; what that was."""
    query = SELECT.where(A.c.series_uid == series_uid, A.c.task == task, A.c.status.in_(statuses)).order_by(A.c.id)
    for condition in (None if origin is None else A.c.origin == origin, where):
        query = query if condition is None else query.where(condition)
    older = [AnnotationRow(**found) for found in connection.execute(query).mappings()]
    if older:
        ids = [found.id for found in older]
        connection.execute(sa.update(A).where(A.c.id.in_(ids)).values(status="superseded"))
    return older


def supersede_by_label(
    connection: sa.Connection, series_uid: str, task: str, made_at: datetime, accepted: bool
) -> list[AnnotationRow]:
    """Supersede what a label that is accepted, or submitted, replaces; what that was.

    What was held back after the label was made waits on for its reviewer.
    """
    over = BEFORE_ACCEPTED if accepted else ("submitted",)
    return supersede(connection, series_uid, task, over, where=sa.not_(sa.and_(HELD, A.c.made_at > made_at)))


def living_labels(connection: sa.Connection, series_uid: str) -> list[int]:
    """The ids of a series' labels that are submitted or accepted, for any task."""
    query = sa.select(A.c.id).where(A.c.series_uid == series_uid, A.c.status.in_(("submitted", "accepted")))
    return list(connection.execute(query.order_by(A.c.id)).scalars())


def outdate(connection: sa.Connection, at: datetime, series_uid: str, reason: str) -> list[int]:
    """Supersede drafts and labels of a series whose images are not what they were, forget its scores; the ids."""
    lost = sa.and_(A.c.status == "rejected", A.c.reason == LEFT_ARCHIVE)
    here = sa.and_(A.c.series_uid == series_uid, sa.or_(A.c.status.in_(("draft", "submitted", "accepted")), lost))
    older = [AnnotationRow(**found) for found in connection.execute(SELECT.where(here).order_by(A.c.id)).mappings()]
    ids = [old.id for old in older]
    connection.execute(sa.delete(tables.scorings).where(tables.scorings.c.series_uid == series_uid))
    connection.execute(sa.update(A).where(A.c.id.in_(ids)).values(status="superseded", reason=reason))
    for old in older:
        if old.status == "draft":
            withdraw(connection, at, old)
    return ids


def made_at(new: NewDraft | NewHuman, now: datetime) -> datetime:
    """When it was made; a clock that is ahead of the ledger's counts as now."""
    return now if new.made_at is None else min(new.made_at, now)


def newer_than(
    connection: sa.Connection, new: NewDraft | NewHuman, at: datetime, statuses: Collection[str], origin: str
) -> int | None:
    """The id of what has one of these statuses and was made later than `at`, None when there is none.

    What is held back is newer than another one that is held back alone: it may turn out to be a mistake.
    """
    same = sa.and_(A.c.series_uid == new.series_uid, A.c.task == new.task, A.c.origin == origin)
    query = sa.select(sa.func.max(A.c.id)).where(same, A.c.status.in_(statuses), A.c.made_at > at)
    if not (isinstance(new, NewHuman) and new.held_reason):
        query = query.where(sa.not_(HELD))
    found: int | None = connection.execute(query).scalar()
    return found


def send(connection: sa.Connection, at: datetime, annotation_id: int, new: NewDraft | NewHuman, file: bytes) -> None:
    """Put a SEG into the outbox.

    Raises:
        InvalidInput: a file without its UIDs.
    """
    if not (file and new.sop_instance_uid and new.seg_series_uid):
        raise InvalidInput(
            "a SEG to store needs its bytes, its sop_instance_uid and its seg_series_uid, "
            f"got {len(file)} bytes, {new.sop_instance_uid} and {new.seg_series_uid}"
        )
    values = {
        "action": "store",
        "sop_instance_uid": new.sop_instance_uid,
        "series_uid": new.seg_series_uid,
        "payload": zlib.compress(file, COMPRESSION),
    }
    _post(connection, at, annotation_id, values)


def send_companion(connection: sa.Connection, at: datetime, annotation_id: int, companion: Companion) -> None:
    """Put what goes with a draft into the outbox."""
    values = {
        "action": "store",
        "sop_instance_uid": companion.sop_instance_uid,
        "series_uid": companion.series_uid,
        "payload": zlib.compress(companion.content, COMPRESSION),
    }
    _post(connection, at, annotation_id, values)


def withdraw_companions(connection: sa.Connection, at: datetime, old: AnnotationRow) -> None:
    """Have what went with a draft deleted, once it is in nobody's hands; the SEG itself is left to `withdraw`."""
    mine = sa.and_(O.c.annotation_id == old.id, O.c.action == "store")
    for found in connection.execute(sa.select(O.c.sop_instance_uid, O.c.series_uid).where(mine)).mappings().all():
        if found["sop_instance_uid"] != old.sop_instance_uid:
            _post(connection, at, old.id, {**found, "action": "delete", "payload": None})


def withdraw(connection: sa.Connection, at: datetime, old: AnnotationRow) -> None:
    """Have the SEG of a superseded draft of ours, and what went with it, deleted, once it is in nobody's hands."""
    withdraw_companions(connection, at, old)
    if old.origin != "model" or old.sop_instance_uid is None or old.seg_series_uid is None:
        return
    values = {
        "action": "delete",
        "sop_instance_uid": old.sop_instance_uid,
        "series_uid": old.seg_series_uid,
        "payload": None,
    }
    _post(connection, at, old.id, values)


def _post(connection: sa.Connection, at: datetime, annotation_id: int, values: Mapping[str, Any]) -> None:
    fresh = {"annotation_id": annotation_id, "attempts": 0, "error": "", "created_at": at, "next_try_at": at}
    insert_new(connection, O, {**values, **fresh})
