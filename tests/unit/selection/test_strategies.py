"""What holds for every strategy, whatever the pool."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.selection.cases import Labelled
from lib.selection.classwise import classwise_quotas
from lib.selection.config import SAMPLED
from lib.selection.pool import QUANTITIES, Pool
from lib.selection.strategies import STRATEGIES
from lib.selection.uncertainty import WORDS
from pools import NAN, OPTIONS, order_of, random_pool

EVERY = pytest.mark.parametrize("name", STRATEGIES)
BY_EMBEDDING = ("diverse", "hybrid", "typical", "rare")
pools = st.builds(
    random_pool, st.integers(0, 2**32), st.integers(1, 14), st.integers(0, 5), st.sampled_from((0.0, 0.3, 0.9, 1.0))
)


def test_the_strategies_are_those_that_were_announced() -> None:
    assert set(STRATEGIES) == {
        *("default", "random", "stratified_random", "foreground_random", "entropy", "bald", "margin", "disagreement"),
        *("classwise_power", "diverse", "hybrid", "typical", "rare"),
    }
    assert all(name == strategy.name and len(strategy.describe) > 20 for name, strategy in STRATEGIES.items())


@EVERY
@settings(max_examples=20, deadline=None)
@given(pool=pools, seed=st.integers(0, 2**63), data=st.data())
def test_the_order_depends_on_cases_and_seed_alone(name: str, pool: Pool, seed: int, data: st.DataObject) -> None:
    first = STRATEGIES[name](pool, seed, OPTIONS)
    turned = pool.take(data.draw(st.permutations(range(len(pool)))))
    second = STRATEGIES[name](turned, seed, OPTIONS)
    assert sorted(first.order.tolist()) == list(range(len(pool)))
    np.testing.assert_equal(first.ranked(pool.ids), second.ranked(turned.ids))
    assert not np.isinf(first.scores).any()


@EVERY
def test_every_row_names_strategy_rank_and_seed_and_a_reason(name: str) -> None:
    pool = random_pool(3)
    ranking = STRATEGIES[name](pool, 7, OPTIONS)
    for rank, i in enumerate(ranking.order, start=1):
        start = f"{name}, rank {rank} of 12, seed 7: "
        assert ranking.reasons[i].startswith(start)
        assert len(ranking.reasons[i]) > len(start) + 10


@EVERY
def test_an_empty_pool_gives_an_empty_ranking(name: str) -> None:
    labelled = random_pool(1).labelled
    for pool in (Pool.of((), ("a", "b", "never"), embeddings=np.empty((0, 4)), labelled=labelled), Pool.of((), ())):
        assert STRATEGIES[name](pool, 1, OPTIONS).ranked(()) == []


@EVERY
def test_cases_of_which_nothing_is_known_are_ranked_at_random(name: str) -> None:
    pool = Pool.of([f"case {i}" for i in range(30)], ("liver",), versions=[-1] * 30)
    orders = [order_of(STRATEGIES[name](pool, seed, OPTIONS), pool) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == sorted(pool.ids)
    assert list(pool.ids) not in orders


@EVERY
def test_a_single_case_comes_first(name: str) -> None:
    known = random_pool(5, count=1, holes=0.0)
    for pool in (known, Pool.of(["only"], ()), Pool.of(["only"], ("liver",), embeddings=[[1.0]])):
        assert STRATEGIES[name](pool, 1, OPTIONS).order.tolist() == [0]


@EVERY
def test_equal_cases_are_ordered_by_the_seed(name: str) -> None:
    count = 20
    pool = Pool.of(
        [f"case {i:02d}" for i in range(count)],
        ("liver",),
        quantities={quantity: np.full((count, 1), 0.5) for quantity in QUANTITIES},
        volumes_ml=np.ones((count, 1)),
        presence=np.ones((count, 1)),
        embeddings=np.ones((count, 3)),
        labelled=Labelled.of(["l"], [[True]], [[0.0, 0.0, 0.0]]),
    )
    first, second = (order_of(STRATEGIES[name](pool, seed, OPTIONS), pool) for seed in (1, 2))
    assert first != second
    assert sorted(first) == sorted(second) == list(pool.ids)


@pytest.mark.parametrize("name", ["random", "entropy", "bald", "margin", "disagreement"])
def test_a_case_that_joins_does_not_move_the_others(name: str) -> None:
    pool = random_pool(8, count=20)
    before = order_of(STRATEGIES[name](pool, 1, OPTIONS), pool)
    fewer = pool.take([i for i in range(20) if pool.ids[i] != before[-1]])
    assert order_of(STRATEGIES[name](fewer, 1, OPTIONS), fewer) == before[:-1]


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_each_uncertainty_ranks_by_the_mean_of_its_own_table(quantity: str) -> None:
    others = np.array([[0.9, 0.9], [0.1, 0.1], [0.2, 0.2], [0.3, 0.3]])
    mine = np.array([[0.1, 0.3], [NAN, 0.6], [NAN, NAN], [0.4, 0.5]])
    tables = {name: mine if name == quantity else others for name in QUANTITIES}
    pool = Pool.of("abcd", ("liver", "cyst"), quantities=tables)
    ranking = STRATEGIES[quantity](pool, 0, OPTIONS)
    assert order_of(ranking, pool) == ["b", "d", "a", "c"]
    np.testing.assert_allclose(ranking.scores, [0.2, 0.6, NAN, 0.45])
    unit = " nats" if quantity in ("entropy", "bald") else ""
    assert f"0.450{unit} over 2 labels, highest in cyst (0.500)" in ranking.reasons[3]
    assert WORDS[quantity][0] in ranking.reasons[2].partition("its model told no ")[2]
    assert ("uncertainty.kind dropout, tta or ensemble" in ranking.reasons[2]) == (quantity in SAMPLED)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_case_ranks_by_the_mean_over_the_labels_that_it_shows_however_many_others_are_absent(quantity: str) -> None:
    """Labels that are sure to be absent have a small value, as the predictor tells it, which is no part of the mean."""
    one, four = [0.6, 0.02, 0.02, 0.02], [0.6, 0.6, 0.6, 0.6]
    pool = Pool.of(
        ("one of four", "all four", "half", "may show two"),
        ("liver", "spleen", "aorta", "cyst"),
        quantities={quantity: [one, four, [0.3, 0.3, 0.01, 0.0], [0.6, 0.4, 0.02, 0.02]]},
        volumes_ml=[[5, 0, 0, 0], [5, 5, 5, 5], [5, 5, 0, 0], [5, 0, 0, 0]],
        presence=[[1, 0.003, 0.003, 0.003], [1, 1, 1, 1], [1, 1, 0.001, 0], [1, 0.3, 0.003, 0.003]],
    )
    ranking = STRATEGIES[quantity](pool, 0, OPTIONS)
    np.testing.assert_allclose(ranking.scores, [0.6, 0.6, 0.3, 0.5])
    assert "over 1 label, highest in liver (0.600)" in ranking.reasons[0]
    assert order_of(ranking, pool)[2:] == ["may show two", "half"]


def test_the_quota_of_plain_uncertainty_does_not_sink_cases_with_few_organs_either() -> None:
    values = [[0.5, 0.0, 0.0], [0.4, 0.4, 0.4]]
    shown = [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    pool = Pool.of("ab", ("liver", "spleen", "aorta"), quantities={"entropy": values}, volumes_ml=shown, presence=shown)
    quota = classwise_quotas(pool, 0, OPTIONS)[0]
    assert quota.order.tolist() == [0, 1]
    np.testing.assert_allclose(quota.scores, [0.5, 0.4])


def test_a_case_that_shows_nothing_comes_behind_those_that_show_something() -> None:
    pool = Pool.of(
        "ab", ("liver",), quantities={"entropy": [[0.3], [0.1]]}, volumes_ml=[[0], [1]], presence=[[0.05], [1]]
    )
    ranking = STRATEGIES["entropy"](pool, 0, OPTIONS)
    assert order_of(ranking, pool) == ["b", "a"]
    np.testing.assert_allclose(ranking.scores, [NAN, 0.1])
    assert ranking.reasons[0].endswith("the model found nothing in it")


def test_only_a_case_that_no_model_has_seen_is_called_so() -> None:
    pool = Pool.of("ab", ("liver",), versions=[1, -1])
    reasons = STRATEGIES["bald"](pool, 0, OPTIONS).reasons
    assert reasons[0].endswith(
        "told no mutual information; it needs samples of the model (uncertainty.kind dropout, tta or ensemble)"
    )
    assert reasons[1].endswith("never scored: no model has seen it")


def test_scores_of_an_older_model_are_used_and_called_so() -> None:
    pool = Pool.of("ab", ("liver",), quantities={"entropy": [[0.9], [0.1]]}, versions=[3, 5])
    ranking = STRATEGIES["entropy"](pool, 0, OPTIONS)
    assert order_of(ranking, pool) == ["a", "b"]
    assert ranking.reasons[0].endswith("highest in liver (0.900) (scored by version 3, the champion is 5)")
    assert "by model" not in ranking.reasons[1]
    assert not any("by model" in reason for reason in STRATEGIES["random"](pool, 0, OPTIONS).reasons)


@pytest.mark.parametrize("name", BY_EMBEDDING)
def test_only_embeddings_of_one_model_are_compared(name: str) -> None:
    """Old embeddings, those of labelled cases too, may be anything: they change nothing."""

    def ranked(old: float) -> tuple[list[str], tuple[str, ...]]:
        pool = Pool.of(
            "abcde",
            ("liver",),
            quantities={"entropy": [[0.1], [0.2], [0.3], [0.9], [0.8]]},
            embeddings=[[0.0, 0.0], [1.0, 0.0], [5.0, 0.0], [old, old], [NAN, 0.0]],
            versions=[2, 2, 2, 1, 2],
            labelled=Labelled.of(["new", "old"], [[True], [True]], [[0.0, 1.0], [old, 0.0]], [2, 1]),
        )
        ranking = STRATEGIES[name](pool, 1, OPTIONS)
        return order_of(ranking, pool), ranking.reasons

    order, reasons = ranked(0.5)
    assert (order, reasons) == ranked(1000.0)
    if name in ("diverse", "typical"):
        assert order[3:] == ["d", "e"]  # behind, the less certain one first
        assert all("no embedding to compare it by" in reason for reason in reasons[3:])
