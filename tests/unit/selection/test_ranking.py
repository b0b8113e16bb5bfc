"""A ranking depends on the cases and the seed alone."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.core.errors import InvalidInput
from lib.selection.ranking import Ranking, by_mean, random_order

IDS = ["a", "b", "c", "d", "e"]
NAN = math.nan

pools = st.lists(st.text(min_size=1), min_size=1, max_size=12, unique=True)
values = st.one_of(st.just(NAN), st.sampled_from((0.0, 0.25, 0.5)), st.floats(0, 1.1))


def ordered(ranking: Ranking, ids: list[str]) -> list[str]:
    return [case for case, _, _ in ranking.ranked(ids)]


def test_the_least_certain_case_comes_first() -> None:
    scores = np.array([[0.1, 0.3], [0.9, 0.7], [0.5, NAN], [NAN, NAN], [0.0, 0.0]])
    ranking = by_mean(IDS, scores, seed=1, labels=("liver", "spleen"))
    assert ordered(ranking, IDS) == ["b", "c", "a", "e", "d"]
    np.testing.assert_allclose(ranking.scores, [0.2, 0.8, 0.5, NAN, 0.0])
    assert ranking.reasons == (
        "mean entropy 0.200 nats over 2 labels, highest in spleen (0.300)",
        "mean entropy 0.800 nats over 2 labels, highest in liver (0.900)",
        "mean entropy 0.500 nats over 1 label, highest in liver (0.500)",
        "never scored: no model has seen it",
        "mean entropy 0.000 nats over 2 labels, highest in liver (0.000)",
    )


def test_what_is_not_finite_counts_as_no_value() -> None:
    ranking = by_mean(["a", "b"], np.array([[math.inf, 0.1], [-math.inf, NAN]]), seed=0)
    assert ordered(ranking, ["a", "b"]) == ["a", "b"]
    np.testing.assert_array_equal(ranking.scores, [0.1, NAN])


def test_never_scored_cases_come_last_even_behind_certain_ones() -> None:
    ids = [f"case {i}" for i in range(50)]
    scores = np.full((50, 3), NAN)
    scores[17] = 0.0
    assert ordered(by_mean(ids, scores, seed=5), ids)[0] == "case 17"
    assert np.isnan(by_mean(ids, scores, seed=5).scores).sum() == 49


@given(pools, st.integers(0, 2**63), st.randoms(use_true_random=False), st.data())
def test_permuting_the_pool_does_not_change_the_ranking(
    ids: list[str], seed: int, chance: object, data: object
) -> None:
    rows = {case: [data.draw(values) for _ in range(2)] for case in ids}
    turned = list(ids)
    chance.shuffle(turned)
    first = by_mean(ids, np.array([rows[case] for case in ids]), seed)
    second = by_mean(turned, np.array([rows[case] for case in turned]), seed)
    assert ordered(first, ids) == ordered(second, turned)
    assert ordered(random_order(ids, seed), ids) == ordered(random_order(turned, seed), turned)


def test_equal_scores_are_ordered_by_the_seed_not_by_place() -> None:
    ids = [f"case {i}" for i in range(20)]
    equal = np.full((20, 1), 0.5)
    first, second = (ordered(by_mean(ids, equal, seed), ids) for seed in (1, 2))
    assert first != second
    assert first != ids
    assert sorted(first) == sorted(second) == sorted(ids)


def test_a_case_that_joins_does_not_move_the_others() -> None:
    before = ordered(random_order(IDS, 3), IDS)
    more = [*IDS, "f", "g"]
    assert [case for case in ordered(random_order(more, 3), more) if case in IDS] == before


def test_a_draw_is_the_same_on_every_machine() -> None:
    assert ordered(random_order(IDS, 0), IDS) == ["c", "d", "a", "b", "e"]


def test_every_case_has_the_same_chance_to_be_first() -> None:
    firsts = [ordered(random_order(IDS, seed), IDS)[0] for seed in range(5000)]
    for case in IDS:
        assert abs(firsts.count(case) - 1000) < 4 * math.sqrt(5000 * 0.2 * 0.8)


def test_random_scores_fall_along_the_order() -> None:
    scores = [score for _, score, _ in random_order(IDS, 9).ranked(IDS)]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    assert random_order(IDS, 9).reasons[0] == "drawn at random (seed 9)"


def test_an_empty_pool_gives_an_empty_ranking() -> None:
    assert random_order([], 1).ranked([]) == []
    assert by_mean([], np.empty((0, 3)), 1).ranked([]) == []


def test_wrong_pools_are_refused_with_the_reason() -> None:
    with pytest.raises(InvalidInput, match="got twice: b"):
        random_order(["a", "b", "b"], 1)
    with pytest.raises(InvalidInput, match=r"\(2 cases, 2 labels\), got shape \(2, 3\)"):
        by_mean(["a", "b"], np.zeros((2, 3)), 1, ("x", "y"))
    with pytest.raises(InvalidInput, match=r"\(1 cases, any number of labels\)"):
        by_mean(["a"], np.zeros((2, 3)), 1)
    with pytest.raises(InvalidInput, match="of 5 cases, got 2 ids"):
        random_order(IDS, 1).ranked(["a", "b"])


@pytest.mark.parametrize(("order", "scores"), [([0, 0], [1, 2]), ([0], [1, 2]), ([0, 1], [1])])
def test_a_ranking_is_an_order_of_its_cases(order: list[int], scores: list[float]) -> None:
    with pytest.raises(InvalidInput, match="names each index once"):
        Ranking(np.array(order), np.array(scores), ("x", "y"))


def test_a_ranking_cannot_be_changed() -> None:
    ranking = random_order(IDS, 1)
    with pytest.raises(ValueError, match="read-only"):
        ranking.order[0] = 3
