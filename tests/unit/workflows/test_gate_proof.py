from dataclasses import replace

import numpy as np
import pytest

from lib.core.errors import InvalidInput, InvalidSettings
from lib.workflows.comparison import Comparison, anchor_intervals, label_intervals
from lib.workflows.config import GateConfig
from lib.workflows.gate import weigh
from lib.workflows.paired import bound, by_patient, patients_needed, resampled_means

CONFIG = GateConfig(
    margin=0.02,
    alpha=0.05,
    resamples=1000,
    min_patients=5,
    calibration_slack=0.02,
    latency_factor=1.5,
    golden=(),
    golden_drop=0.01,
    seed=0,
)


def compared(gain, patients=12, noise=0.004, newest=None, **more) -> Comparison:
    """Two labels, one case a patient; the challenger's Dice differ by `gain` (one number, or one a label)."""
    rng = np.random.default_rng(1)
    champion = rng.uniform(0.7, 0.9, (patients, 2))
    challenger = champion + np.asarray(gain) + noise * rng.standard_normal((patients, 2))
    marks = np.zeros(patients, bool) if newest is None else newest
    names = tuple(f"p{number:02d}" for number in range(patients))
    return Comparison(3, ("liver", "spleen"), ("liver", "spleen"), names, champion, challenger, marks, **more)


def test_a_challenger_that_gains_on_the_mean_and_loses_nowhere_passes():
    verdict = weigh(compared(0.03), CONFIG)
    assert verdict.promote
    assert verdict.reason.startswith(
        "better on 12 promotion patients against version 3: mean of the common labels +0.0"
    )
    assert (verdict.champion, verdict.patients, verdict.missing) == (3, 12, 0)
    assert verdict.mean.difference == pytest.approx(0.03, abs=0.004)
    assert 0 < verdict.mean.lower < verdict.mean.difference < verdict.mean.upper


def test_one_lost_label_outweighs_any_gain_of_the_mean():
    verdict = weigh(compared((0.2, -0.03)), CONFIG)
    assert not verdict.promote
    assert "spleen -0.0" in verdict.reason
    assert "is not shown to lack at most 0.02" in verdict.reason
    assert "liver" not in verdict.reason
    assert [label.holds for label in verdict.labels] == [True, False]


def test_a_label_is_held_against_the_version_that_had_it_best_of_all_that_served():
    of = compared((0.03, -0.005))
    spleen = np.array([0.0, 0.01]), np.array([0.0, 0.03])
    served = {1: of.champion + spleen[1], 2: of.champion + spleen[0]}
    verdict = weigh(replace(of, served=served), CONFIG)
    assert weigh(of, CONFIG).promote
    assert not verdict.promote
    liver, spleen = verdict.anchored
    assert (liver.name, liver.holds) == ("liver", True)
    assert (spleen.name, spleen.against, spleen.patients, spleen.holds) == ("spleen", 1, 12, False)
    assert spleen.difference == pytest.approx(verdict.labels[1].difference - 0.03)
    assert "of version 1, the best before the champion in this label" in verdict.reason
    assert verdict.labels == weigh(of, CONFIG).labels


def test_a_former_version_that_is_nowhere_better_than_the_champion_stops_nobody():
    of = compared(0.03)
    verdict = weigh(replace(of, served={1: of.champion - 0.01, 2: of.champion}), CONFIG)
    assert [(label.against, label.holds) for label in verdict.anchored] == [(2, True), (2, True)]
    assert replace(verdict, anchored=()) == weigh(of, CONFIG)


def test_a_lead_of_the_champion_that_chance_may_have_made_spares_the_challenger_no_test():
    of = compared(0.01, patients=20)
    wide = np.array([0.15, 0.0]) * np.random.default_rng(5).standard_normal((20, 2))
    former = of.champion - 0.001 - (wide - wide.mean(axis=0))
    verdict = weigh(replace(of, served={1: former}), CONFIG)
    liver, spleen = verdict.anchored
    assert weigh(of, CONFIG).promote
    assert liver.difference > 0.005  # the champion leads, and the challenger more so
    assert (liver.holds, spleen.holds, verdict.promote) == (False, True, False)
    assert verdict.missing == liver.needed - 20 > 50


