"""`ledger.estimates`: how good each label of a draft probably is, as the model of its version told.

    annotations 1--n estimates

A row a draft and label. They come with the draft, or later, worked out from the evidence that was kept of it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from lib.core.estimated import EstimatedDice
from lib.core.values import LabelEvidence
from lib.ledger import tables
from lib.ledger.book import Book
from lib.ledger.columns import BIG_ID, late_text, numbers

estimates = sa.Table(
    "estimates",
    tables.metadata,
    sa.Column("annotation_id", BIG_ID, sa.ForeignKey("annotations.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    *numbers("value", "low", "high"),
    sa.Column("is_familiar", sa.Boolean, nullable=False),
    late_text("reason"),
)

A = tables.annotations
E = estimates
T = tables.scores
V = tables.embeddings
CHUNK = 500
EVIDENCE = tuple(field.name for field in fields(LabelEvidence))


@dataclass(frozen=True, slots=True, eq=False)
class DraftEvidence:
    """What a draft in force showed of itself.

    Attributes:
        draft: id of the annotation.
        evidence: by label name.
        embedding: (d,) of the image.
    """

    draft: int
    evidence: Mapping[str, LabelEvidence]
    embedding: npt.NDArray[np.float32]


class Estimates(Book):
    """`ledger.estimates`."""

    __slots__ = ()

    def of(self, drafts: Sequence[int]) -> dict[int, dict[str, EstimatedDice]]:
        """Of drafts by their ids and label names; those without any are left out."""
        found: dict[int, dict[str, EstimatedDice]] = {}
        with self._read() as connection:
            for start in range(0, len(drafts), CHUNK):
                part = E.c.annotation_id.in_(drafts[start : start + CHUNK])
                for draft, label, *ends, is_familiar, reason in connection.execute(sa.select(E).where(part)):
                    value, low, high = (math.nan if number is None else number for number in ends)
                    found.setdefault(draft, {})[label] = EstimatedDice(value, low, high, is_familiar, reason)
        return found

    def put(self, told: Mapping[int, Mapping[str, EstimatedDice]]) -> None:
        """Replace those of drafts, by their ids and label names, a part at a time."""
        drafts = list(told)
        for start in range(0, len(drafts), CHUNK):
            part = drafts[start : start + CHUNK]
            with self._write() as connection:
                connection.execute(sa.delete(E).where(E.c.annotation_id.in_(part)))
                for draft in part:
                    keep(connection, draft, told[draft])

    def evidence(self, task: str, version: int) -> Iterator[list[DraftEvidence]]:
        """What the drafts in force of a model version showed, a part at a time; those without evidence are left out."""
        ours = sa.and_(A.c.task == task, A.c.status == "draft", A.c.origin == "model", A.c.model_version == version)
        last = 0
        while True:
            query = sa.select(A.c.id, V.c.vector).join_from(A, V).where(ours, A.c.id > last).order_by(A.c.id)
            with self._read() as connection:
                vectors = {draft: vector for draft, vector in connection.execute(query.limit(CHUNK))}  # noqa: C416, which knows no rows
                shown = _shown(connection, list(vectors))
            if not vectors:
                return
            last = max(vectors)
            yield [
                DraftEvidence(draft, evidence, np.frombuffer(vectors[draft], dtype="<f4").astype(np.float32))
                for draft, evidence in shown.items()
            ]


def keep(connection: sa.Connection, annotation_id: int, told: Mapping[str, EstimatedDice]) -> None:
    """Store what a model told of a draft, by label name; inside a transaction."""
    rows = [
        {"annotation_id": annotation_id, "label": label, "is_familiar": one.is_familiar, "reason": one.reason}
        | {
            name: None if math.isnan(number := getattr(one, name)) else float(number)
            for name in ("value", "low", "high")
        }
        for label, one in told.items()
    ]
    if rows:
        connection.execute(sa.insert(E), rows)


def _shown(connection: sa.Connection, drafts: Sequence[int]) -> dict[int, dict[str, LabelEvidence]]:
    """By draft and label; a label without a volume has no evidence."""
    columns = [T.c[name] for name in EVIDENCE]
    query = sa.select(T.c.annotation_id, T.c.label, *columns).where(
        T.c.annotation_id.in_(drafts), T.c.volume_ml.is_not(None)
    )
    found: dict[int, dict[str, LabelEvidence]] = {}
    for draft, label, *values in connection.execute(query):
        known = {name: math.nan if number is None else number for name, number in zip(EVIDENCE, values, strict=True)}
        components = known.pop("components")
        whole = 0 if math.isnan(components) else int(components)
        found.setdefault(draft, {})[label] = LabelEvidence(**known, components=whole)
    return found
