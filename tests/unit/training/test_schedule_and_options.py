import pytest
import torch

from lib.core.errors import InvalidSettings
from lib.training.config import AugmentConfig, FitConfig
from lib.training.run import follow
from lib.training.schedule import Budget, rate_factor


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_the_rate_rises_in_the_warm_up_and_falls_to_zero(schedule: str) -> None:
    factors = [rate_factor(step / 100, 0.1, schedule) for step in range(101)]  # type: ignore[arg-type]
    assert factors[0] == 0.0
    assert factors[5] == pytest.approx(0.5)
    assert factors[10] == pytest.approx(1.0)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0.0, abs=1e-12)
    assert factors[55] == pytest.approx(0.5 if schedule == "cosine" else 0.5**0.9)


def test_a_constant_rate_stays_at_its_peak_after_the_warm_up() -> None:
    assert [rate_factor(share, 0.1, "constant") for share in (0.05, 0.1, 0.6, 1.0)] == pytest.approx([0.5, 1, 1, 1])
    assert [rate_factor(share, 0.0, "constant") for share in (0.0, 1.0)] == [1.0, 1.0]


def test_a_trapezoid_keeps_its_peak_until_the_last_three_tenths() -> None:
    shares = (0.0, 0.05, 0.1, 0.5, 0.7, 0.85, 1.0)
    assert [rate_factor(share, 0.1, "trapezoid") for share in shares] == pytest.approx([0, 0.5, 1, 1, 1, 0.5, 0])
    assert [rate_factor(share, 0.9, "trapezoid") for share in (0.45, 0.88, 0.97)] == pytest.approx([0.5, 0.4, 0.1])


def test_a_budget_ends_with_whichever_share_is_larger() -> None:
    now = [0.0]
    budget = Budget(steps=100, seconds=60.0, clock=lambda: now[0])
    assert budget.progress(25) == 0.25
    now[0] = 30.0
    assert budget.progress(25) == 0.5
    assert budget.left_s(25) == pytest.approx(30.0)
    assert budget.progress(100) == 1.0
    now[0] = 90.0
    assert budget.progress(25) == 1.0
    assert Budget(100, None, lambda: 1e9).progress(10) == 0.1


def test_an_average_moves_by_its_share_and_copies_counters() -> None:
    average, network = torch.nn.BatchNorm2d(1), torch.nn.BatchNorm2d(1)
    torch.nn.init.constant_(network.weight, 3.0)
    network.running_mean.fill_(10.0)  # type: ignore[union-attr]
    network.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    follow(average, network, decay=0.9)
    assert average.weight.item() == pytest.approx(1.2)
    assert average.running_mean.item() == pytest.approx(1.0)  # type: ignore[union-attr]
    assert average.num_batches_tracked == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "training.steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"foreground": 1.5}, "from 0 to 1, got 1.5"),
        ({"warmup": 1.0}, "warmup must be at least 0 and below 1"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"max_minutes": 0}, "max_minutes must be positive"),
        ({"schedule": "step"}, "schedule must be one of"),
        ({"crop": (0, 8)}, "two positive numbers"),
    ],
)
def test_a_wrong_option_is_refused_with_what_came(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        FitConfig(**options)  # type: ignore[arg-type]


def test_a_wrong_augmentation_is_refused() -> None:
    with pytest.raises(InvalidSettings, match=r"noise is out of range, got 1\.5"):
        AugmentConfig(noise=1.5)
    with pytest.raises(InvalidSettings, match="flips may hold"):
        AugmentConfig(flips=("left",))  # type: ignore[arg-type]
