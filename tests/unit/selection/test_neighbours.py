"""The nearest labelled cases, and what far means by the labelled ones' own distances."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.selection import embeddings
from lib.selection.cases import Labelled
from lib.selection.embeddings import Comparable
from lib.selection.neighbours import FAR, k_nearest, own_distance, unlikeness
from lib.selection.pool import Pool
from pools import OPTIONS, line


def space(cases: list[float], labelled: list[float]) -> Comparable:
    ids = [f"l{i}" for i in range(len(labelled))]
    known = Labelled.of(ids, np.empty((len(ids), 0)), line(labelled))
    return Comparable.of(Pool.of([f"c{i}" for i in range(len(cases))], (), embeddings=line(cases), labelled=known))


def test_the_nearest_come_first_with_their_distances_and_of_equal_ones_the_first() -> None:
    distances, which = k_nearest(line([0.0, 10.0]), line([3.0, -1.0, 1.0, 9.0]), 3)
    np.testing.assert_allclose(distances, [[1, 1, 3], [1, 7, 9]])
    np.testing.assert_array_equal(which, [[1, 2, 0], [3, 0, 2]])
    distances, which = k_nearest(line([0.0]), line([5.0]), 3)
    np.testing.assert_array_equal(which, [[0]])
    assert k_nearest(line([0.0]), line([]), 3)[0].shape == (1, 0)
    assert k_nearest(line([]), line([1.0]), 3)[1].shape == (0, 1)


def test_equal_points_are_no_rounding_error_apart() -> None:
    points = np.random.default_rng(0).normal(1000.0, 1.0, (50, 64))
    distances, which = k_nearest(points, points, 1)
    np.testing.assert_array_equal(distances, np.zeros((50, 1)))
    np.testing.assert_array_equal(which[:, 0], np.arange(50))


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30), st.integers(1, 6))
def test_the_nearest_are_those_of_a_sorted_table(seed: int, cases: int, others: int, count: int) -> None:
    chance = np.random.default_rng(seed)
    points, labelled = chance.normal(size=(cases, 3)), chance.normal(size=(others, 3))
    distances, which = k_nearest(points, labelled, count)
    table = np.linalg.norm(points[:, None] - labelled, axis=2)
    np.testing.assert_allclose(distances, np.sort(table, axis=1)[:, :count], atol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(table, which, axis=1), distances, atol=1e-12)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(1).normal(size=(23, 4))
    whole = own_distance(points, 3), k_nearest(points, points[:7], 3)
    monkeypatch.setattr(embeddings, "BLOCK", 5)
    np.testing.assert_allclose(own_distance(points, 3), whole[0])
    np.testing.assert_array_equal(k_nearest(points, points[:7], 3)[1], whole[1][1])


def test_a_labelled_case_is_not_its_own_neighbour() -> None:
    np.testing.assert_allclose(own_distance(line([0.0, 1.0, 3.0, 3.0]), 2), [2.0, 1.5, 1.0, 1.0])
    np.testing.assert_allclose(own_distance(line([0.0, 4.0]), 5), [4.0, 4.0])
    assert own_distance(line([7.0]), 5).shape == (0,)


def test_far_is_what_is_further_than_the_labelled_cases_are_from_each_other() -> None:
    found = unlikeness(space([1.0, 20.0, 4.5], [0.0, 2.0, 4.0]), 1, replace(OPTIONS, rare_neighbours=2))
    np.testing.assert_allclose(found.usual, [2.0, 3.0, 3.0])
    np.testing.assert_allclose(found.distances, [1.0, 17.0, 1.5])
    np.testing.assert_allclose(found.shares, [0.0, 1.0, 0.0])
    assert found.outlying.tolist() == [False, True, False]
    assert found.scores.argmax() == 1
    np.testing.assert_array_equal(found.which[1], [2, 1])
    np.testing.assert_allclose(found.apart[1], [16.0, 18.0])


def test_of_one_labelled_case_nobody_knows_what_far_is() -> None:
    found = unlikeness(space([1.0, 20.0], [0.0]), 1, OPTIONS)
    assert np.isnan(found.shares).all()
    assert not found.outlying.any()
    np.testing.assert_allclose(found.distances, [1.0, 20.0])


def test_few_cases_like_the_labelled_ones_are_outlying_and_all_of_another_kind_are() -> None:
    chance = np.random.default_rng(2)
    labelled = chance.normal(size=(200, 5))

    def outlying(middle: float) -> float:
        cases = chance.normal(middle, 1.0, (300, 5))
        known = Labelled.of([f"l{i}" for i in range(200)], np.empty((200, 0)), labelled)
        pool = Pool.of([f"c{i}" for i in range(300)], (), embeddings=cases, labelled=known)
        return float(unlikeness(Comparable.of(pool), 1, OPTIONS).outlying.mean())

    assert outlying(0.0) < 2 * (1 - FAR)
    assert outlying(6.0) == 1.0


def test_the_order_of_the_cases_does_not_change_what_is_said_of_them() -> None:
    cases, labelled = [1.0, 20.0, 4.5, -3.0], [0.0, 2.0, 4.0, 11.0]
    one, other = (unlikeness(space(values, labelled), 1, OPTIONS) for values in (cases, cases[::-1]))
    np.testing.assert_allclose(one.distances, other.distances[::-1])
    np.testing.assert_allclose(one.scores, other.scores[::-1])
    np.testing.assert_array_equal(one.which, other.which[::-1])
