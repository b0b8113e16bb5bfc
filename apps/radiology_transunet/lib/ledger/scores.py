"""What a model said of the labels of a case: a row a draft and label, a column a number.

The column `score` is the entropy's: it was the first. NULL stands for NaN, which SQLite cannot hold.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from lib.core.errors import InvalidInput
from lib.ledger import tables

T = tables.scores
MORE = tuple(column.key for column in T.c if column.key not in ("annotation_id", "label", "score"))
"""The columns besides the entropy's."""


def keep(
    connection: sa.Connection,
    annotation_id: int,
    scores: Mapping[str, float],
    values: Mapping[str, Mapping[str, float]],
    embedding: npt.NDArray[np.floating[Any]] | None,
) -> None:
    """Store what a model said.

    Args:
        connection: inside a transaction.
        annotation_id: of the draft.
        scores: the entropy's by label name.
        values: others by a name of `MORE` and label name.
        embedding: (d,), stored as float32.

    Raises:
        InvalidInput: a name that is no column.
    """
    if strange := sorted(set(values) - set(MORE)):
        raise InvalidInput(f"the ledger keeps {', '.join(MORE)} by label, got {', '.join(strange)}")
    labels = dict.fromkeys([*scores, *(label for by_label in values.values() for label in by_label)])
    rows = [
        {"annotation_id": annotation_id, "label": label, "score": _number(scores, label)}
        | {name: _number(values.get(name, {}), label) for name in MORE}
        for label in labels
    ]
    if rows:
        connection.execute(sa.insert(T), rows)
    if embedding is not None:
        vector = np.ascontiguousarray(embedding, dtype="<f4").reshape(-1).tobytes()
        connection.execute(sa.insert(tables.embeddings).values(annotation_id=annotation_id, vector=vector))


def _number(by_label: Mapping[str, float], label: str) -> float | None:
    value = by_label.get(label, math.nan)
    return None if math.isnan(value) else float(value)
