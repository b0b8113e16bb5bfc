"""Distances and clusters of embeddings, in memory that grows with the number of cases alone.

Distances are Euclidean, of the embeddings as they are handed over. Embeddings of different models have nothing in
common: those of one model are compared, the others count as missing. It is the model that covers most of the pool and
the labelled cases; the champion's as soon as it covers nearly as much.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lib.selection.arrays import BoolArray, FloatArray, IntArray, Keys, Vectors
from lib.selection.draws import uniform
from lib.selection.pool import NO_MODEL, Pool

BLOCK = 1024
"""Rows for which all distances are held at a time."""
ROUNDS = 50
"""At most, of k-means."""
NEARLY = 0.95
"""Of what another model covers: from there on the champion's embeddings are compared. A few cases may never get one."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparable:
    """The cases whose embeddings are of the model that covers most.

    Attributes:
        cases: (c,) their indices in the pool.
        points: (c, d) their embeddings.
        anchors: (a, d) embeddings of the labelled cases of the same model.
        anchor_ids: their ids.
        version: the model; NO_MODEL when no case has an embedding.
    """

    cases: IntArray
    points: FloatArray
    anchors: FloatArray
    anchor_ids: tuple[str, ...]
    version: int

    @classmethod
    def of(cls, pool: Pool) -> "Comparable":
        """The comparable ones of a pool; both sets moved by the same vector, which keeps the distances exact."""
        known, labelled = _known(pool.embeddings), pool.labelled
        known_labelled = _known(labelled.embeddings)
        counts = _counts(pool.embedded_by[known]), _counts(labelled.versions[known_labelled])
        both = {version: sum(count.get(version, 0) for count in counts) for version in counts[0]}
        version = covering(both, pool.champion)
        cases = np.flatnonzero(known & (pool.embedded_by == version)).astype(np.int64)
        anchors = np.flatnonzero(known_labelled & (labelled.versions == version))
        points = pool.embeddings[cases].astype(np.float64)
        middle = points.mean(axis=0) if len(points) else np.zeros(points.shape[1])
        points -= middle
        return cls(
            cases,
            points,
            labelled.embeddings[anchors] - middle if len(anchors) else np.empty((0, points.shape[1])),
            tuple(labelled.ids[i] for i in anchors.tolist()),
            version,
        )

    def __len__(self) -> int:
        return len(self.cases)


def covering(counts: Mapping[int, int], champion: int) -> int:
    """The version whose embeddings are compared; NO_MODEL without any.

    Args:
        counts: how many cases have an embedding, by version.
        champion: the version that serves.
    """
    most = max(counts.values(), default=0)
    if counts.get(champion, 0) >= NEARLY * most > 0:
        return champion
    return max((version for version, count in counts.items() if count == most), default=NO_MODEL)


def _counts(versions: IntArray) -> dict[int, int]:
    found, counts = np.unique(versions, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _known(embeddings: Vectors) -> BoolArray:
    if not embeddings.shape[1]:
        return np.zeros(len(embeddings), dtype=np.bool_)
    known: BoolArray = ~np.isnan(embeddings[:, 0])  # a row is NaN throughout or nowhere
    return known


def squared_blocks(points: FloatArray, others: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
    """Squared distances (block, n_others) of the points to all others, by blocks of rows."""
    norms = np.einsum("nd,nd->n", others, others)
    for start in range(0, len(points), BLOCK):
        rows = slice(start, start + BLOCK)
        block = points[rows]
        squared = np.einsum("nd,nd->n", block, block)[:, None] + norms - 2.0 * block @ others.T
        yield rows, np.maximum(squared, 0.0)


def nearest(points: FloatArray, others: FloatArray) -> tuple[FloatArray, IntArray]:
    """Squared distance (n,) of each point to the nearest of the others, and which one it is; inf, -1 without others."""
    squared, which = np.full(len(points), np.inf), np.full(len(points), -1, dtype=np.int64)
    if len(others):
        for rows, block in squared_blocks(points, others):
            which[rows] = block.argmin(axis=1)
            squared[rows] = block.min(axis=1)
    return squared, which


def mean_distance(points: FloatArray, others: FloatArray, count: int) -> FloatArray:
    """(n,) mean distance of each point to its `count` nearest of the others, or to all when there are fewer."""
    count = min(count, len(others))
    means = np.empty(len(points), dtype=np.float64)
    for rows, block in squared_blocks(points, others):
        means[rows] = np.sqrt(np.partition(block, count - 1, axis=1)[:, :count]).mean(axis=1)
    return means


def drawn_by_weight(weights: FloatArray, hashes: Keys, salt: str) -> int:
    """An index drawn with chances in proportion to the weights, and tied to the ids behind the hashes.

    The least of exponential times with those rates (Efraimidis & Spirakis 2006); all weights 0: each with equal chance.
    """
    times = -np.log(uniform(hashes, salt))
    with np.errstate(divide="ignore"):
        return int(np.argmin(times / weights if weights.any() else times))


def k_means(points: FloatArray, count: int, hashes: Keys) -> IntArray:
    """(n,) cluster of each point, by Lloyd's algorithm from k-means++ (Arthur & Vassilvitskii 2007).

    Written out because the result must depend on seed and points alone, not on the number of threads. A point that
    occurs more often is one centre only, so that there may be fewer clusters than `count`.
    """
    centres = points[[drawn_by_weight(np.ones(len(points)), hashes, "centre 0")]]
    squared = nearest(points, centres)[0]
    while len(centres) < count and squared.max() > 1e-12 * (1.0 + np.einsum("nd,nd->n", points, points).max()):
        pick = drawn_by_weight(squared, hashes, f"centre {len(centres)}")
        centres = np.concatenate([centres, points[[pick]]])
        squared = np.minimum(squared, nearest(points, centres[-1:])[0])
    clusters = nearest(points, centres)[1]
    for _ in range(ROUNDS):
        for cluster in np.unique(clusters).tolist():
            centres[cluster] = points[clusters == cluster].mean(axis=0)
        before, clusters = clusters, nearest(points, centres)[1]
        if np.array_equal(before, clusters):
            break
    return clusters
