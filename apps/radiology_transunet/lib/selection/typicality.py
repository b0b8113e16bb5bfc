"""Cases that stand for many others: what to label when hardly anything is."""

from collections import Counter

import numpy as np

from lib.selection.arrays import FloatArray, IntArray, Keys
from lib.selection.config import SelectionConfig
from lib.selection.dealing import Quota
from lib.selection.diversity import NO_EMBEDDING
from lib.selection.draws import keys
from lib.selection.embeddings import Comparable, k_means, mean_distance
from lib.selection.pool import Pool
from lib.selection.ranking import Ranking, descending
from lib.selection.uncertainty import by_quantity

MOST_CLUSTERS = 64


def typical(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    """Clusters take turns, each with its most typical case (TypiClust, Hacohen, Dekel & Weinshall, ICML 2022).

    Pool and labelled cases are clustered together, into one cluster for each labelled case and `clusters` more, at
    most 64. A cluster with k labelled cases has had k turns; within a turn the largest cluster gives first. Cases
    without an embedding to compare come last, by uncertainty.
    """
    space, behind = Comparable.of(pool), by_quantity(pool, seed, options)
    scores, reasons = np.full(len(pool), np.nan), [f"{NO_EMBEDDING}; {text}" for text in behind.reasons]
    order: list[int] = []
    if len(space):
        clusters, values = _clustered(pool, space, seed, options)
        order = _turns(space.cases, clusters, values, keys(pool.ids, seed))
        sizes, done = Counter(clusters.tolist()), Counter(clusters[len(space) :].tolist())
        for i, case in enumerate(space.cases.tolist()):
            cluster = int(clusters[i])
            scores[case] = values[i]
            reasons[case] = (
                f"typicality {values[i]:.3g} in a cluster of {sizes[cluster]} cases, {done[cluster]} of them labelled"
            )
    placed = set(order)
    order += [i for i in behind.order.tolist() if i not in placed]
    return Ranking(np.array(order, dtype=np.int64), scores, tuple(reasons))


def typical_quota(pool: Pool, seed: int, options: SelectionConfig) -> Quota:
    """The typical cases as a quota; empty without embeddings."""
    ranking = typical(pool, seed, options)
    order = ranking.order[: int(np.isfinite(ranking.scores).sum())]
    return Quota("typical", 1.0, order, ranking.scores, ranking.reasons.__getitem__)


def typicality(points: FloatArray, neighbours: int) -> FloatArray:
    """(n,) of each point of a cluster: 1 / (1 + mean distance to its nearest others); 0 for one that is alone.

    The paper takes the inverse of the mean distance, which has the same order but is infinite for equal points.
    """
    others = min(neighbours, len(points) - 1)
    if others < 1:
        return np.zeros(len(points))
    with_itself = mean_distance(points, points, others + 1)  # at distance 0, which the mean must not count
    return np.asarray(1.0 / (1.0 + with_itself * (others + 1) / others), dtype=np.float64)


def _clustered(pool: Pool, space: Comparable, seed: int, options: SelectionConfig) -> tuple[IntArray, FloatArray]:
    """Cluster (c + a,) of the comparable cases and of the labelled ones behind them, and typicality (c + a,)."""
    points = np.concatenate([space.points, space.anchors])
    ids = [*(pool.ids[i] for i in space.cases), *space.anchor_ids]
    count = min(len(space.anchors) + options.clusters, MOST_CLUSTERS)
    clusters = k_means(points, count, keys(ids, seed))
    values = np.zeros(len(points))
    for cluster in np.unique(clusters).tolist():
        members = clusters == cluster
        values[members] = typicality(points[members], options.typical_neighbours)
    return clusters, values


def _turns(cases: IntArray, clusters: IntArray, values: FloatArray, hashes: Keys) -> list[int]:
    """The cases in their order; those of `clusters` and `values` behind them are the labelled ones."""
    sizes = np.bincount(clusters)
    turn_of = np.bincount(clusters[len(cases) :], minlength=len(sizes))
    own, tie = clusters[: len(cases)], hashes[cases]
    turns = np.empty(len(cases), dtype=np.int64)
    for i in descending(values[: len(cases)], tie).tolist():
        turns[i] = turn_of[own[i]]
        turn_of[own[i]] += 1
    return [int(i) for i in cases[np.lexsort((tie, -sizes[own], turns))]]