def test_who_is_as_bad_as_the_margin_against_a_former_version_passes_no_more_often_than_alpha():
    passed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        champion = np.full((20, 1), 0.8)
        challenger = champion + 0.02 * rng.standard_normal((20, 1))
        former = champion + CONFIG.margin + 0.1 * rng.standard_normal((20, 1))
        names = tuple(f"p{number:02d}" for number in range(20))
        of = Comparison(3, ("liver",), ("liver",), names, champion, challenger, np.zeros(20, bool), served={1: former})
        passed += all(label.holds for label in anchor_intervals(of, -CONFIG.margin, CONFIG.alpha, 200, seed))
    assert passed / 200 <= CONFIG.alpha + 0.03  # twice the standard error of 200 draws; 15 % where a lead decides


def test_a_former_version_that_rightly_found_nothing_is_the_better_one():
    of = compared(0.01, patients=20)
    of.champion[:2, 1] = of.challenger[:2, 1] = 0.0  # both find what is not there
    former = of.champion.copy()
    former[:2, 1] = np.nan
    _, anchor = weigh(replace(of, served={1: former}), CONFIG).anchored
    assert anchor.difference == pytest.approx((of.challenger - of.champion)[:, 1].mean() - 2 / 20)


def test_an_equal_challenger_stays_out_for_want_of_a_gain():
    verdict = weigh(compared(0.0, noise=0.0), CONFIG)
    assert not verdict.promote
    assert all(label.holds for label in verdict.labels)
    assert "no gain is shown: mean of the common labels +0.0000" in verdict.reason


def test_too_few_patients_keep_the_champion_and_are_counted():
    verdict = weigh(compared(0.2, patients=3), CONFIG)
    assert (verdict.promote, verdict.patients, verdict.missing) == (False, 3, 2)
    assert "liver 3, spleen 3 of 5" in verdict.reason
    assert verdict.reason.endswith("2 more promotion patients are needed to decide")


def test_fewer_than_three_patients_decide_nothing():
    assert replace(CONFIG, min_patients=3).min_patients == 3
    with pytest.raises(InvalidSettings, match=r"gate.min_patients must be at least 3.*2"):
        replace(CONFIG, min_patients=2)


def test_no_patient_at_all_is_too_few():
    verdict = weigh(compared(0.2, patients=0), CONFIG)
    assert (verdict.promote, verdict.missing) == (False, 5)


def test_a_label_that_too_few_patients_show_keeps_the_champion():
    of = compared(0.05)
    of.champion[2:, 1] = of.challenger[2:, 1] = np.nan
    verdict = weigh(of, CONFIG)
    assert (verdict.promote, verdict.missing) == (False, 3)
    assert "(spleen 2 of 5)" in verdict.reason


def test_a_wide_spread_asks_for_the_patients_that_it_would_take():
    of = compared(0.0, patients=8, noise=0.06)
    verdict = weigh(of, CONFIG)
    spread = np.std((of.challenger - of.champion), axis=0, ddof=1)
    needed = np.ceil(((1.6449 + 0.8416) * spread / 0.02) ** 2)
    assert verdict.missing == max(needed) - 8 > 10


def test_a_gain_on_the_newest_cases_is_enough_where_the_mean_does_not_fall():
    newest = np.arange(40) < 10
    gain = np.where(newest, 0.03, 0.0)[:, None] * np.ones(2)
    of = compared(gain, patients=40, noise=0.03, newest=newest)
    alone = weigh(compared(gain, patients=40, noise=0.03), CONFIG)
    verdict = weigh(of, CONFIG)
    assert (alone.promote, verdict.promote) == (False, True)
    assert (verdict.mean.holds, verdict.newest.holds, verdict.newest.patients) == (False, True, 10)
    assert "mean on the newest cases +0.0" in verdict.reason
    falling = weigh(compared(np.where(newest, 0.03, -0.012)[:, None] * np.ones(2), 40, 0.004, newest), CONFIG)
    assert falling.newest.holds
    assert falling.mean.difference < 0
    assert all(label.holds for label in falling.labels)
    assert not falling.promote


