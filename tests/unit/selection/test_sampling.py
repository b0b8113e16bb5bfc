"""Random orders that are fair to strata and to labels."""

from collections import Counter

import numpy as np
import pytest

from lib.selection.cases import Labelled
from lib.selection.pool import Pool
from lib.selection.strategies import STRATEGIES
from pools import OPTIONS, facts, order_of

stratified, foreground = STRATEGIES["stratified_random"], STRATEGIES["foreground_random"]


def sites_of(pool: Pool, seed: int) -> list[str]:
    return [pool.facts.sites[i] for i in stratified(pool, seed, OPTIONS).order]


def test_strata_take_turns() -> None:
    pool = Pool.of([f"case {i}" for i in range(10)], (), facts=facts("", "A A A A A A A B B C"))
    for seed in range(20):
        sites = sites_of(pool, seed)
        assert sorted(sites[:3]) == ["A", "B", "C"]
        assert sorted(sites[3:5]) == ["A", "B"]
        assert sites[5:] == ["A"] * 5


def test_scanner_and_protocol_part_strata_too() -> None:
    pool = Pool.of("abcdef", (), facts=facts("", "A A A A A A", "x x x y x x", "p p p p q q"))
    ranking = stratified(pool, 3, OPTIONS)
    assert {"d"} < set(order_of(ranking, pool)[:3])
    strata = pool.facts.strata()
    assert len({strata[i] for i in ranking.order[:3]}) == 3
    assert "turn 1 of site A, scanner y, protocol p (1 cases, 0 of them labelled)" in ranking.reasons[3]


def test_a_large_stratum_stands_in_front_in_proportion_to_its_size() -> None:
    pool = Pool.of([f"case {i}" for i in range(8)], (), facts=facts("", "A A A A A A B B"))
    firsts = Counter(sites_of(pool, seed)[0] for seed in range(1000))
    assert abs(firsts["A"] - 750) < 4.5 * np.sqrt(1000 * 0.75 * 0.25)


def test_labelled_cases_count_as_turns_so_that_a_list_made_anew_goes_on() -> None:
    ids, where = [f"case {i}" for i in range(8)], "A A A A A B B B"
    pool = Pool.of(ids, (), facts=facts("", where))
    first = int(stratified(pool, 1, OPTIONS).order[0])
    taken = pool.facts.sites[first]
    rest = [i for i in range(8) if i != first]
    labelled = Labelled.of([ids[first]], np.empty((1, 0)), facts=facts("", taken))
    later = Pool.of([ids[i] for i in rest], (), facts=pool.facts.take(rest), labelled=labelled)
    assert order_of(stratified(later, 1, OPTIONS), later) == order_of(stratified(pool, 1, OPTIONS), pool)[1:]
    assert sites_of(later, 1)[0] != taken


def test_a_label_is_drawn_first_and_then_a_case_that_shows_it() -> None:
    """Nine cases show the liver and one the cyst, which is first as often as the other nine together."""
    volumes = np.array([[1.0, 0.0]] * 9 + [[0.0, 2.5]])
    pool = Pool.of([f"case {i}" for i in range(10)], ("liver", "cyst"), volumes_ml=volumes)
    firsts = Counter(int(foreground(pool, seed, OPTIONS).order[0]) for seed in range(1000))
    assert abs(firsts[9] - 500) < 4.5 * np.sqrt(1000 * 0.25)
    assert all(abs(firsts[i] - 500 / 9) < 4.5 * np.sqrt(1000 / 18) for i in range(9))
    assert (
        foreground(pool, 0, OPTIONS)
        .reasons[9]
        .endswith("the label drawn is cyst, predicted here with 2.5 ml; the case is drawn at random")
    )


def test_cases_without_foreground_come_last_and_labels_never_predicted_are_never_drawn() -> None:
    volumes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    pool = Pool.of("abcd", ("liver", "never"), volumes_ml=volumes)
    for seed in range(10):
        ranking = foreground(pool, seed, OPTIONS)
        assert set(order_of(ranking, pool)[:2]) == {"b", "d"}
        assert "no label is predicted in it" in ranking.reasons[0]
        assert not any("never" in reason for reason in ranking.reasons)


@pytest.mark.parametrize("name", ["random", "stratified_random", "foreground_random"])
def test_scores_fall_along_the_order(name: str) -> None:
    pool = Pool.of([f"case {i}" for i in range(10)], ("liver",), volumes_ml=np.ones((10, 1)))
    ranking = STRATEGIES[name](pool, 4, OPTIONS)
    assert (np.diff(ranking.scores[ranking.order]) < 0).all()
    assert ranking.scores.min() > 0
    assert ranking.scores.max() <= 1


def test_labels_are_drawn_on_from_where_the_labelled_cases_ended() -> None:
    volumes = np.array([[1.0, 0.0], [0.0, 1.0]] * 10)
    pool = Pool.of([f"case {i}" for i in range(20)], ("liver", "cyst"), volumes_ml=volumes)
    before = order_of(foreground(pool, 2, OPTIONS), pool)
    rest = [i for i in range(20) if pool.ids[i] not in before[:3]]
    labelled = Labelled.of(before[:3], np.ones((3, 2)))
    later = Pool.of([pool.ids[i] for i in rest], pool.labels, volumes_ml=volumes[rest], labelled=labelled)
    assert order_of(foreground(later, 2, OPTIONS), later) == before[3:]
