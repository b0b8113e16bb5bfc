"""Many simulated nights: what a gate lets through when the truth is known."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from lib.workflows.comparison import Comparison
from lib.workflows.config import GateConfig
from lib.workflows.gate import weigh

CONFIG = GateConfig(
    margin=0.02,
    alpha=0.05,
    resamples=200,
    min_patients=5,
    calibration_slack=0.02,
    latency_factor=1.5,
    golden=(),
    golden_drop=0.01,
    seed=0,
)
LABELS = ("a", "b", "c")
NIGHTS = 200
Gate = Callable[[Comparison], bool]


@dataclass(frozen=True)
class Nights:
    """What happened.

    Attributes:
        worse: whether a challenger truly worse on the mean passed, by night with such a challenger.
        better: the same of those better by at least the margin.
        drawdown: largest fall of the champion's true mean below its best so far.
        gained: true mean of the last champion minus that of the first.
    """

    worse: tuple[bool, ...]
    better: tuple[bool, ...]
    drawdown: float
    gained: float


def live(gate: Gate, seed: int, anew: bool, patients: int = 40) -> Nights:
    """Nights whose stub fit draws a challenger around the champion: mostly a little worse, at times a leap.

    A model's Dice on a patient is its true Dice, plus how hard the patient is, plus what this model makes
    of this patient. On frozen patients the champion keeps that luck for as long as it serves.

    Args:
        gate: decides.
        seed: of everything.
        anew: whether each night has other patients, as where new ones keep coming.
        patients: of the promotion set.
    """
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.05, (patients, 1))
    names = tuple(f"p{number:02d}" for number in range(patients))

    def measured(truth: np.ndarray) -> np.ndarray:
        return truth + hard + rng.normal(0, 0.04, (patients, len(LABELS)))

    champion = np.full(len(LABELS), 0.7)
    seen, best, first = measured(champion), 0.7, 0.7
    worse, better, drawdown = [], [], 0.0
    for _ in range(NIGHTS):
        leap = 0.03 if rng.random() < 0.05 else rng.normal(-0.004, 0.006)
        challenger = np.minimum(champion + leap + rng.normal(0, 0.002, len(LABELS)), 0.95)
        seen, shown = measured(champion) if anew else seen, measured(challenger)
        change = challenger.mean() - champion.mean()
        passes = gate(Comparison(1, LABELS, LABELS, names, seen, shown, np.arange(patients) < patients // 2))
        if change < 0:
            worse.append(passes)
        if change >= CONFIG.margin:
            better.append(passes)
        if passes:
            champion, seen = challenger, shown
        best = max(best, champion.mean())
        drawdown = max(drawdown, best - champion.mean())
    return Nights(tuple(worse), tuple(better), drawdown, champion.mean() - first)


def ours(of: Comparison) -> bool:
    return weigh(of, CONFIG).promote


def higher_mean(of: Comparison) -> bool:
    """What most systems do."""
    return bool(of.challenger.mean() > of.champion.mean())


@pytest.fixture(scope="module", params=["frozen", "anew"])
def gated(request) -> list[Nights]:
    return [live(ours, seed, request.param == "anew") for seed in range(2)]


@pytest.fixture(scope="module")
def naive() -> list[Nights]:
    return [live(higher_mean, seed, anew=True) for seed in range(6)]


def test_the_champions_true_quality_never_falls_by_more_than_the_margin(gated):
    assert max(nights.drawdown for nights in gated) <= CONFIG.margin


def test_worse_challengers_pass_no_more_often_than_the_error_rate(gated):
    passed = [passes for nights in gated for passes in nights.worse]
    assert len(passed) > 250
    assert np.mean(passed) <= CONFIG.alpha


def test_challengers_that_are_clearly_better_pass_often_enough_to_learn(gated):
    assert np.mean([passes for nights in gated for passes in nights.better]) >= 0.8
    assert min(nights.gained for nights in gated) >= 0.1


def test_comparing_means_lets_worse_ones_pass_beyond_the_error_rate_and_loses_more_than_the_margin(naive):
    assert np.mean([passes for nights in naive for passes in nights.worse]) > 3 * CONFIG.alpha
    assert max(nights.drawdown for nights in naive) > CONFIG.margin
