"""The gate: may a challenger replace the champion? Pure; figures in, verdict and reason out."""

from dataclasses import dataclass

ROUNDING = 1e-9
"""Differences of Dice below this come from binary fractions."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says.

    Attributes:
        promote: whether the challenger serves from now on.
        reason: in words, with the figures.
    """

    promote: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Champion:
    """Who has to be matched.

    Attributes:
        version: of the champion; None when not even that can be read.
        dice: its mean Dice on the same cases as the challenger's; None when there are no cases.
        misfit: why it cannot serve the task any more; empty when it can.
    """

    version: int | None
    dice: float | None
    misfit: str = ""


def judge(challenger_dice: float | None, champion: Champion | None, tolerance: float, cases: int) -> Verdict:
    """Promote a challenger whose mean Dice is not lower by more than the tolerance.

    Args:
        challenger_dice: mean Dice on the calibration cases, in [0, 1]; None without cases.
        champion: who serves now; None when nobody does.
        tolerance: Dice that the challenger may lack.
        cases: number of calibration cases that both were measured on.
    """
    if champion is None:
        return Verdict(True, f"the first model of this task; mean Dice {_shown(challenger_dice)} on {cases} cases")
    if champion.misfit:
        return Verdict(True, f"the champion cannot serve any more: {champion.misfit}")
    if challenger_dice is None or champion.dice is None:
        return Verdict(False, "no accepted label of a calibration patient: nothing shows that it is not worse")
    figures = (
        f"mean Dice {_shown(challenger_dice)} against {_shown(champion.dice)} of version {champion.version} "
        f"on {cases} calibration cases, tolerance {tolerance:g}"
    )
    if challenger_dice >= champion.dice - tolerance - ROUNDING:
        return Verdict(True, f"not worse: {figures}")
    return Verdict(False, f"worse: {figures}")


def _shown(dice: float | None) -> str:
    return "unknown" if dice is None else f"{dice:.4f}"
