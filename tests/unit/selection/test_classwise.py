"""Class-wise power sampling: its formula, its schedule, its quotas."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lib.selection.cases import Labelled
from lib.selection.classwise import classwise_quotas, label_weights, power, rare_labels
from lib.selection.pool import Pool
from lib.selection.strategies import STRATEGIES
from lib.selection.uncertainty import label_uncertainty
from pools import NAN, OPTIONS, order_of

GREEDY = replace(OPTIONS, power_first=1e12, power_last=1e12, entropy_share=0.0, patient_cap=0, site_cap=1.0)
classwise = STRATEGIES["classwise_power"]


def test_uncertainty_of_a_label_is_weighed_by_its_probability() -> None:
    pool = Pool.of(
        [str(i) for i in range(6)],
        ("liver",),
        quantities={"entropy": [[0.5], [NAN], [0.5], [NAN], [NAN], [NAN]]},
        presence=[[0.8], [0.3], [NAN], [NAN], [0.0], [1.0]],
    )
    hidden = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7)) * 0.3
    np.testing.assert_allclose(label_uncertainty(pool, "entropy")[:, 0], [0.4, hidden, 0.5, NAN, 0.0, 0.0])


def test_beta_grows_exponentially_with_the_labelled_cases() -> None:
    options = replace(OPTIONS, power_first=1.0, power_last=100.0, power_cases=50)
    np.testing.assert_allclose([power(n, options) for n in (0, 25, 50, 900)], [1.0, 10.0, 100.0, 100.0])


@pytest.mark.parametrize("seed", range(3))
def test_without_noise_a_label_ranks_by_its_uncertainty(seed: int) -> None:
    values = np.random.default_rng(seed).random((40, 1))
    pool = Pool.of([f"case {i}" for i in range(40)], ("liver",), quantities={"entropy": values})
    assert classwise(pool, seed, GREEDY).order.tolist() == np.argsort(-values[:, 0]).tolist()


def test_with_beta_one_a_case_is_first_in_proportion_to_its_uncertainty() -> None:
    pool = Pool.of("abc", ("liver",), quantities={"entropy": [[0.1], [0.3], [0.6]]})
    options = replace(GREEDY, power_first=1.0, power_last=1.0)
    firsts = Counter(order_of(classwise(pool, seed, options), pool)[0] for seed in range(500))
    for case, share in (("a", 0.1), ("b", 0.3), ("c", 0.6)):
        assert abs(firsts[case] - 500 * share) < 4.5 * math.sqrt(500 * share * (1 - share))


def test_labels_draw_their_noise_apart() -> None:
    pool = Pool.of([str(i) for i in range(30)], ("liver", "cyst"), quantities={"entropy": np.full((30, 2), 0.5)})
    quotas = classwise_quotas(pool, 1, replace(GREEDY, power_first=1.0, power_last=1.0))
    assert quotas[1].order.tolist() != quotas[2].order.tolist()


def test_rare_labels_have_larger_quotas() -> None:
    labelled = Labelled.of(["x", "y", "z"], [[1, 0, 0], [1, 0, 1], [1, 0, 0]])
    pool = Pool.of(
        "a", ("liver", "cyst", "vein"), rare=("cyst",), quantities={"entropy": [[1.0] * 3]}, labelled=labelled
    )
    np.testing.assert_allclose(label_weights(pool, replace(OPTIONS, rare_weight=2.0)), [1, 2 / math.sqrt(0.25), 2**0.5])
    quotas = classwise_quotas(pool, 1, replace(OPTIONS, entropy_share=0.4, rare_weight=2.0))
    shares = [quota.share for quota in quotas]
    np.testing.assert_allclose(shares, [0.4, *(0.6 * np.array([1, 4, 2**0.5]) / (5 + 2**0.5))])
    assert [quota.name for quota in quotas] == ["plain entropy", "liver", "cyst", "vein"]


def test_a_label_is_rare_when_the_task_says_so_or_few_labelled_cases_hold_it() -> None:
    presence = [[1, 0, 1, 0]] * 5 + [[1, 0, 0, 1]] * 5
    labels, labelled = ("liver", "cyst", "vein", "duct"), Labelled.of([str(i) for i in range(10)], presence)
    pool = Pool.of("a", labels, rare=("duct",), labelled=labelled)
    assert rare_labels(pool, replace(OPTIONS, rare_below=0.2)) == [1, 3]
    assert rare_labels(Pool.of("a", labels, rare=("duct",)), OPTIONS) == [3]


def test_a_label_that_nothing_is_known_of_has_no_quota() -> None:
    entropy = np.column_stack([np.linspace(0.1, 0.9, 20), np.full(20, NAN)])
    pool = Pool.of([f"case {i:02d}" for i in range(20)], ("liver", "never"), quantities={"entropy": entropy})
    assert [quota.share for quota in classwise_quotas(pool, 1, GREEDY)] == [0.0, 1.0, 0.0]
    ranking = classwise(pool, 1, GREEDY)
    assert order_of(ranking, pool) == sorted(pool.ids, reverse=True)
    assert not any("never" in reason for reason in ranking.reasons)


def test_a_rare_label_that_the_model_almost_saw_is_looked_for() -> None:
    """Nothing is predicted as cyst; case g has the largest probability of one."""
    presence = np.column_stack([np.ones(8), [0.01, 0.02, 0.01, 0.03, 0.01, 0.02, 0.35, 0.01]])
    entropy = np.column_stack([np.linspace(0.5, 0.4, 8), np.full(8, NAN)])
    pool = Pool.of("abcdefgh", ("liver", "cyst"), rare=("cyst",), quantities={"entropy": entropy}, presence=presence)
    ranking = classwise(pool, 1, GREEDY)
    assert "g" in order_of(ranking, pool)[:2]
    assert "quota of cyst: drawn by its uncertainty of cyst" in ranking.reasons[6]


def test_a_share_goes_by_plain_uncertainty() -> None:
    entropy = np.random.default_rng(1).random((60, 2))
    pool = Pool.of([f"case {i}" for i in range(60)], ("liver", "vein"), quantities={"entropy": entropy})
    ranking = classwise(pool, 1, replace(OPTIONS, entropy_share=0.34, site_cap=1.0))
    plain = sum("quota of plain entropy" in ranking.reasons[i] for i in ranking.order[:50])
    assert abs(plain - 17) <= 1
