"""What a model said of the labels of a case: a row a scoring and label, a column a number.

The column `score` is the entropy's: it was the first. NULL stands for NaN, which SQLite cannot hold.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from lib.core.errors import InvalidInput
from lib.ledger import tables
from lib.ledger.book import insert_id

E = tables.embeddings
N = tables.scorings
T = tables.scores
MORE = tuple(column.key for column in T.c if column.key not in ("scoring_id", "annotation_id", "label", "score"))
"""The columns besides the entropy's."""


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a model version said of a series.

    Attributes:
        scores: the entropy's by label name; larger = label first.
        values: other scores and evidence by a name of `MORE` and label name.
        embedding: (d,), stored as float32; None without one.
        error: why that version cannot score the series; "" when it did.

    Raises:
        InvalidInput: a name that is no column.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    embedding: npt.NDArray[np.floating[Any]] | None = None
    error: str = ""

    def __post_init__(self) -> None:
        if strange := sorted(set(self.values) - set(MORE)):
            raise InvalidInput(f"the ledger keeps {', '.join(MORE)} by label, got {', '.join(strange)}")


def keep(
    connection: sa.Connection,
    at: datetime,
    case: tuple[str, str, int],
    said: Said,
    annotation_id: int | None = None,
) -> None:
    """Store what a model said in place of what the same version said before.

    Args:
        connection: inside a transaction that has locked the series.
        at: when it was said.
        case: series, task and model version.
        said: what it said.
        annotation_id: of the draft that it came with.
    """
    key = dict(zip(("series_uid", "task", "version"), case, strict=True))
    connection.execute(sa.delete(N).where(*(N.c[name] == value for name, value in key.items())))
    scoring = insert_id(connection, N, {**key, "scored_at": at, "error": said.error})
    ids = {"scoring_id": scoring, "annotation_id": annotation_id}
    labels = dict.fromkeys([*said.scores, *(label for by_label in said.values.values() for label in by_label)])
    rows = [
        {**ids, "label": label, "score": _number(said.scores, label)}
        | {name: _number(said.values.get(name, {}), label) for name in MORE}
        for label in labels
    ]
    if rows:
        connection.execute(sa.insert(T), rows)
    if said.embedding is not None:
        vector = np.ascontiguousarray(said.embedding, dtype="<f4").reshape(-1).tobytes()
        connection.execute(sa.insert(E).values(**ids, vector=vector))


def _number(by_label: Mapping[str, float], label: str) -> float | None:
    value = by_label.get(label, math.nan)
    return None if math.isnan(value) else float(value)
