"""Typical cases: by hand, and in turns of clusters."""

from dataclasses import replace

import numpy as np

from lib.selection.cases import Labelled
from lib.selection.pool import Pool
from lib.selection.strategies import STRATEGIES
from lib.selection.typicality import typicality
from pools import OPTIONS, line, order_of

typical = STRATEGIES["typical"]


def test_typicality_falls_with_the_mean_distance_to_the_neighbours() -> None:
    np.testing.assert_allclose(typicality(line([0, 1, 3]), 2), [1 / 3, 1 / 2.5, 1 / 3.5], atol=1e-7)
    np.testing.assert_allclose(typicality(line([0, 1, 3]), 1), [1 / 2, 1 / 2, 1 / 3], atol=1e-7)
    np.testing.assert_allclose(typicality(line([0, 1, 3]), 20), [1 / 3, 1 / 2.5, 1 / 3.5], atol=1e-7)
    np.testing.assert_array_equal(typicality(line([4]), 20), [0.0])
    np.testing.assert_allclose(typicality(line([4, 4]), 20), [1.0, 1.0])


POSITIONS = {"a": 0.0, "b": 1.0, "c": 3.0, "x": 50.0, "y": 52.0}


def pool(labelled: float | None = None) -> Pool:
    known = Labelled.of(["l"], np.empty((1, 0)), line([labelled])) if labelled is not None else None
    return Pool.of(POSITIONS, (), embeddings=line([*POSITIONS.values()]), labelled=known)


def test_the_largest_cluster_gives_its_most_typical_case_first() -> None:
    some = pool()
    ranking = typical(some, 1, replace(OPTIONS, clusters=2))
    order = order_of(ranking, some)
    assert order[0] == "b"
    assert order[1] in "xy"
    assert order[2] == "a"
    assert order[3] in "xy"
    assert order[4] == "c"
    assert ranking.reasons[1].endswith("typicality 0.4 in a cluster of 3 cases, 0 of them labelled")


def test_clusters_that_hold_a_label_wait() -> None:
    some = pool(labelled=1.5)
    ranking = typical(some, 1, replace(OPTIONS, clusters=1))  # and one for the labelled case
    order = order_of(ranking, some)
    assert order[0] in "xy"
    assert order[1] == "b"
    assert ranking.reasons[0].endswith("in a cluster of 4 cases, 1 of them labelled")


def test_a_single_cluster_is_ranked_by_typicality() -> None:
    some = Pool.of("abc", (), embeddings=line([0, 1, 3]))
    assert order_of(typical(some, 1, replace(OPTIONS, clusters=1)), some) == ["b", "a", "c"]
