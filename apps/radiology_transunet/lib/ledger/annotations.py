"""Annotations and the rules of their life.

    model, foreign model:  draft ------------------------------> superseded
    human:                 submitted --accept--> accepted -----> superseded
                               `------reject-------`-----------> rejected

A draft never counts as a label; the schema forbids it. What a person did last counts: an accepted
annotation supersedes everything older of its series and task, a submitted one only older submitted
ones, a rejected one nothing. Older is what was made earlier: what comes from the archive late, because
its reading had to be repeated, is superseded when it arrives.

A submitted one with a `held_reason` is held back: it looks like a mistake. It is never accepted without a
reviewer and supersedes only what was held back before it, so that a mistake replaces no good label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from lib.core.errors import Conflict
from lib.core.estimated import EstimatedDice
from lib.ledger import corrections, leasing, masks, tables
from lib.ledger.book import NOTHING, insert_id, insert_new, require_series
from lib.ledger.database import lock_series
from lib.ledger.estimates import keep as keep_estimates
from lib.ledger.masks import A
from lib.ledger.reviews import AnnotationReviews
from lib.ledger.rows import AnnotationRow, AnnotationStatus, Companion, JobRow, NewDraft, NewHuman, Origin
from lib.ledger.scores import Said, keep


class Annotations(AnnotationReviews):
    """`ledger.annotations`."""

    __slots__ = ()

    def add_draft(
        self,
        draft: NewDraft,
        outbox: bytes | None = None,
        scores: Mapping[str, float] = NOTHING,
        embedding: npt.NDArray[np.floating[Any]] | None = None,
        job: JobRow | None = None,
        unless_labelled: bool = True,
        companions: Sequence[Companion] = (),
        values: Mapping[str, Mapping[str, float]] = NOTHING,
        estimates: Mapping[str, EstimatedDice] = NOTHING,
        instances: int | None = None,
    ) -> int:
        """Enter what a model found; the same SEG again changes nothing.

        It supersedes older drafts of the same origin. Their SEG, if ours, will be deleted from the archive, but
        not while an annotator holds the series; a draft made in the background does not even begin to.

        Args:
            draft: the draft.
            outbox: its SEG as a DICOM file, to be stored in the archive; None when it is there, or nothing was found.
            scores: the entropy's by label name, larger = label first.
            embedding: (d,) float32.
            job: refuse when its worker no longer holds it, the series is not ready, or an annotator holds the series.
            unless_labelled: refuse when a person was faster.
            companions: what is stored in the archive, and deleted from it, with the draft.
            values: other scores and evidence by the name of their column and label name.
            estimates: how good each label probably is, by name.
            instances: how many were looked at; refuse when the series has another number by now. None = all.

        Returns:
            The id.

        Raises:
            NotFound: no such series.
            Conflict: a person was faster, a background draft is not wanted now, the images are others by now, or the
                SEG is something else already.
        """
        now = self.clock()
        with self._write() as connection:
            if job is not None:
                masks.require_held(connection, job)
            require_series(connection, draft.series_uid)
            known = masks.by_sop(connection, draft.sop_instance_uid)
            if known is not None:
                return masks.require_twin(known, draft, draft.origin)
            if job is not None:
                masks.require_undisturbed(connection, now, draft)
            masks.require_same_images(connection, draft.series_uid, instances)
            if unless_labelled and _is_labelled(connection, draft.series_uid, draft.task):
                raise Conflict(f"series {draft.series_uid} has a person's annotation for {draft.task} already")
            late = self._insert_late(connection, draft, ("draft",), draft.origin, outbox)
            if late is not None:
                return late
            older = masks.supersede(connection, draft.series_uid, draft.task, ("draft",), draft.origin)
            for old in older:
                masks.withdraw(connection, now, old)
            annotation_id = self._insert(connection, draft, "draft", draft.origin, outbox)
            for companion in companions:
                masks.send_companion(connection, now, annotation_id, companion)
            _keep_scores(connection, now, draft, Said(scores, values, embedding), annotation_id)
            keep_estimates(connection, annotation_id, estimates)
            details = {"series": draft.series_uid, "task": draft.task, "version": draft.model_version}
            self._note_new(connection, annotation_id, "annotation.draft", details, older, draft.author)
            return annotation_id

    def add_human(
        self, human: NewHuman, accept: bool, outbox: bytes | None = None, agreement: Mapping[str, float] = NOTHING
    ) -> int:
        """Enter what a person made; the same SEG again changes nothing.

        It ends the lease on the series and takes the series out of the queues. When a person's annotation that was
        made later is there already, it only becomes a superseded one.

        Args:
            human: the annotation.
            accept: True makes it a label at once (review `auto`) unless it is held back, False leaves it to a reviewer.
            outbox: its SEG as a DICOM file, to be stored in the archive; None when it came from there.
            agreement: Dice with the draft by label name, in [0, 1].

        Returns:
            The id.

        Raises:
            NotFound: no such series.
            Conflict: the SEG is a draft, another series' or a rejected one.
            InvalidInput: a parent of another series or task.
        """
        with self._write() as connection:
            require_series(connection, human.series_uid)
            known = masks.by_sop(connection, human.sop_instance_uid)
            if known is not None:
                return masks.require_twin(known, human, "human")
            masks.require_parent(connection, human)
            late = self._insert_late(connection, human, ("submitted", "accepted"), "human", outbox)
            if late is not None:
                return late
            status: AnnotationStatus = "accepted" if accept and not human.held_reason else "submitted"
            older = _supersede_older(connection, human, status, masks.made_at(human, self.clock()))
            annotation_id = self._insert(connection, human, status, "human", outbox)
            corrections.keep(connection, annotation_id, human, agreement)
            leasing.end(connection, self.clock(), "labelled", human.series_uid, human.task)
            leasing.refresh(connection, human.series_uid, human.task)
            details = {"series": human.series_uid, "task": human.task, "parent": human.parent_id}
            held = {"held": human.held_reason} if human.held_reason else {}
            action = "annotation.held" if held else f"annotation.{status}"
            self._note_new(connection, annotation_id, action, {**details, **held}, older, human.author)
            return annotation_id

    def reject_seg(
        self,
        sop_instance_uid: str,
        series_uid: str | None,
        task: str | None,
        reason: str,
        author: str = "unknown",
        origin: Origin = "human",
        seg_series_uid: str | None = None,
    ) -> int:
        """Record a SEG that cannot be used, with the reason; it supersedes nothing. Twice changes nothing.

        Args:
            sop_instance_uid: of the SEG.
            series_uid: that it refers to, known to the ledger or not; None when it names none.
            task: that it was read for; None when it fits none.
            reason: why it cannot be used.
            author: who made it.
            origin: what made it.
            seg_series_uid: SeriesInstanceUID of the SEG itself.

        Returns:
            The id; that of the annotation with this SEG when there is one already.
        """
        now = self.clock()
        with self._write() as connection:
            is_known = series_uid is not None and lock_series(connection, tables.series, series_uid)
            where = {"series_uid": series_uid if is_known else None, "referenced_series_uid": series_uid, "task": task}
            who = {"status": "rejected", "origin": origin, "author": author, "reason": reason}
            what = {"sop_instance_uid": sop_instance_uid, "seg_series_uid": seg_series_uid}
            times = {"made_at": now, "created_at": now, "stored_at": now}
            is_new = insert_new(connection, A, {**masks.FRESH, **where, **who, **what, **times})
            found = connection.execute(sa.select(A.c.id).where(A.c.sop_instance_uid == sop_instance_uid)).scalar_one()
            if is_new:
                details = {"sop": sop_instance_uid, "series": series_uid, "reason": reason}
                self._note(connection, "annotation.rejected", f"annotation {found}", details, author)
            return int(found)

    def forget_rejection(self, annotation_id: int) -> None:
        """Remove the record of a SEG that could not be used, so that it can be read again.

        Raises:
            NotFound: no such annotation.
            Conflict: it is no such record (what a reviewer rejected stays).
        """
        with self._write() as connection:
            found = masks.row(connection, annotation_id)
            if found.status != "rejected" or found.reviewed_at is not None or found.reason == masks.LEFT_ARCHIVE:
                raise Conflict(f"annotation {annotation_id} must be a SEG that could not be used, got {found.status}")
            connection.execute(sa.delete(A).where(A.c.id == annotation_id))
            details = {"sop": found.sop_instance_uid, "reason": found.reason}
            self._note(connection, "annotation.forgotten", f"annotation {annotation_id}", details)

    def _insert_late(
        self,
        connection: sa.Connection,
        new: NewDraft | NewHuman,
        living: Sequence[AnnotationStatus],
        origin: Origin,
        file: bytes | None,
    ) -> int | None:
        """Insert as superseded what is older than a living one; its id, None when it is not older."""
        if new.made_at is None:
            return None
        newer = masks.newer_than(connection, new, masks.made_at(new, self.clock()), living, origin)
        if newer is None:
            return None
        annotation_id = self._insert(connection, new, "superseded", origin, file)
        details = {"series": new.series_uid, "task": new.task, "by": newer}
        self._note(connection, "annotation.superseded", f"annotation {annotation_id}", details, new.author)
        return annotation_id

    def _insert(
        self,
        connection: sa.Connection,
        new: NewDraft | NewHuman,
        status: AnnotationStatus,
        origin: Origin,
        file: bytes | None,
    ) -> int:
        """Insert the row, and its SEG into the outbox; without a file the SEG, if any, is in the archive."""
        now = self.clock()
        is_there = file is None and new.sop_instance_uid is not None
        state = {"status": status, "origin": origin, "stored_at": now if is_there else None}
        times = {"made_at": masks.made_at(new, now), "created_at": now}
        annotation_id = insert_id(connection, A, {**masks.FRESH, **_values(new), **state, **times})
        if file is not None:
            masks.send(connection, now, annotation_id, new, file)
        return annotation_id

    def _note_new(
        self,
        connection: sa.Connection,
        annotation_id: int,
        action: str,
        details: Mapping[str, Any],
        older: Sequence[AnnotationRow],
        author: str,
    ) -> None:
        superseded = {"superseded": [old.id for old in older]}
        self._note(connection, action, f"annotation {annotation_id}", {**details, **superseded}, author)


def _supersede_older(
    connection: sa.Connection, human: NewHuman, status: AnnotationStatus, made_at: datetime
) -> list[AnnotationRow]:
    if human.held_reason:
        return masks.supersede(connection, human.series_uid, human.task, ("submitted",), where=masks.HELD)
    return masks.supersede_by_label(connection, human.series_uid, human.task, made_at, status == "accepted")


def _keep_scores(connection: sa.Connection, at: datetime, draft: NewDraft, said: Said, annotation_id: int) -> None:
    """Keep what a version of ours said with a draft; of the models of others no versions are known."""
    if draft.origin == "model" and draft.model_version is not None:
        keep(connection, at, (draft.series_uid, draft.task, draft.model_version), said, annotation_id)


def _is_labelled(connection: sa.Connection, series_uid: str, task: str) -> bool:
    return bool(connection.execute(sa.select(leasing.labelled(series_uid, task))).scalar())


def _values(new: NewDraft | NewHuman) -> dict[str, Any]:
    return {field.name: getattr(new, field.name) for field in fields(new)}
