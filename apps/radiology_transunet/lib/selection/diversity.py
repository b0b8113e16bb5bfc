"""Cases far from all that is labelled, and from each other."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lib.selection.arrays import BoolArray, FloatArray, IntArray, Keys
from lib.selection.config import SelectionConfig
from lib.selection.dealing import Quota
from lib.selection.draws import keys
from lib.selection.embeddings import Comparable, drawn_by_weight, nearest
from lib.selection.pool import Pool
from lib.selection.ranking import Ranking
from lib.selection.uncertainty import by_quantity

Method = Literal["k-center", "k-means++"]
NO_EMBEDDING = "no embedding to compare it by"


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Points chosen one after the other.

    Attributes:
        picks: (k,) their indices, in the order of choice.
        distances: (k,) from each, when it was chosen, to the nearest anchor or earlier pick; that of a first one
            without anchors is the largest distance from it to any point.
        neighbours: (k,) that nearest one: an anchor, or the number of anchors + place of the pick; -1 for a first one.
    """

    picks: IntArray
    distances: FloatArray
    neighbours: IntArray


def spread(points: FloatArray, anchors: FloatArray, hashes: Keys, count: int, method: Method) -> Spread:
    """Choose `count` points that cover the space, beginning from the anchors.

    Args:
        points: (n, d) to choose from, their mean at the origin.
        anchors: (a, d) that are covered already.
        hashes: (n,) that tie draws and the order of equal distances to the points.
        count: how many, at most n.
        method: "k-center" takes the farthest point (Gonzalez 1985; Sener & Savarese, ICLR 2018), without anchors first
            the one nearest to the mean; "k-means++" draws in proportion to squared distance.
    """
    squared, near = nearest(points, anchors)
    free = np.ones(len(points), dtype=np.bool_)
    picks, distances, neighbours = [], [], []
    for step in range(count):
        pick = _choice(points, squared, free, hashes, method, step)
        beside = nearest(points, points[[pick]])[0]
        picks.append(pick)
        distances.append(math.sqrt(squared[pick] if np.isfinite(squared[pick]) else beside.max()))
        neighbours.append(int(near[pick]))
        near = np.where(beside < squared, len(anchors) + step, near)
        squared = np.minimum(squared, beside)
        free[pick] = False
    return Spread(np.array(picks, dtype=np.int64), np.array(distances), np.array(neighbours, dtype=np.int64))


def _choice(points: FloatArray, squared: FloatArray, free: BoolArray, hashes: Keys, method: Method, step: int) -> int:
    covered = np.isfinite(squared).all()
    if method == "k-means++":
        weights = np.where(free, squared if covered else 1.0, 0.0)
        return drawn_by_weight(weights if weights.any() else free.astype(np.float64), hashes, f"spread {step}")
    values = squared if covered else -np.einsum("nd,nd->n", points, points)
    values = np.where(free, values, -np.inf)
    best = np.flatnonzero(values == values.max())
    return int(best[np.argmin(hashes[best])])


def diverse(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    """The first `depth` cases spread over the embeddings, beginning from the labelled ones; then by uncertainty."""
    space = Comparable.of(pool)
    return _spread_ranking(pool, space, np.arange(len(space)), seed, options)


def hybrid(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    """The most uncertain share of the scored cases spread over the embeddings, then by uncertainty."""
    behind, space = by_quantity(pool, seed, options), Comparable.of(pool)
    top = behind.order[: math.ceil(options.hybrid_share * int(np.isfinite(behind.scores).sum()))]
    return _spread_ranking(pool, space, np.flatnonzero(np.isin(space.cases, top)), seed, options)


def diverse_quota(pool: Pool, seed: int, options: SelectionConfig) -> Quota:
    """The spread cases as a quota; empty without embeddings."""
    ranking = diverse(pool, seed, options)
    order = ranking.order[: min(options.depth, len(Comparable.of(pool)))]
    return Quota("cases far from the labelled ones", 1.0, order, ranking.scores, ranking.reasons.__getitem__)


def _spread_ranking(pool: Pool, space: Comparable, among: IntArray, seed: int, options: SelectionConfig) -> Ranking:
    """The cases `among`, indices into the space, spread as far as `depth`; all others behind them by uncertainty."""
    behind, cases = by_quantity(pool, seed, options), space.cases[among]
    hashes = keys(pool.ids, seed)[cases]
    chosen = spread(space.points[among], space.anchors, hashes, min(options.depth, len(among)), options.spread)
    scores, reasons = behind.scores.copy(), [f"{NO_EMBEDDING}; {text}" for text in behind.reasons]
    for i in space.cases.tolist():
        reasons[i] = f"behind the {len(chosen.picks)} that were spread; {behind.reasons[i]}"
    first = cases[chosen.picks]
    for place, i in enumerate(first.tolist()):
        scores[i], reasons[i] = chosen.distances[place], _words(pool, space, first, chosen, place)
    rest = behind.order[~np.isin(behind.order, first)]
    return Ranking(np.concatenate([first, rest]), scores, tuple(reasons))


def _words(pool: Pool, space: Comparable, first: IntArray, chosen: Spread, place: int) -> str:
    near, distance = int(chosen.neighbours[place]), chosen.distances[place]
    if near < 0:
        return "a first case to spread from: nothing is labelled to compare it with"
    if near < len(space.anchors):
        return f"{distance:.3g} from the nearest labelled case, {space.anchor_ids[near]}"
    return f"{distance:.3g} from the nearest case, {pool.ids[first[near - len(space.anchors)]]}, which stands before it"
