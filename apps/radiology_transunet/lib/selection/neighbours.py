"""The nearest labelled cases of each case, and how far the labelled ones are from each other: what "far" means.

A rank among the pool finds the strangest case of any pool, also of one that is not strange at all. So the yardstick is
the labelled cases themselves: how far each of them is from the others of them.
"""

from dataclasses import dataclass

import numpy as np

from lib.selection.arrays import BoolArray, FloatArray, IntArray
from lib.selection.config import SelectionConfig
from lib.selection.embeddings import Comparable, squared_blocks
from lib.selection.rarity import novelty

FAR = 0.95
"""Share of the labelled cases that are nearer to their own neighbours, from which on a case counts as outlying."""


@dataclass(frozen=True, slots=True, eq=False)
class Unlikeness:
    """How unlike the labelled cases (a) each comparable case (c) is.

    Attributes:
        scores: (c,) 0 to 1, larger = more unlike, as `rare` ranks them.
        distances: (c,) mean distance to the k nearest labelled cases.
        usual: (a,) the same of each labelled case to the others, ascending; empty when one alone is labelled.
        which: (c, k) the nearest labelled cases, the nearest first.
        apart: (c, k) their distances.
    """

    scores: FloatArray
    distances: FloatArray
    usual: FloatArray
    which: IntArray
    apart: FloatArray

    @property
    def shares(self) -> FloatArray:
        """(c,) share of the labelled cases that are nearer to the others than this one is; NaN where nobody knows."""
        if not len(self.usual):
            return np.full(len(self.distances), np.nan)
        return np.searchsorted(self.usual, self.distances, side="left") / len(self.usual)

    @property
    def outlying(self) -> BoolArray:
        """(c,) whether the share is at least `FAR`; nothing is where nobody knows."""
        found: BoolArray = self.shares >= FAR
        return found


def unlikeness(space: Comparable, seed: int, options: SelectionConfig) -> Unlikeness:
    """Of every case of a space that has labelled ones.

    Args:
        space: cases and labelled ones of one model.
        seed: of the mixture that `scores` come from.
        options: `rare_neighbours` is k; fewer where fewer are labelled.
    """
    apart, which = k_nearest(space.points, space.anchors, options.rare_neighbours)
    return Unlikeness(
        novelty(space, seed, options),
        apart.mean(axis=1),
        np.sort(own_distance(space.anchors, options.rare_neighbours)),
        which,
        apart,
    )


def k_nearest(points: FloatArray, others: FloatArray, count: int) -> tuple[FloatArray, IntArray]:
    """Distances (n, k) of the points to the k nearest of the others, and which those are; the nearest first.

    k is `count`, or all of the others when they are fewer. Of equally far ones the first of the others comes first;
    where only some of them are among the k, they are any.
    """
    count = min(count, len(others))
    distances, which = np.empty((len(points), count)), np.empty((len(points), count), dtype=np.int64)
    for rows, block in squared_blocks(points, others) if count else ():
        found = np.sort(np.argpartition(block, count - 1, axis=1)[:, :count], axis=1)
        exact = np.linalg.norm(points[rows, None] - others[found], axis=2)  # (block, k): equal points are 0 apart
        order = np.argsort(exact, axis=1, kind="stable")
        distances[rows] = np.take_along_axis(exact, order, axis=1)
        which[rows] = np.take_along_axis(found, order, axis=1)
    return distances, which


def own_distance(points: FloatArray, count: int) -> FloatArray:
    """(n,) mean distance of each point to its `count` nearest among the other points; empty for a single one."""
    count = min(count, len(points) - 1)
    if count < 1:
        return np.empty(0)
    means = np.empty(len(points))
    for rows, block in squared_blocks(points, points):
        own = np.arange(len(block))
        block[own, own + rows.start] = np.inf
        means[rows] = np.sqrt(np.partition(block, count - 1, axis=1)[:, :count]).mean(axis=1)
    return means
