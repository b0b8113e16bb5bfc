"""What a model said of the labels of a case: a row a scoring and label, a column a number.

The column `score` is the entropy's: it was the first. NULL stands for NaN, which SQLite cannot hold.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
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
FIRST_REST = timedelta(minutes=1)
LONGEST_REST = timedelta(days=1)


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
    mine = sa.and_(*(N.c[name] == value for name, value in key.items()))
    retry_at = at + _rest(connection, mine) if said.error else None
    connection.execute(sa.delete(N).where(mine))
    scoring = insert_id(connection, N, {**key, "scored_at": at, "error": said.error, "retry_at": retry_at})
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


def _rest(connection: sa.Connection, mine: sa.ColumnElement[bool]) -> timedelta:
    """How long a series that cannot be scored is left alone: a minute, each time twice as long, up to a day."""
    query = sa.select(N.c.scored_at, N.c.retry_at).where(mine, N.c.retry_at.is_not(None))
    last = connection.execute(query).first()
    return FIRST_REST if last is None else min(LONGEST_REST, 2 * (last.retry_at - last.scored_at))


def _number(by_label: Mapping[str, float], label: str) -> float | None:
    value = by_label.get(label, math.nan)
    return None if math.isnan(value) else float(value)