def test_both_ways_to_a_gain_share_the_error_rate():
    newest = np.arange(12) < 6
    with_newest, without = weigh(compared(0.01, newest=newest), CONFIG), weigh(compared(0.01), CONFIG)
    assert with_newest.mean.lower < without.mean.lower
    assert with_newest.labels == without.labels


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"calibration_error": (0.03, 0.051)}, "calibration error 0.051 against 0.030, allowed 0.02 more"),
        ({"seconds": (1.0, 1.6)}, "time a case 1.60 s against 1.00 s, allowed 1.5 times as much"),
        ({"golden": {"1.2.3": -0.011}}, "golden case 1.2.3 changed by -0.0110, allowed -0.01"),
    ],
)
def test_a_gain_does_not_pay_for_calibration_time_or_golden_cases(more, said):
    verdict = weigh(compared(0.03, **more), CONFIG)
    assert not verdict.promote
    assert said in verdict.reason


def test_costs_within_their_bounds_pass():
    fine = {"calibration_error": (0.03, 0.05), "seconds": (1.0, 1.5), "golden": {"1.2.3": -0.01}}
    assert weigh(compared(0.03, **fine), CONFIG).promote


def test_cases_of_one_patient_count_as_one():
    values = np.array([[0.8, np.nan], [0.6, 0.5], [0.9, np.nan]])
    assert by_patient(values, ("b", "b", "a"))[:, 0] == pytest.approx([0.9, 0.7])
    assert np.isnan(by_patient(values, ("b", "b", "a"))[0, 1])
    of = compared(0.03, patients=12)
    doubled = Comparison(
        3, of.labels, of.common, of.patients * 2, *(np.tile(a, (2, 1)) for a in (of.champion, of.challenger)),
        np.tile(of.newest, 2),
    )  # fmt: skip
    assert weigh(doubled, CONFIG).mean == weigh(of, CONFIG).mean


def test_finding_what_is_not_there_costs_the_whole_case():
    of = compared(0.0, patients=6, noise=0.0)
    of.champion[0, 1] = np.nan  # nothing there, and nothing found
    of.challenger[0, 1] = 0.0
    (_, spleen) = label_intervals(of, -0.02, 0.05, 1000, 0)
    assert spleen.difference == pytest.approx(-1 / 6)


def test_the_order_of_the_cases_does_not_matter():
    of = compared(0.01)
    order = np.random.default_rng(0).permutation(12)
    shuffled = Comparison(
        3,
        of.labels,
        of.common,
        tuple(of.patients[n] for n in order),
        of.champion[order],
        of.challenger[order],
        of.newest,
    )
    assert weigh(shuffled, CONFIG) == weigh(of, CONFIG)


def test_the_bound_of_few_normal_differences_errs_as_often_as_it_says():
    wrong = 0
    for seed in range(600):
        values = np.random.default_rng(seed).normal(0.0, 0.05, (8, 1))
        lower = bound(resampled_means(values, 400, seed)[:, 0], 8, 0.05)
        wrong += lower > 0
    assert 0.03 < wrong / 600 < 0.075  # plain percentiles of eight err in about 9 %


def test_the_number_of_patients_grows_with_the_square_of_the_spread():
    assert patients_needed(0.04, 0.02, 0.05) == 25  # (1.645 + 0.842)^2 * 4 = 24.7
    assert patients_needed(0.08, 0.02, 0.05) == 99
    assert patients_needed(0.08, 0.0, 0.05) is None


def test_figures_of_other_shapes_are_refused():
    with pytest.raises(InvalidInput, match=r"needs Dice \(2, 1\)"):
        Comparison(1, ("a",), ("a",), ("p", "q"), np.zeros((2, 1)), np.zeros((3, 1)), np.zeros(2, bool))
    of = compared(0.0)
    with pytest.raises(InvalidInput, match=r"Dice \(12, 2\) of each model"):
        replace(of, served={1: of.champion[1:]})
    with pytest.raises(InvalidInput, match="common labels"):
        Comparison(1, ("a",), ("b",), ("p",), np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1, bool))


def test_a_verdict_is_plain_values_for_json():
    values = weigh(compared(0.03), CONFIG).to_dict()
    assert values["labels"][0]["name"] == "liver"
    assert values["margin"] == 0.02
