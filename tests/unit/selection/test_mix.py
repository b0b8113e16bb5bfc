"""The default strategy: its quotas, its cold start, and what it is for."""

from dataclasses import replace

import numpy as np
import pytest

from lib.core.errors import InvalidSettings
from lib.selection.cases import Labelled
from lib.selection.config import Mix
from lib.selection.mix import mixed_quotas
from lib.selection.pool import Pool
from lib.selection.strategies import STRATEGIES
from pools import OPTIONS, line

default = STRATEGIES["default"]


def full_pool(count: int = 60, labelled: int = 10) -> Pool:
    chance = np.random.default_rng(0)
    return Pool.of(
        [f"case {i}" for i in range(count)],
        ("liver", "cyst"),
        rare=("cyst",),
        quantities={"entropy": chance.random((count, 2))},
        volumes_ml=np.ones((count, 2)),
        presence=chance.random((count, 2)),
        embeddings=chance.normal(size=(count, 3)),
        labelled=Labelled.of(
            [f"l{i}" for i in range(labelled)], np.ones((labelled, 2)), chance.normal(size=(labelled, 3))
        ),
    )


def test_each_part_has_its_quota() -> None:
    pool = full_pool()
    options = replace(OPTIONS, mix=Mix(5, 3, 1, 1), presence_share=2 / 3, entropy_share=0.4, site_cap=1.0)
    ranking = default(pool, 1, options)
    reasons = [ranking.reasons[i] for i in ranking.order[:50]]
    wanted = {
        "plain entropy": 10,
        "drawn by its uncertainty of": 15,
        "the rare label cyst": 10,
        "cases unlike the labelled": 5,
        "quota of typical": 5,
        "cases far from": 5,
    }
    for words, count in wanted.items():
        assert abs(sum(words in reason for reason in reasons) - count) <= 2, words


def test_places_of_a_rare_label_that_nothing_shows_go_to_plain_uncertainty() -> None:
    pool = replace(full_pool(), presence=np.tile([1.0, 0.0], (60, 1)), volumes_ml=np.tile([1.0, 0.0], (60, 1)))
    names = [quota.name for quota in mixed_quotas(pool, 1, OPTIONS)]
    assert names[names.index("the rare label cyst") + 1] == "plain entropy"
    ranking = default(
        pool, 1, replace(OPTIONS, mix=Mix(1, 1, 0, 0), presence_share=1.0, entropy_share=0.0, site_cap=1.0)
    )
    assert not any("rare label" in reason for reason in ranking.reasons)


def test_a_cold_start_takes_the_first_strategy_that_has_something_to_go_by() -> None:
    with_embeddings = Pool.of("abc", ("liver",), volumes_ml=np.ones((3, 1)), embeddings=line([0, 1, 3]))
    with_foreground = Pool.of("abc", ("liver",), volumes_ml=np.ones((3, 1)))
    with_nothing = Pool.of("abc", ("liver",))
    names = [
        default(pool, 1, OPTIONS).reasons[0].split("so ")[1].split(":")[0]
        for pool in (with_embeddings, with_foreground, with_nothing)
    ]
    assert names == ["typical", "foreground_random", "stratified_random"]
    typical = STRATEGIES["typical"](with_embeddings, 1, OPTIONS)
    assert default(with_embeddings, 1, OPTIONS).order.tolist() == typical.order.tolist()
    chosen = default(with_embeddings, 1, replace(OPTIONS, cold_strategy="foreground_random"))
    assert ": 0 labelled, fewer than 3, so foreground_random: the label drawn is liver" in chosen.reasons[0]
    assert "so typical" not in default(full_pool(labelled=3), 1, OPTIONS).reasons[0]


def rare_ones_found(name: str, seed: int) -> int:
    """Cysts among 15 labelled cases: 3 to begin with, one of them with a cyst, then 4 rounds of 3.

    The stand-in for a model is cautious: it finds seven cysts in ten with a false alarm in each tenth other case; its
    uncertainty and the embeddings know nothing of cysts.
    """
    chance = np.random.default_rng(seed)
    count, cyst = 80, np.zeros(80, dtype=bool)
    cyst[:8] = True
    embeddings, labelled = chance.normal(size=(count, 4)), [0, 8, 9]
    for turn in range(4):
        left = [i for i in range(count) if i not in labelled]
        shown = np.where(cyst, chance.random(count) < 0.7, chance.random(count) < 0.1)
        sure = np.where(shown, np.where(cyst, chance.uniform(0.7, 1, count), chance.uniform(0.5, 0.9, count)), 0.01)
        volumes = shown * np.where(cyst, chance.lognormal(0, 0.5, count), chance.lognormal(-1, 0.5, count))
        pool = Pool.of(
            [f"case {i}" for i in left],
            ("liver", "cyst"),
            rare=("cyst",),
            quantities={"entropy": chance.uniform(0.4, 0.6, (count, 2))[left]},
            volumes_ml=np.column_stack([np.ones(count), volumes])[left],
            presence=np.column_stack([np.ones(count), sure])[left],
            embeddings=embeddings[left],
            labelled=Labelled.of(
                [f"case {i}" for i in labelled],
                np.column_stack([np.ones(len(labelled)), cyst[labelled]]),
                embeddings[labelled],
            ),
        )
        labelled += [left[i] for i in STRATEGIES[name](pool, 4 * seed + turn, OPTIONS).order[:3]]
    return int(cyst[labelled].sum())


def test_in_a_small_budget_it_finds_more_of_a_rare_label_than_drawing_its_predictions() -> None:
    found = {name: [rare_ones_found(name, seed) for seed in range(12)] for name in ("default", "foreground_random")}
    gains = np.array(found["default"]) - np.array(found["foreground_random"])
    assert gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(len(gains))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 0}, "selection.depth must be at least 1, got 0"),
        ({"entropy_share": 1.5}, "selection.entropy_share must be from 0 to 1, got 1.5"),
        ({"site_cap": 0}, "selection.site_cap must be above 0 and at most 1, got 0"),
        ({"patient_cap": -1}, "selection.patient_cap must be 0 or more, got -1"),
        ({"power_first": 0.0}, "selection.power_first must be above 0, got 0"),
        ({"power_last": 0.5}, "selection.power_last must be at least power_first, got 0.5"),
        ({"rare_weight": 0.5}, "selection.rare_weight must be at least 1, got 0.5"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        replace(OPTIONS, **wrong)


def test_a_mix_needs_a_share() -> None:
    with pytest.raises(InvalidSettings, match=r"selection.mix.rare must be 0 or more, got -1"):
        Mix(1, -1, 0, 0)
    with pytest.raises(InvalidSettings, match=r"selection.mix, its sum, must be above 0, got 0"):
        Mix(0, 0, 0, 0)
