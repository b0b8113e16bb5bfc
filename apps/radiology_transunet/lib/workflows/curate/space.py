"""Embeddings that may be compared: those of one model version, and which version that is.

A new version looks at all series again, which takes hours or days: until then it has seen hardly any labelled case.
What earlier versions saw is still in the ledger: the newest version is taken under which nearly as many pairs of cases
can be compared as under any.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from lib.core.errors import NotFound
from lib.ledger.curationrows import Embedded
from lib.selection.arrays import FloatArray
from lib.selection.embeddings import NEARLY
from lib.workflows.services import Services


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Of one version.

    Attributes:
        version: that made all of them.
        ids: (n,) UIDs of the series, sorted.
        points: (n, d), moved so that their mean is 0, which keeps the distances exact.
    """

    version: int
    ids: tuple[str, ...]
    points: FloatArray

    def of(self, series_uids: Collection[str]) -> tuple[tuple[str, ...], FloatArray]:
        """Those of some series: their UIDs (m,) and embeddings (m, d)."""
        rows = [row for row, uid in enumerate(self.ids) if uid in series_uids]
        return tuple(self.ids[row] for row in rows), self.points[rows]


def version_for(
    embedded: Sequence[Embedded], cases: Collection[str], others: Collection[str], version: int | None = None
) -> int | None:
    """The newest version under which nearly most cases and others can be compared; None when there is none.

    Args:
        embedded: which version saw which series.
        cases: UIDs of the one side.
        others: of the other side; both may share series.
        version: that is to be taken, whatever the others offer.

    Raises:
        NotFound: that version has seen no case and another one of the other side; lists those that have.
    """
    on_one = Counter(row.model_version for row in embedded if row.series_uid in cases)
    on_other = Counter(row.model_version for row in embedded if row.series_uid in others)
    pairs = {number: on_one[number] * on_other[number] for number in on_one if on_other[number]}
    if version is not None and version not in pairs:
        usable = ", ".join(map(str, sorted(pairs))) or "none yet"
        raise NotFound(f"version {version} has no embeddings that could be compared here; versions that have: {usable}")
    if version is not None:
        return version
    enough = NEARLY * max(pairs.values(), default=0)
    return max((number for number, count in pairs.items() if count >= enough), default=None)


def load(services: Services, embedded: Sequence[Embedded], version: int) -> Embeddings:
    """All embeddings of a version; what is not finite, or of another width than the newest, is left out."""
    mine = {row.scoring_id: row.series_uid for row in embedded if row.model_version == version}
    vectors = services.ledger.curation.vectors(sorted(mine))
    width = len(vectors[max(vectors)]) if vectors else 0
    rows = {
        mine[scoring]: np.frombuffer(vector, dtype="<f4").astype(np.float64)
        for scoring, vector in vectors.items()
        if vector and len(vector) == width
    }
    ids = tuple(sorted(uid for uid, row in rows.items() if np.isfinite(row).all()))
    points = np.array([rows[uid] for uid in ids]).reshape(len(ids), width // 4)
    return Embeddings(version, ids, points - points.mean(axis=0) if len(ids) else points)
