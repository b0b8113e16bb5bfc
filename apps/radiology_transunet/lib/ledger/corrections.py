"""Drafts and what people made of them: Dice by label, kept when a correction arrives."""

import builtins
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lib.ledger import tables
from lib.ledger.book import Book
from lib.ledger.masks import HELD
from lib.ledger.rows import NewHuman

A = tables.annotations
C = tables.corrections
L = tables.leases
S = tables.series
LABELS = ("submitted", "accepted")


@dataclass(frozen=True, slots=True)
class CorrectionRow:
    """One label of one correction.

    Attributes:
        annotation_id: of the person's annotation.
        label: name.
        dice: between draft and annotation, in [0, 1].
        lane: how the case was chosen when it was handed out; "" when it was opened by hand.
        author: who corrected.
        site: institution of the series, "" when unknown.
        model_version: of the draft; None for a foreign model's.
        at: when the annotation was made.
        is_drafted: whether the draft shows the label.
        is_drawn: whether the annotation does.
    """

    annotation_id: int
    label: str
    dice: float
    lane: str
    author: str
    site: str
    model_version: int | None
    at: datetime
    is_drafted: bool = True
    is_drawn: bool = True

    @property
    def is_shared(self) -> bool:
        """Whether both show the label; without that its Dice is 0 wherever it was drawn."""
        return self.is_drafted and self.is_drawn


class Corrections(Book):
    """`ledger.corrections`."""

    __slots__ = ()

    def list(self, task: str) -> builtins.list[CorrectionRow]:
        """Those whose annotation is in force, the oldest first: what was corrected again counts once.

        What is held back counts from the day that a reviewer accepts it.
        """
        draft = A.alias("draft")
        told = (A.c.author, S.c.institution.label("site"), draft.c.model_version, A.c.made_at.label("at"))
        query = (
            sa.select(C, *told, A.c.voxels, draft.c.voxels.label("drafted"))
            .join_from(C, A, A.c.id == C.c.annotation_id)
            .join(draft, draft.c.id == A.c.parent_id)
            .join(S, S.c.series_uid == A.c.series_uid)
            .where(A.c.task == task, A.c.status.in_(LABELS), sa.not_(HELD))
            .order_by(A.c.made_at, A.c.id, C.c.label)
        )
        with self._read() as connection:
            return [_to_row(**found) for found in connection.execute(query).mappings()]


def keep(connection: sa.Connection, annotation_id: int, human: NewHuman, agreement: Mapping[str, float]) -> None:
    """Record the agreement of a new annotation with its draft, before the lease on its series ends."""
    if not agreement:
        return
    own = sa.or_(L.c.ended_at.is_(None), L.c.ending == "labelled")
    leases = sa.select(L.c.lane).where(L.c.series_uid == human.series_uid, L.c.task == human.task, own)
    lane = connection.execute(leases.order_by(L.c.id.desc()).limit(1)).scalar() or ""
    same = {"annotation_id": annotation_id, "lane": lane}
    connection.execute(sa.insert(C), [{**same, "label": label, "dice": dice} for label, dice in agreement.items()])


def _to_row(voxels: Mapping[str, int], drafted: Mapping[str, int], **values: Any) -> CorrectionRow:
    label = values["label"]
    return CorrectionRow(**values, is_drafted=bool(drafted.get(label)), is_drawn=bool(voxels.get(label)))
