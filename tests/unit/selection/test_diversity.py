"""Spreading over embeddings, by hand."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lib.selection.cases import Labelled
from lib.selection.draws import keys
from lib.selection.embeddings import k_means, mean_distance, nearest
from lib.selection.pool import Pool
from lib.selection.strategies import STRATEGIES
from pools import NAN, OPTIONS, line, order_of

diverse, hybrid = STRATEGIES["diverse"], STRATEGIES["hybrid"]


def pool_on_a_line(positions: list[float], entropies: list[float] | None = None, labelled: float | None = 0.0) -> Pool:
    ids = [f"case {position:g}" for position in positions]
    anchor = Labelled.of(["anchor"], [[True]], line([labelled])) if labelled is not None else None
    table = [[value] for value in entropies or [0.5] * len(ids)]
    return Pool.of(ids, ("liver",), quantities={"entropy": table}, embeddings=line(positions), labelled=anchor)


def test_the_farthest_case_from_all_that_is_labelled_or_ranked_comes_next() -> None:
    pool = pool_on_a_line([1, 4, 8.5, 10])
    ranking = diverse(pool, 1, OPTIONS)
    assert order_of(ranking, pool) == ["case 10", "case 4", "case 8.5", "case 1"]
    np.testing.assert_allclose(ranking.scores, [1, 4, 1.5, 10])
    assert [reason.split("seed 1: ")[1] for reason in ranking.reasons] == [
        "1 from the nearest labelled case, anchor",
        "4 from the nearest labelled case, anchor",
        "1.5 from the nearest case, case 10, which stands before it",
        "10 from the nearest labelled case, anchor",
    ]


def test_without_labels_the_spread_begins_in_the_middle() -> None:
    pool = pool_on_a_line([0, 4, 5, 11], labelled=None)
    ranking = diverse(pool, 1, OPTIONS)
    assert order_of(ranking, pool) == ["case 5", "case 11", "case 0", "case 4"]
    np.testing.assert_allclose(ranking.scores, [5, 1, 6, 6])
    assert "a first case to spread from" in ranking.reasons[2]


def test_behind_the_depth_cases_stand_by_uncertainty() -> None:
    pool = pool_on_a_line([1, 2, 3, 4], [0.3, 0.1, 0.9, 0.2])
    ranking = diverse(pool, 1, replace(OPTIONS, depth=1))
    assert order_of(ranking, pool) == ["case 4", "case 3", "case 1", "case 2"]
    assert "behind the 1 that were spread; mean entropy 0.900 nats" in ranking.reasons[2]


def test_k_means_plus_plus_draws_in_proportion_to_squared_distance() -> None:
    options = replace(OPTIONS, spread="k-means++")
    pool = pool_on_a_line([1, 2])
    firsts = Counter(order_of(diverse(pool, seed, options), pool)[0] for seed in range(500))
    assert abs(firsts["case 2"] - 400) < 4.5 * np.sqrt(500 * 0.8 * 0.2)
    begun = pool_on_a_line([1, 2], labelled=None)
    firsts = Counter(order_of(diverse(begun, seed, options), begun)[0] for seed in range(500))
    assert abs(firsts["case 2"] - 250) < 4.5 * np.sqrt(500 * 0.25)


@pytest.mark.parametrize("spread", ["k-center", "k-means++"])
def test_cases_that_lie_on_each_other_are_each_ranked_once(spread: str) -> None:
    pool = Pool.of(
        "abcd", (), embeddings=np.ones((4, 3)), labelled=Labelled.of(["x"], np.empty((1, 0)), np.ones((1, 3)))
    )
    ranking = diverse(pool, 1, replace(OPTIONS, spread=spread))
    assert sorted(order_of(ranking, pool)) == list("abcd")
    np.testing.assert_array_equal(ranking.scores, 0.0)


def test_hybrid_spreads_over_the_uncertain_ones_alone() -> None:
    pool = pool_on_a_line([1, 2.2, 3, 50, 4, 60], [0.9, 0.8, 0.7, 0.1, 0.2, NAN])
    ranking = hybrid(pool, 1, replace(OPTIONS, hybrid_share=0.6))
    assert order_of(ranking, pool) == ["case 3", "case 1", "case 2.2", "case 4", "case 50", "case 60"]
    assert "3 from the nearest labelled case, anchor" in ranking.reasons[2]
    assert "behind the 3 that were spread; mean entropy 0.200" in ranking.reasons[4]


def test_without_embeddings_what_is_uncertain_comes_first_and_the_reason_says_why() -> None:
    pool = Pool.of("abc", ("liver",), quantities={"entropy": [[0.1], [0.9], [NAN]]})
    for strategy in (diverse, hybrid, STRATEGIES["typical"]):
        ranking = strategy(pool, 1, OPTIONS)
        assert order_of(ranking, pool) == ["b", "a", "c"]
        assert all("no embedding to compare it by; " in reason for reason in ranking.reasons)


def test_distances_are_those_of_the_definition_in_blocks_too() -> None:
    chance = np.random.default_rng(0)
    points, others = chance.normal(size=(1500, 3)), chance.normal(size=(7, 3))
    table = np.linalg.norm(points[:, None] - others, axis=2)
    squared, which = nearest(points, others)
    np.testing.assert_allclose(np.sqrt(squared), table.min(axis=1), atol=1e-7)
    np.testing.assert_array_equal(which, table.argmin(axis=1))
    np.testing.assert_allclose(mean_distance(points, others, 3), np.sort(table, axis=1)[:, :3].mean(axis=1), atol=1e-7)
    np.testing.assert_allclose(mean_distance(points, others, 99), table.mean(axis=1), atol=1e-7)
    assert np.isinf(nearest(points, others[:0])[0]).all()


def test_k_means_finds_clusters_that_lie_apart() -> None:
    chance = np.random.default_rng(1)
    centres = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    truth = np.repeat([0, 1, 2], 30)
    points = centres[truth] + chance.normal(size=(90, 2))
    clusters = k_means(points, 3, keys([str(i) for i in range(90)], 0))
    assert len({(a, b) for a, b in zip(truth.tolist(), clusters.tolist(), strict=True)}) == 3
    assert len(set(clusters.tolist())) == 3


def test_k_means_makes_no_more_clusters_than_there_are_places() -> None:
    points = line([0, 0, 0, 5, 5])
    assert k_means(points, 4, keys("abcde", 0)).max() == 1
    assert k_means(points[:1], 3, keys("a", 0)).tolist() == [0]
