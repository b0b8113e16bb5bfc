import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.training.weights import DECAY, HIGHEST, RunningDice, company, effective_number, label_weights, lag


def test_the_effective_number_of_samples_equals_the_formula() -> None:
    # beta = 9 / 10: (1 - 0.9^n) / 0.1
    assert effective_number([1, 2, 10], 10) == pytest.approx([1.0, 1.9, 10 * (1 - 0.9**10)])
    assert effective_number([1], 1).tolist() == [1.0]


def test_samples_that_repeat_each_other_add_less_and_less() -> None:
    gained = np.diff(effective_number(range(1, 101), 100))
    assert (np.diff(gained) < 0).all()
    assert effective_number([100], 100)[0] < 64


def test_a_label_lags_by_what_its_dice_misses_over_what_the_others_miss() -> None:
    assert lag(RunningDice((0.9, 0.7, None))) == pytest.approx([0.5, 1.5, 1.0])
    assert lag(RunningDice((1.0, 1.0))) == pytest.approx([1.0, 1.0])
    assert lag(RunningDice((None, None))).tolist() == [1.0, 1.0]


def test_the_running_dice_moves_only_where_a_batch_shows_the_label() -> None:
    first = RunningDice.of(3).after([0.5, 0.25, 0.0], [True, True, False])
    assert first.values == (0.5, 0.25, None)
    second = first.after([1.0, 0.9, 0.9], [True, False, True])
    assert second.values == pytest.approx((DECAY * 0.5 + (1 - DECAY), 0.25, 0.9))


def test_rare_labels_weigh_more_and_common_ones_as_without_weights() -> None:
    common, rare = 10 * (1 - 0.9**10), 10 * (1 - 0.9**8)
    assert label_weights([10, 10, 8], 10, RunningDice.of(3)) == pytest.approx([1, 1, common / rare])
    assert label_weights([100, 100, 2], 100, RunningDice.of(3)) == pytest.approx([1, 1, HIGHEST])


def test_of_two_labels_as_frequent_the_lagging_one_weighs_more() -> None:
    assert label_weights([5, 5], 10, RunningDice((0.9, 0.85))) == pytest.approx([1, 1.2])  # the median of 0.8 and 1.2


def test_a_label_that_never_occurs_weighs_one_and_changes_no_other() -> None:
    running = RunningDice((0.9, None, 0.7))
    weights = label_weights([5, 0, 3], 10, running)
    assert weights[1] == 1.0
    assert weights[[0, 2]] == pytest.approx(label_weights([5, 3], 10, RunningDice((0.9, 0.7))))
    assert label_weights([0, 0], 10, RunningDice.of(2)).tolist() == [1.0, 1.0]


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), min_size=1, max_size=12))
def test_weights_are_bounded_and_half_of_the_labels_weigh_one(labels: list[tuple[int, float]]) -> None:
    counts, dice = zip(*labels, strict=True)
    weights = label_weights(counts, 50, RunningDice(dice))
    assert weights.min() >= 1
    assert weights.max() <= HIGHEST
    assert (weights == 1).sum() * 2 >= len(labels)


def test_a_rare_label_is_one_among_all_and_hardly_counts_for_the_common_ones() -> None:
    assert company([20, 10, 1]) == pytest.approx(np.array([[1, 0.5, 0.05], [1, 1, 0.1], [1, 1, 1]]))
    assert company([7, 7]).tolist() == [[1, 1], [1, 1]]
    assert company([5, 0])[0].tolist() == [1, 0.2]  # one that never occurs is never shown either
