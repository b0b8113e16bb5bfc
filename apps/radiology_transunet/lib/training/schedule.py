"""How far a run is, and how fast it learns there."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi

from lib.training.config import Schedule

POLY_POWER = 0.9
FALL = 0.3
"""Share of a run in which a trapezoid falls."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Steps and seconds of a run; whichever is used up first ends it.

    Attributes:
        steps: of the whole run.
        seconds: of the whole run, or None.
        clock: seconds since the run began, over all its parts when it was resumed.
    """

    steps: int
    seconds: float | None
    clock: Callable[[], float]

    def progress(self, step: int) -> float:
        """Share of the run that is over after `step` steps, in [0, 1]: the larger of both budgets' shares."""
        share_of_time = 0.0 if self.seconds is None else self.clock() / self.seconds
        return min(1.0, max(step / self.steps, share_of_time))

    def left_s(self, step: int) -> float:
        """Estimated seconds to go, from the pace so far."""
        progress = max(self.progress(step), 1e-6)
        return self.clock() * (1 - progress) / progress


def rate_factor(progress: float, warmup: float, schedule: Schedule) -> float:
    """Factor of the peak learning rate at a progress in [0, 1]: linear warm-up, then down to zero unless constant.

    Args:
        progress: share of the run that is over.
        warmup: share of the run in which the rate rises.
        schedule: "cosine", or "poly": (1 - x) ** 0.9, or "constant": 1, or "trapezoid": 1 until the last three tenths
            of the run, then straight down (Haegele et al. 2024, arXiv:2405.18392).
    """
    rise = progress / warmup if progress < warmup else 1.0
    if schedule == "constant":
        return rise
    if schedule == "trapezoid":
        return min(rise, (1 - progress) / FALL)
    if progress < warmup:
        return rise
    rest = (progress - warmup) / (1 - warmup)
    return float((1 + cos(pi * rest)) / 2 if schedule == "cosine" else (1 - rest) ** POLY_POWER)
