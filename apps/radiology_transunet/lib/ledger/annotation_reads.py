"""What the ledger tells of annotations."""

import builtins

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from lib.ledger import leasing, masks, tables
from lib.ledger.book import Book, require_among
from lib.ledger.masks import SELECT, A
from lib.ledger.rows import ANNOTATION_STATUSES, AnnotationRow, AnnotationStatus
from lib.ledger.scorings import by_urgency


class AnnotationReads(Book):
    """The half of `ledger.annotations` that changes nothing."""

    __slots__ = ()

    def knows(self, sop_instance_uid: str) -> bool:
        """Whether a SEG was seen before, used or rejected."""
        return self.find(sop_instance_uid) is not None

    def known_in_series(self, seg_series_uid: str) -> int:
        """How many SEGs of that series were seen before, used or rejected."""
        query = sa.select(sa.func.count()).where(A.c.seg_series_uid == seg_series_uid)
        with self._read() as connection:
            return int(connection.execute(query).scalar_one())

    def find(self, sop_instance_uid: str) -> AnnotationRow | None:
        """The annotation with that SEG."""
        with self._read() as connection:
            return masks.by_sop(connection, sop_instance_uid)

    def get(self, annotation_id: int) -> AnnotationRow:
        """The annotation.

        Raises:
            NotFound: no such annotation.
        """
        with self._read() as connection:
            return masks.row(connection, annotation_id)

    def list(
        self,
        task: str | None = None,
        status: str | None = None,
        series_uid: str | None = None,
        limit: int | None = 100,
        offset: int = 0,
    ) -> builtins.list[AnnotationRow]:
        """The newest annotations first.

        Raises:
            InvalidInput: no such status.
        """
        require_among("status", status, ANNOTATION_STATUSES)
        query = SELECT.order_by(A.c.id.desc()).limit(limit).offset(offset)
        if task is not None:
            query = query.where(A.c.task == task)
        if status is not None:
            query = query.where(A.c.status == status)
        if series_uid is not None:
            by_reference = sa.and_(A.c.series_uid.is_(None), A.c.referenced_series_uid == series_uid)
            query = query.where(sa.or_(A.c.series_uid == series_uid, by_reference))
        return self._all(query)

    def unusable(self, series_uid: str | None = None, because: str = "") -> builtins.list[AnnotationRow]:
        """The SEGs that could not be used and may be forgotten, the oldest first.

        Args:
            series_uid: of the series that they refer to, whether it was in the ledger or not; None = any.
            because: what their reasons contain.
        """
        query = SELECT.where(masks.UNUSABLE, A.c.reason.contains(because, autoescape=True))
        if series_uid is not None:
            query = query.where(A.c.referenced_series_uid == series_uid)
        return self._all(query.order_by(A.c.id))

    def counts(self, task: str) -> dict[AnnotationStatus, int]:
        """Number of annotations of a task by status; every status has one."""
        query = sa.select(A.c.status, sa.func.count()).where(A.c.task == task).group_by(A.c.status)
        with self._read() as connection:
            found = connection.execute(query).all()
        return {**dict.fromkeys(ANNOTATION_STATUSES, 0), **dict(found)}

    def latest_draft(self, series_uid: str, task: str) -> AnnotationRow | None:
        """The newest draft that is in force, None without one."""
        query = SELECT.where(A.c.series_uid == series_uid, A.c.task == task, A.c.status == "draft")
        found = self._all(query.order_by(A.c.id.desc()).limit(1))
        return found[0] if found else None

    def latest_label(self, series_uid: str, task: str) -> AnnotationRow | None:
        """The newest annotation of a person that is submitted or accepted, None without one."""
        mine = sa.and_(A.c.series_uid == series_uid, A.c.task == task, A.c.origin == "human")
        query = SELECT.where(mine, A.c.status.in_(("submitted", "accepted")))
        found = self._all(query.order_by(A.c.id.desc()).limit(1))
        return found[0] if found else None

    def accepted(self, task: str, split: str | None = None) -> builtins.list[AnnotationRow]:
        """The labels: what people made and review accepted, at most one a series; oldest first."""
        query = SELECT.where(A.c.task == task, A.c.status == "accepted", A.c.origin == "human").order_by(A.c.id)
        if split is not None:
            series, patients = tables.series, tables.patients
            query = query.join_from(A, series).join(patients).where(patients.c.split == split)
        return self._all(query)

    def undrafted(self, task: str, model_version: int, limit: int | None = None) -> builtins.list[str]:
        """Ready series that want a draft: no label, no draft of that version in force, in nobody's hands.

        Those that no version has scored come first; in each the newest arrival first.
        """
        series, leases = tables.series, tables.leases
        drafted = sa.exists().where(
            A.c.series_uid == series.c.series_uid,
            A.c.task == task,
            A.c.status == "draft",
            A.c.origin == "model",
            A.c.model_version == model_version,
        )
        held = sa.exists().where(
            leases.c.series_uid == series.c.series_uid,
            leases.c.task == task,
            leases.c.ended_at.is_(None),
            leases.c.expires_at > self.clock(),
        )
        wanted = sa.and_(~leasing.labelled(series.c.series_uid, task), ~drafted, ~held)
        query = sa.select(series.c.series_uid).where(series.c.status == "ready", wanted)
        with self._read() as connection:
            return list(connection.execute(query.order_by(*by_urgency(task)).limit(limit)).scalars())

    def scores(self, annotation_id: int) -> dict[str, float]:
        """Scores by label name, NaN where the model had none."""
        table = tables.scores
        query = sa.select(table.c.label, table.c.score).where(table.c.annotation_id == annotation_id)
        with self._read() as connection:
            found = connection.execute(query).all()
        return {label: float("nan") if score is None else score for label, score in found}

    def embedding(self, annotation_id: int) -> npt.NDArray[np.float32] | None:
        """What the encoder saw, (d,) float32; None without one."""
        table = tables.embeddings
        with self._read() as connection:
            found = connection.execute(sa.select(table.c.vector).where(table.c.annotation_id == annotation_id)).scalar()
        return None if found is None else np.frombuffer(found, dtype="<f4").astype(np.float32)

    def _all(self, query: sa.Select[tuple[object, ...]]) -> builtins.list[AnnotationRow]:
        with self._read() as connection:
            return [AnnotationRow(**found) for found in connection.execute(query).mappings()]
