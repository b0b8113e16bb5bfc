"""Rare labels and cases unlike the labelled ones."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from lib.selection.cases import Labelled
from lib.selection.draws import keys
from lib.selection.embeddings import Comparable
from lib.selection.mixture import Mixture, fit_mixture, log_density, principal_axes
from lib.selection.pool import Pool
from lib.selection.rarity import evidence, novelty, novelty_quotas, percentile, presence_quotas
from lib.selection.strategies import STRATEGIES
from pools import NAN, OPTIONS, line, order_of

rare = STRATEGIES["rare"]


def test_probability_and_volume_speak_for_a_label() -> None:
    np.testing.assert_allclose(
        evidence(np.array([0.0, 1.0, 3.0, 0.0]), np.array([0.4, 0.9, NAN, NAN])), [0.4, 0.9 + 1 / 3, 1 + 3 / 5, 0.0]
    )
    np.testing.assert_array_equal(evidence(np.zeros(2), np.array([0.2, 0.7])), [0.2, 0.7])


def test_a_percentile_is_the_share_that_is_exceeded() -> None:
    np.testing.assert_allclose(percentile(np.array([2.0, 1.0, 5.0, 2.0])), [0.5, 0.125, 0.875, 0.5])


def pool_with_cysts() -> Pool:
    """Five cases; c shows most cyst, then e; the others hardly any. d is unlike the labelled cases."""
    return Pool.of(
        "abcde",
        ("liver", "cyst"),
        rare=("cyst",),
        volumes_ml=[[9.0, 0.0], [9.0, 0.0], [9.0, 3.0], [9.0, 0.0], [9.0, 1.0]],
        presence=[[1.0, 0.05], [1.0, 0.02], [1.0, 0.95], [1.0, 0.01], [1.0, 0.9]],
        embeddings=line([1.0, 2.0, 1.5, 30.0, 0.5]),
        labelled=Labelled.of(["l0", "l1", "l2"], [[1, 0], [1, 1], [1, 0]], line([0.0, 1.0, 2.0])),
    )


def test_cases_that_seem_to_show_a_rare_label_come_by_evidence() -> None:
    pool = pool_with_cysts()
    ranking = rare(pool, 1, replace(OPTIONS, presence_share=1.0))
    assert order_of(ranking, pool)[:2] == ["c", "e"]
    assert (
        "quota of the rare label cyst: probability 0.95, 3 ml predicted; 1 of 3 labelled cases hold it"
        in (ranking.reasons[2])
    )


def test_cases_unlike_the_labelled_ones_come_with_their_nearest_neighbour() -> None:
    pool = pool_with_cysts()
    ranking = rare(pool, 1, replace(OPTIONS, presence_share=0.0))
    assert order_of(ranking, pool)[0] == "d"
    assert (
        "unlike the labelled ones: further from the labelled cases than 90 % of the pool; the nearest of them is l2"
        in (ranking.reasons[3])
    )


def test_novelty_is_the_mean_of_a_percentile_of_distance_and_one_of_density() -> None:
    """The labelled cases lie along x: r is the farthest from them, s the least likely."""
    pool = Pool.of(
        "pqrs",
        (),
        embeddings=[[5.0, 0.0], [0.0, 5.0], [14.0, 0.0], [0.0, 9.0]],  # mean distances 8.3, 9.1, 14, 12
        labelled=Labelled.of("klm", np.empty((3, 0)), [[-10.0, 0.0], [0.0, 0.0], [10.0, 0.0]]),
    )
    values = novelty(Comparable.of(pool), 1, replace(OPTIONS, rare_neighbours=3))
    np.testing.assert_allclose(values, [0.125, (0.375 + 0.625) / 2, (0.875 + 0.375) / 2, (0.625 + 0.875) / 2])


def test_presence_and_novelty_have_their_quotas() -> None:
    chance = np.random.default_rng(0)
    count = 100
    pool = Pool.of(
        [f"case {i}" for i in range(count)],
        ("cyst",),
        rare=("cyst",),
        volumes_ml=np.ones((count, 1)),
        presence=chance.random((count, 1)),
        embeddings=chance.normal(size=(count, 3)),
        labelled=Labelled.of(["l"], [[True]], np.zeros((1, 3))),
    )
    ranking = rare(pool, 1, replace(OPTIONS, presence_share=0.6))
    first = [ranking.reasons[i] for i in ranking.order[:40]]
    assert abs(sum("the rare label cyst" in reason for reason in first) - 24) <= 1
    assert abs(sum("unlike the labelled" in reason for reason in first) - 16) <= 1


def test_rare_labels_share_by_how_rare_they_are_and_one_that_nothing_shows_has_no_case() -> None:
    labelled = Labelled.of(["x", "y", "z"], [[0, 0], [1, 0], [0, 0]])
    pool = Pool.of(
        "ab", ("cyst", "never"), rare=("cyst", "never"), presence=[[0.5, 0.05], [0.2, 0.0]], labelled=labelled
    )
    quotas = presence_quotas(pool, 1, replace(OPTIONS, presence_share=0.6, presence_min=0.1))
    assert [quota.order.tolist() for quota in quotas] == [[0, 1], []]
    np.testing.assert_allclose([quota.share for quota in quotas], 0.6 * np.array([1, 2**0.5]) / (1 + 2**0.5))


def test_without_labelled_embeddings_nothing_is_unlike_them() -> None:
    pool = Pool.of("ab", ("liver",), quantities={"entropy": [[0.1], [0.9]]}, embeddings=line([0, 5]))
    assert novelty_quotas(pool, 1, OPTIONS) == []
    assert order_of(rare(pool, 1, OPTIONS), pool) == ["b", "a"]


def test_one_component_has_the_mean_and_the_variance_of_its_points() -> None:
    points = np.random.default_rng(0).normal([1, -2], [1, 3], (400, 2))
    mixture = fit_mixture(points, 1, np.ones(2), keys([str(i) for i in range(400)], 0))
    np.testing.assert_allclose(mixture.means, [points.mean(axis=0)])
    np.testing.assert_allclose(mixture.variances, [points.var(axis=0)])
    np.testing.assert_allclose(mixture.weights, [1.0])


def test_two_clusters_become_two_components() -> None:
    chance = np.random.default_rng(0)
    points = np.concatenate([chance.normal(-5, 1, (300, 1)), chance.normal(5, 0.5, (100, 1))])
    mixture = fit_mixture(points, 2, np.ones(1), keys([str(i) for i in range(400)], 0))
    by_mean = np.argsort(mixture.means[:, 0])
    np.testing.assert_allclose(mixture.weights[by_mean], [0.75, 0.25], atol=1e-6)
    np.testing.assert_allclose(mixture.means[by_mean, 0], [-5, 5], atol=0.2)
    np.testing.assert_allclose(mixture.variances[by_mean, 0], [1, 0.25], atol=0.15)


def test_a_density_is_that_of_the_normal_distributions() -> None:
    mixture = Mixture(np.array([0.3, 0.7]), np.array([[0.0], [4.0]]), np.array([[1.0], [4.0]]))
    at = np.array([-1.0, 0.0, 2.5])
    expected = 0.3 * norm.pdf(at, 0, 1) + 0.7 * norm.pdf(at, 4, 2)
    np.testing.assert_allclose(np.exp(log_density(mixture, at[:, None])), expected)


def test_components_never_become_points() -> None:
    mixture = fit_mixture(np.zeros((3, 2)), 2, np.array([1.0, 0.0]), keys("abc", 0))
    np.testing.assert_allclose(mixture.variances, [[0.1, 1e-12]])
    assert np.isfinite(log_density(mixture, np.zeros((1, 2)))).all()


@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_first_axis_is_that_of_the_largest_spread(count: int) -> None:
    points = np.outer(np.random.default_rng(0).normal(size=50), [3.0, 4.0]) / 5 + [7, 7]
    axes = principal_axes(points, count)
    assert axes.shape == (2, min(count, 2))
    np.testing.assert_allclose(np.abs(axes[:, 0]), [0.6, 0.8])
